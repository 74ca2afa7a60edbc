"""What the kinds of tokenizers share: checks of texts, encodings by the `tokenizers` library, parts of their files."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from data.tokenizers import OWN_FILE, WORDS, Encoding, Files, Tokenizer, TokenizerError
from data.tokenizers.added import Added, new_pieces
from data.tokenizers.wordsegments import word_starts

CONFIG_NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
_CHUNK = 1024  # texts handed to the library at once: its results are some 20 times the size of ours


class LibraryTokenizer(Tokenizer):
  """A tokenizer that the `tokenizers` library runs; subclasses set `plain` and `published`.

  Attributes:
    plain: finds no special pieces in the text and puts none around it.
    published: does both, as the published files do.
  """

  plain: tokenizers.Tokenizer
  published: tokenizers.Tokenizer

  def __init__(
    self,
    vocabulary: Sequence[str],
    specials: Sequence[str],
    source: str,
    words: str,
    begins: Sequence[bool],
    added: Added = (),
    marker: str | None = None,
  ):
    """Args not in `Tokenizer`'s:

    begins: which pieces begin a word.
    added: pieces that are found whole, and whether they are names, found only where special pieces are.
    marker: the piece that only says that a word follows.
    """
    super().__init__(vocabulary, specials, source)
    self._words, self._begins = words, np.array(begins, bool)
    self._marker = self._ids.get(marker, -1)
    self._named = tuple(piece for piece, is_name in added if is_name)
    self._plain = tuple(piece for piece, is_name in added if not is_name)
    special = self.special
    self._around = np.array([special.pad, special.cls, special.sep, special.mask, *map(self.id_of, self._named)])

  def _extended(self, pieces: Sequence[str], added: Added) -> tuple[tuple[str, ...], Added]:
    """Vocabulary and added pieces with these names behind them."""
    new = new_pieces(self, pieces, self._named.__contains__)
    return (*self.vocabulary, *new), (*added, *((piece, True) for piece in new))

  def encode(self, texts: list[str], specials: bool = False) -> list[Encoding]:
    check_list(texts)
    backend, encodings = self.published if specials else self.plain, []
    for first in range(0, len(texts), _CHUNK):
      chunk = list(texts[first : first + _CHUNK])
      for i, text in enumerate(chunk, first):
        check_text(text, i)
      encodings += self._encodings(chunk, backend.encode_batch(chunk))
    return encodings

  def _encodings(self, texts: Sequence[str], results: list[tokenizers.Encoding]) -> list[Encoding]:
    ends = np.cumsum([0, *map(len, results)])
    flat = itertools.chain.from_iterable
    ids = np.fromiter(flat(r.ids for r in results), np.int32, ends[-1])
    offsets = np.fromiter(flat(flat(r.offsets for r in results)), np.int32, 2 * ends[-1]).reshape(-1, 2)
    spans = [slice(first, end) for first, end in itertools.pairwise(ends)]
    if self._words == "text":
      markers = ids == self._marker
      starts = [text_starts(text, markers[span], offsets[span]) for text, span in zip(texts, spans, strict=True)]
    else:
      begins = self._starts(ids, ends[:-1][np.diff(ends) > 0])
      starts = [begins[span] for span in spans]
    return [Encoding(ids[span], offsets[span], start) for span, start in zip(spans, starts, strict=True)]

  def _starts(self, ids: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """Which pieces begin a word, by the pieces alone.

    Args:
      ids: int32[n], of many texts one after the other.
      firsts: where texts begin.
    """
    return self._begins[ids]

  def decode(self, ids: Iterable[int], specials: bool = False) -> str:
    ids = np.array(list(ids), np.int64)
    self.pieces(ids)  # an id outside the vocabulary is an error, the library would skip it
    kept = ids if specials else ids[~np.isin(ids, self._around)]
    return self.published.decode(kept.tolist(), skip_special_tokens=False)


def text_starts(text: str, markers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
  """`word_starts` where some pieces hold nothing but the mark of a word that follows: they belong to that word.

  Args:
    markers: bool[n]: such pieces; their span is empty and lies where the word begins.
    offsets: int[n, 2].
  """
  inside = markers & (offsets[:, 0] < len(text))
  return word_starts(text, np.stack([offsets[:, 0], offsets[:, 1] + inside], axis=1))


def begins_with_mark(piece: str) -> bool:
  """Whether the first character of a piece is punctuation as BERT has it: any mark or symbol of ASCII, else Unicode's.

  Byte-level pieces are taken as they are spelt, so that marks outside ASCII, spelt in several bytes, hardly ever are.
  """
  first = piece[:1]
  if first.isascii():
    return first.isprintable() and not first.isalnum() and first not in ("", " ")
  return unicodedata.category(first).startswith("P")


def check_words(words: Any) -> None:
  if words not in WORDS:
    *others, last = map(repr, WORDS)
    raise TokenizerError(f"tokenizer setting words: got {words!r}, want {', '.join(others)} or {last}; choose one")


def check_list(texts: Any) -> None:
  if isinstance(texts, str):
    raise TokenizerError(f"texts: got one string {texts[:40]!r}, want a list of strings; wrap it in a list")


def check_text(text: Any, i: int) -> None:
  if not isinstance(text, str):  # the library would take a tuple for a pair of texts
    raise TokenizerError(f"text {i}: got {type(text).__name__} {text!r:.40}, want a string; pass strings")
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise TokenizerError(
      f"text {i}: got a lone surrogate {text[error.start]!r} at character {error.start}, want valid Unicode; "
      "decode the source with errors='replace'"
    ) from None


def write(directory: str | os.PathLike[str], files: dict[str, str | bytes], config: dict[str, Any], words: str) -> None:
  """Writes `files`, tokenizer_config.json and our own settings."""
  folder = Path(directory)
  folder.mkdir(parents=True, exist_ok=True)
  settings = {"tokenizer_config.json": config, OWN_FILE: {"words": words}}
  for name, content in (files | {name: json.dumps(each, indent=2) + "\n" for name, each in settings.items()}).items():
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def reading(files: Files) -> Iterator[None]:
  """Turns a missing or misplaced entry of a file into one line."""
  try:
    yield
  except (KeyError, TypeError, AttributeError) as error:
    raise TokenizerError(
      f"tokenizer {files.path}: got a missing or misplaced entry ({type(error).__name__}: {error}), want the "
      "layout that the tokenizers library writes; fetch the files again"
    ) from error


def special_names(config: dict[str, Any], defaults: Sequence[str]) -> tuple[str, ...]:
  """Names from tokenizer_config.json, where a piece is a string or an object with its `content`."""
  named = (config.get(key) or default for key, default in zip(CONFIG_NAMES, defaults, strict=True))
  return tuple(name["content"] if isinstance(name, dict) else name for name in named)


def pieces_of_json(
  files: Files, ids: dict[str, int], specials: tuple[str, ...], free: tuple[str, ...] = ()
) -> tuple[list[str], tuple[tuple[str, bool], ...]]:
  """Pieces by id, and those that tokenizer.json has matched whole, besides the special ones.

  Args:
    ids: the ids of the model's own pieces.
    specials: names of the special pieces.
    free: pieces whose options of matching are settings of the kind.
  """
  where, ids, added = f"tokenizer {files.path}: tokenizer.json", dict(ids), []
  for entry in files.json.get("added_tokens") or []:
    piece, as_written = entry["content"], entry["special"]
    plain = not (entry["single_word"] or entry["lstrip"] or entry["rstrip"]) and entry["normalized"] == (not as_written)
    if ids.setdefault(piece, entry["id"]) != entry["id"] or not (plain or piece in free):
      raise TokenizerError(
        f"{where}: got added token {entry}, want the id it has in the vocabulary and the library's default matching; "
        "add it again without options"
      )
    if piece not in specials:
      added.append((piece, as_written))
  return by_id(where, ids), tuple(added)


def by_id(where: str, ids: dict[str, int]) -> list[str]:
  """Pieces in the order of their ids, which must have no gaps."""
  vocabulary = sorted(ids, key=ids.__getitem__)
  for i, piece in enumerate(vocabulary):
    if ids[piece] != i:
      raise TokenizerError(
        f"{where}: got id {ids[piece]} for {piece!r}, want id {i}, as ids have no gaps; use the model's own file"
      )
  return vocabulary


def check_same(path: Path, vocabulary: Sequence[str], beside: Sequence[str], name: str) -> None:
  """Holds the pieces of another file against those of tokenizer.json, which alone may have more: added pieces."""
  for i, (piece, other) in enumerate(itertools.zip_longest(vocabulary[: len(beside)], beside)):
    if piece != other:
      raise TokenizerError(
        f"tokenizer {path}: piece {i}: got {piece!r} in tokenizer.json and {other!r} in {name}, want the same; "
        "remove the wrong file"
      )


def read_lines(path: Path) -> list[str]:
  """Lines of a UTF-8 file; not splitlines(), as a piece may be U+2028."""
  try:
    lines = path.read_text(encoding="utf-8").split("\n")
  except UnicodeDecodeError as error:
    raise TokenizerError(f"tokenizer {path}: got {error}, want UTF-8 text; fetch the file again") from None
  return lines[:-1] if not lines[-1] else lines
