"""Tags of named entities and the spans that they say: IOB1, IOB2 and BIOES (with L and U for E and S).

IOB1 (CoNLL-2003's files) writes B- only where a span follows another of its type at once; IOB2 at the beginning of
every span; BIOES also marks the last word of a span (E-) and a span of one word (S-).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from data.tasks.rows import TaskError

Span = tuple[int, int, str]  # first word, one past the last, type

SCHEMES = ("iob2", "iob1", "bioes")
_OUTSIDE = "O"
_LETTERS = {"U": "S", "L": "E"}


def split(tag: str) -> tuple[str, str]:
  """(letter, type) of a tag: ("B", "PER") of "B-PER" and ("O", "") of "O"; TaskError for what is neither."""
  letter, dash, kind = tag.partition("-")
  letter = _LETTERS.get(letter, letter)
  if tag == _OUTSIDE or (dash and kind and letter in ("B", "I", "E", "S")):
    return letter, kind
  raise TaskError(f"got tag {tag!r}, want O or one like B-PER")


def spans_of(tags: Sequence[str]) -> list[Span]:
  """The spans of a sentence's tags, by conlleval's rules, which read any of the schemes.

  A span begins at B or S, and at I or E after another type or after the end of a span; it ends before O, before the
  beginning of another, and behind E or S.
  """
  spans: list[Span] = []
  first, open_kind = 0, None
  for i, (letter, kind) in enumerate([*map(split, tags), (_OUTSIDE, "")]):
    begins = letter in ("B", "S") or (letter in ("I", "E") and kind != open_kind)
    if open_kind is not None and (begins or letter == _OUTSIDE):
      spans.append((first, i, open_kind))
      open_kind = None
    if begins:
      first, open_kind = i, kind
    if letter in ("E", "S"):
      spans.append((first, i + 1, kind))
      open_kind = None
  return spans


def tags_of(spans: Iterable[Span], size: int, scheme: str = "iob2") -> list[str]:
  """The tags of a sentence of `size` words for spans that do not overlap."""
  tags, before = [_OUTSIDE] * size, None
  for first, end, kind in sorted(spans):
    if tags[first] != _OUTSIDE:
      raise TaskError(f"tags: got spans over one another at word {first}, want them apart")
    tags[first:end] = [f"I-{kind}"] * (end - first)
    if scheme != "iob1" or before == (first, kind):
      tags[first] = f"B-{kind}"
    if scheme == "bioes":
      tags[end - 1] = f"{'S' if end - first == 1 else 'E'}-{kind}"
    before = (end, kind)
  return tags


def scheme_of(sentences: Sequence[Sequence[str]]) -> str:
  """The scheme that a file's tags are written in: the one that the fewest sentences break, of several the first."""
  return min(SCHEMES, key=lambda scheme: sum(check(tags, scheme) is not None for tags in sentences))


def check(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
  """(word, complaint) of the first tag that breaks `scheme`, None where they all keep it."""
  wanted = tags_of(spans_of(tags), len(tags), scheme)
  i = next((i for i, (tag, want) in enumerate(zip(tags, wanted)) if split(tag) != split(want)), None)
  if i is None:
    return None
  return i, f"got tag {tags[i]} after {tags[i - 1] if i else 'the start'}, want {wanted[i]} by {scheme}"
