"""Text of a task in pieces: parts of a text with markers between them, and the characters that each piece stands for.

Where a part begins, its first word has the form that it has after a space if there is one before it in the text or if
the text begins there, so that a marker between two words changes neither. White space at the ends of a part gives no
piece. (LUKE's published programs put a space before every part, which is the same on text of words joined by spaces.)
SentencePiece writes the first word of every part in the form after a space.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from data.tasks.rows import TaskError
from data.tokenizers import Tokenizer

LONGER = "shorten the text, or raise data.length"
Part = tuple[int, int] | int  # first character and one past the last, or the id of a marker


@dataclasses.dataclass(frozen=True, eq=False)
class Pieces:
  """A text in n pieces, made of p parts.

  Attributes:
    ids: int32[n].
    offsets: int32[n, 2], first character and one past the last in the text; (-1, -1) for markers.
    parts: int64[p + 1]; part i has the pieces parts[i] to parts[i + 1].
  """

  ids: np.ndarray
  offsets: np.ndarray
  parts: np.ndarray


def encode(tokenizer: Tokenizer, texts: Sequence[tuple[str, Sequence[Part]]]) -> list[Pieces]:
  """The pieces of texts, each given with its parts; the tokenizer is called once for all of them."""
  jobs = [(text, *part) for text, parts in texts for part in parts if not isinstance(part, int)]
  encoded = iter(_segments(tokenizer, jobs))
  return [_assembled([part if isinstance(part, int) else next(encoded) for part in parts]) for _, parts in texts]


def words(tokenizer: Tokenizer, groups: Sequence[tuple[Sequence[str], Sequence[bool]]]) -> list[Pieces]:
  """The pieces of words that are encoded one by one, each a part; offsets count from the word's first character.

  Args:
    groups: words, and of each whether it has the form after a space.
  """
  flat = [pair for each, spaced in groups for pair in zip(each, spaced, strict=True)]
  encoded = iter(_encoded(tokenizer, flat))
  return [_assembled([next(encoded) for _ in each]) for each, _ in groups]


def _assembled(parts: Sequence[int | tuple[np.ndarray, np.ndarray]]) -> Pieces:
  both = [(np.array([p], np.int32), np.full((1, 2), -1, np.int32)) if isinstance(p, int) else p for p in parts]
  ids = np.concatenate([np.zeros(0, np.int32), *(each for each, _ in both)])
  offsets = np.concatenate([np.zeros((0, 2), np.int32), *(each for _, each in both)])
  return Pieces(ids, offsets, np.cumsum([0, *(len(each) for each, _ in both)]))


def _segments(tokenizer: Tokenizer, jobs: Sequence[tuple[str, int, int]]) -> list[tuple[np.ndarray, np.ndarray]]:
  """Ids and offsets of (text, first, end) segments."""
  pairs, firsts = [], []
  for text, first, end in jobs:
    part = text[first:end]
    first += len(part) - len(part.lstrip())
    pairs.append((part.strip(), first == 0 or text[first - 1].isspace()))
    firsts.append(first)
  return [(ids, offsets + first) for (ids, offsets), first in zip(_encoded(tokenizer, pairs), firsts, strict=True)]


def _encoded(tokenizer: Tokenizer, pairs: Sequence[tuple[str, bool]]) -> list[tuple[np.ndarray, np.ndarray]]:
  """Ids and offsets of texts, each with whether it has the form after a space."""
  bare = tokenizer.kind == "bytebpe"  # the other kinds give the same pieces with a space and without
  before = [int(bare and spaced and bool(text)) for text, spaced in pairs]
  results = tokenizer.encode([" " * space + text for (text, _), space in zip(pairs, before)])
  return [(each.ids, np.maximum(each.offsets - space, 0)) for each, space in zip(results, before, strict=True)]


def marker_ids(tokenizer: Tokenizer, names: Sequence[str]) -> list[int]:
  """Ids of the pieces that mark mentions.

  Raises:
    TaskError: the tokenizer has no such piece.
  """
  ids = {piece: i for i, piece in enumerate(tokenizer.vocabulary)}
  for name in names:
    if name not in ids:
      raise TaskError(f"tokenizer {tokenizer.source}: got no piece {name!r}, want the markers {names}: add them to it")
  return [ids[name] for name in names]


def single(tokenizer: Tokenizer, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(ids, types) of one text with the special pieces around it: piece i stands in column i + 1."""
  whole = np.concatenate([[tokenizer.special.cls], ids, [tokenizer.special.sep]]).astype(np.int32)
  return whole, np.zeros(len(whole), np.int32)


def pair_room(tokenizer: Tokenizer) -> int:
  """Special pieces of a pair of texts: RoBERTa's kind has two between them, BERT's one."""
  return 4 if _doubles(tokenizer) else 3


def pair(tokenizer: Tokenizer, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
  """(ids, types, column of the second text's first piece) of a pair; the first text begins in column 1.

  RoBERTa's kind (<s>) is `<s> A </s></s> B </s>` with types 0, BERT's `[CLS] A [SEP] B [SEP]` with types 1 from B on.
  """
  special, double = tokenizer.special, _doubles(tokenizer)
  between = [special.sep] * (2 if double else 1)
  ids = np.concatenate([[special.cls], first, between, second, [special.sep]]).astype(np.int32)
  begin = 1 + len(first) + len(between)
  types = np.zeros(len(ids), np.int32)
  types[begin:] = 0 if double else 1
  return ids, types, begin


def _doubles(tokenizer: Tokenizer) -> bool:
  return tokenizer.vocabulary[tokenizer.special.cls] == "<s>"


def around(size: int, first: int, end: int, room: int, where: str) -> slice:
  """At most `room` of `size` pieces that hold `first` to `end`, with as much on its left as on its right where it can.

  Raises:
    TaskError: `first` to `end` alone are more.
  """
  if end - first > room:
    raise TaskError(f"{where}: got mentions in {end - first} pieces of text, want at most {room}: {LONGER}")
  left = min(first, max((room - (end - first)) // 2, room - (size - first)))
  return slice(first - left, min(size, first - left + room))


def windows(size: int, room: int, stride: int) -> list[tuple[int, int]]:
  """(first, end) of the windows of a passage: of `room` pieces, `stride` apart, until one reaches the passage's end."""
  count = 1 if size <= room else 1 + -(-(size - room) // min(room, stride))
  return list(itertools.islice(((i, min(i + room, size)) for i in itertools.count(0, min(room, stride))), count))
