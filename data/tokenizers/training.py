"""Which tokenizer a corpus trains."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from data.tokenizers import Tokenizer, TokenizerError, bytebpe, sentencepieces, wordpiece
from data.tokenizers import words as whole_words

TRAINERS: dict[str, Callable[..., Tokenizer]] = {
  "wordpiece": wordpiece.train,
  "bytebpe": bytebpe.train,
  "sentencepiece": sentencepieces.train,
  "words": whole_words.train,
}


def training(
  kind: str, vocab_size: int, lowercase: bool, words: str
) -> tuple[Callable[[Iterable[str]], Tokenizer], dict[str, Any]]:
  """(sentences -> tokenizer, all that decides its result).

  Args:
    kind: a key of TRAINERS.
    vocab_size, lowercase, words: see `Settings` of each kind. Of whole words all are learned, however many a model
      predicts, and `words` is how text is divided into them.
  Raises:
    TokenizerError: byte-level BPE or whole words, which take text as it is, were to lower case.
  """
  settings: dict[str, Any] = {"vocab_size": vocab_size, "lowercase": lowercase, "words": words}
  if kind in ("bytebpe", "words"):
    del settings["lowercase"]
    if lowercase:
      raise TokenizerError(f"tokenizer to train: got {kind} with lowercase, want text as it is; set lowercase to False")
  if kind == "words":
    settings = {"split": whole_words.checked_split(words)}
  return functools.partial(TRAINERS[kind], **settings), {"kind": kind, **settings}
