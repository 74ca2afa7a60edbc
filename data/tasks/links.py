"""Entities of a passage from the links of the article that it was taken from, as LUKE's entities of SQuAD are found.

Where the texts of an article's links stand in a question or a passage, they are taken for mentions of what the links
lead to (Yamada et al., 2020, section 4.5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from data.tasks.named_entities import is_mark

Known = Mapping[str, int | None]  # lower-case text -> entity; None = one that the vocabulary lacks
Mention = tuple[int, int, int]  # first piece, one past the last, entity
LEAST = 0.01  # of a text's occurrences those that are links, for the text to count
LONGEST = 30  # pieces of a mention


def known_texts(links: Iterable[tuple[str, str, float]], id_of: Callable[[str], int | None]) -> dict[str, int | None]:
  """What the texts of an article's links mean.

  Args:
    links: (text, title that it leads to, share of the documents with the text in which it is a link).
    id_of: title -> entity, None where the vocabulary has none; redirects are its affair.

  Texts that lead to several titles are left out; those that lead to a title without an entity are kept, with None: they
  still are no mention of anything shorter inside them.
  """
  titles: dict[str, set[str]] = {}
  for text, title, probability in links:
    if probability >= LEAST:
      titles.setdefault(_normal(text), set()).add(title)
  return {text: id_of(*found) for text, found in titles.items() if len(found) == 1}


def find(text: str, offsets: np.ndarray, known: Known) -> list[Mention]:
  """(first piece, one past the last, entity) of the mentions in a text, from left to right, the longest first.

  A mention begins and ends where a mark or, after a space, a word begins, and has at most LONGEST pieces.

  Args:
    offsets: int32[n, 2], characters of the text's pieces.
  """
  if not known:
    return []
  edges = [i for i, (first, _) in enumerate(offsets.tolist()) if _is_edge(text, first)]
  found, done = [], 0
  for n, first in enumerate(edges):
    if first >= done:
      ends = [end for end in [*edges[n + 1 : n + 1 + LONGEST], len(offsets)] if end - first <= LONGEST]
      for end in reversed(ends):
        mention = _normal(text[offsets[first, 0] : offsets[end - 1, 1]])
        if mention in known:
          done, entity = end, known[mention]
          found += [] if entity is None else [(first, end, entity)]
          break
  return found


def inside(mentions: Sequence[Mention], first: int, end: int, column: int) -> list[tuple[int, np.ndarray]]:
  """(entity, columns) of the mentions whole within pieces `first` to `end`, the first of which stands in `column`."""
  shift = column - first
  return [(e, np.arange(a + shift, b + shift, dtype=np.int32)) for a, b, e in mentions if first <= a and b <= end]


def _is_edge(text: str, first: int) -> bool:
  return first == 0 or text[first - 1].isspace() or (first < len(text) and is_mark(text[first]))


def _normal(text: str) -> str:
  return " ".join(text.lower().split())
