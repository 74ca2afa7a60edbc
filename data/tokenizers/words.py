"""Whole words, as ELMo has them: read by their characters, predicted by their ids.

The vocabulary is `<S>`, `</S>`, `<UNK>` and then every word of the corpus in descending order of its count, which is
what a log-uniform sampler of negatives takes for granted. A model of vocab_size V predicts the first V words; from V on
a word is `<UNK>` as a target and still itself as an input.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from data.tokenizers import Encoding, Files, Tokenizer, TokenizerError
from data.tokenizers.backend import check_list, check_text, read_lines, write
from data.tokenizers.wordsegments import word_starts

_log = logging.getLogger(__name__)

BEGIN, END, UNKNOWN = range(3)
SPECIALS = ("<S>", "</S>", "<UNK>")
COUNTS_FILE = "counts.txt"  # beside vocab.txt: how often each word was seen, a number a line; -1 = not known
# space: words stand between white space, as in a corpus that was divided before. marks: punctuation marks and
# ideographs are words of their own too, and Japanese is analysed, see `wordsegments`.
SPLITS = ("space", "marks")
_NO_WORD = "!!!MAXTERMID"  # a line of the published vocabulary that has no id
_WORD = re.compile(r"\S+")
_ASCII_WORD = re.compile(r"[!-/:-@\[-`{-~]|[^\s!-/:-@\[-`{-~]+")  # what `wordsegments` finds in ASCII, and faster
_OTHER_SPACE = re.compile("[\x0b\x0c\x1c-\x1f\x85]")  # white space to Python and no character to `wordsegments`


class Words(Tokenizer):
  """A list of words, and how text is divided into such.

  It has no pieces for padding and masks: `special.pad` and `special.mask` are -1, which no masked model takes.

  Attributes:
    counts: int64 [V], how often each word was seen in training, -1 = not known. As sentences begin and end with
      `<S>` and `</S>`, these have the number of sentences.
    split: one of SPLITS.
  """

  kind = "words"

  def __init__(
    self, vocabulary: Sequence[str], counts: np.ndarray | None = None, split: str = "space", source: str = "words"
  ):
    """`counts` None = not known."""
    self.split, self.counts = checked_split(split), np.full(len(vocabulary), -1) if counts is None else counts
    _check_vocabulary(vocabulary, source)
    super().__init__(vocabulary, (None, SPECIALS[UNKNOWN], SPECIALS[BEGIN], SPECIALS[END], None), source)
    self._begins = np.ones(self.vocab_size, bool)
    if len(self.counts) != self.vocab_size:
      raise TokenizerError(
        f"tokenizer {source}: got {len(self.counts)} counts in {COUNTS_FILE}, want {self.vocab_size}, one a word; "
        "remove the file, or fetch both again"
      )

  def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
    return type(self), (self.vocabulary, self.counts, self.split, self.source)

  def settings_dict(self) -> dict[str, Any]:
    return {"split": self.split}

  def words(self, texts: list[str]) -> list[list[str]]:
    """The words of each text as they stand there, those that the vocabulary lacks too.

    Raises:
      TokenizerError: on anything but a list of valid Unicode strings.
    """
    check_list(texts)
    for i, text in enumerate(texts):
      check_text(text, i)
    if self.split == "space":
      return [text.split() for text in texts]
    return [_between(text, self._spans(text)) for text in texts]

  def encode(self, texts: list[str], specials: bool = False) -> list[Encoding]:
    """As the base class has it; words of the text called "<S>" or "</S>" are `<UNK>` unless `specials`."""
    check_list(texts)
    for i, text in enumerate(texts):
      check_text(text, i)
    return [self._encoded(text, specials) for text in texts]

  def _encoded(self, text: str, specials: bool) -> Encoding:
    spans, find = self._spans(text), self._ids.get
    ids = np.fromiter((find(word, UNKNOWN) for word in _between(text, spans)), np.int32, len(spans))
    if specials:
      ids, spans = np.concatenate([[BEGIN], ids, [END]]).astype(np.int32), np.pad(spans, ((1, 1), (0, 0)))
    else:
      ids[ids < UNKNOWN] = UNKNOWN
    return Encoding(ids, spans, np.ones(len(ids), bool))

  def _spans(self, text: str) -> np.ndarray:
    """int32 [n, 2]: first character and one past the last of each word."""
    if self.split == "space" or text.isascii():
      words = (_WORD if self.split == "space" else _ASCII_WORD).finditer(text)
      return np.array([word.span() for word in words], np.int32).reshape(-1, 2)
    text = _OTHER_SPACE.sub(" ", text)
    places = np.arange(len(text))
    starts = np.flatnonzero(word_starts(text, np.stack([places, places + 1], axis=1)))
    found = zip(starts.tolist(), np.append(starts[1:], len(text)).tolist(), strict=True) if text else ()
    spans = [(first, first + len(text[first:end].rstrip())) for first, end in found]
    return np.array([span for span in spans if span[0] < span[1]], np.int32).reshape(-1, 2)

  def decode(self, ids: Iterable[int], specials: bool = False) -> str:
    return " ".join(self.pieces(i for i in ids if specials or i not in (BEGIN, END)))

  def with_added(self, pieces: Sequence[str]) -> NoReturn:
    raise TokenizerError(
      f"tokenizer {self.source}: got markers {list(pieces)} to add, want none: every word is read by its characters; "
      "put them into the text as words"
    )

  def check_order(self, vocab_size: int) -> None:
    """Holds the first `vocab_size` words against what a log-uniform sampler takes for granted.

    An order without counts, as published vocabularies have it, is trusted and logged.

    Raises:
      TokenizerError: a word stands behind one that was seen less often.
    """
    counts = self.counts[len(SPECIALS) : vocab_size]
    if np.any(counts < 0):
      _log.info("tokenizer %s: no %s tells of its words: they are taken to be in descending order of their counts",
                self.source, COUNTS_FILE)  # fmt: skip
    wrong = np.flatnonzero((counts[1:] > counts[:-1]) & (counts[:-1] >= 0))
    if wrong.size:
      i = int(wrong[0]) + len(SPECIALS)
      raise TokenizerError(
        f"tokenizer {self.source}: got {self.vocabulary[i + 1]!r} (seen {self.counts[i + 1]} times) behind "
        f"{self.vocabulary[i]!r} (seen {self.counts[i]} times), want descending counts, which sampled negatives are "
        "drawn by; sort the vocabulary or use the full softmax"
      )

  def save(self, directory: str | os.PathLike[str], max_length: int | None = None) -> None:
    files = {"vocab.txt": "".join(word + "\n" for word in self.vocabulary)}
    if np.any(self.counts >= 0):
      files[COUNTS_FILE] = "".join(f"{count}\n" for count in self.counts.tolist())
    config = {"do_lower_case": False} | ({} if max_length is None else {"model_max_length": max_length})
    write(directory, files, config, self.split)


def _between(text: str, spans: np.ndarray) -> list[str]:
  return [text[first:end] for first, end in spans.tolist()]


def checked_split(split: Any) -> str:
  """`split`, one of SPLITS; TokenizerError otherwise."""
  if split not in SPLITS:
    raise TokenizerError(
      f"tokenizer setting words: got {split!r}, want 'space' for text that is divided into words already, or 'marks' "
      "for any other, as the tokenizer is of whole words; choose one"
    )
  return split


def _check_vocabulary(vocabulary: Sequence[str], source: str) -> None:
  if tuple(vocabulary[:3]) != SPECIALS:
    raise TokenizerError(
      f"tokenizer {source}: got a vocabulary that begins with {list(vocabulary[:3])}, want {list(SPECIALS)}, and the "
      "words in descending order of their counts behind them; put them there"
    )
  wrong = next((i for i, word in enumerate(vocabulary) if word.split() != [word] or word == _NO_WORD), None)
  if wrong is not None:
    raise TokenizerError(
      f"tokenizer {source}: word {wrong}: got {vocabulary[wrong]!r}, want a word without white space; remove it"
    )


def read(files: Files, lowercase: bool | None, words: str | None) -> Words:
  """The tokenizer in `files`; `words` overrides how text is divided: "space" where no file says it.

  Raises:
    TokenizerError: a damaged file, or a wish for lower case.
  """
  if lowercase:
    raise TokenizerError(f"tokenizer {files.path}: got lowercase, want text as it is; set lowercase to False")
  path = files.found["vocab.txt"]
  vocabulary = [word for line in read_lines(path) if (word := line.strip()) != _NO_WORD]
  beside = path.with_name(COUNTS_FILE)
  counts = _read_counts(read_lines(beside), str(beside)) if beside.is_file() else None
  return Words(vocabulary, counts, words or files.own.get("words", "space"), str(files.path))


def _read_counts(lines: list[str], where: str) -> np.ndarray:
  try:
    return np.array([int(line) for line in lines], np.int64)
  except ValueError as error:
    raise TokenizerError(f"tokenizer {where}: got {error}, want a whole number a line; fetch the file again") from None


def train(texts: Iterable[str], split: str = "space", first: Words | None = None) -> Words:
  """All words of the texts by descending count, equal ones in the order of their code points.

  Args:
    texts: sentences, read once.
    first: words that keep their ids, those that a trained model predicts; all others of the texts stand behind them,
      so that they are read by their own characters.
  Raises:
    TokenizerError: there is no word in the texts.
  """
  check_list(texts)
  known, sentences, counter = first or Words(SPECIALS, np.zeros(3, np.int64), split), 0, Counter()
  empty = Words(SPECIALS, split=split)
  for text in texts:
    (words,) = empty.words([text])
    counter.update(words)
    sentences += bool(words)
  if not counter:
    raise TokenizerError("words of a corpus: got no text, want at least one word; check the input files")
  for word in (_NO_WORD, *known.vocabulary):
    counter.pop(word, None)
  found = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
  counts = np.concatenate([known.counts, np.array([count for _, count in found], np.int64)])
  if first is None:
    counts[[BEGIN, END]] = sentences
  vocabulary = (*known.vocabulary, *(word for word, _ in found))
  return Words(vocabulary, counts, split, f"words of a corpus ({len(vocabulary)})")
