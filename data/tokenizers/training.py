"""Which tokenizer a corpus trains."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from data.tokenizers import Tokenizer, TokenizerError, bytebpe, sentencepieces, wordpiece

TRAINERS: dict[str, Callable[..., Tokenizer]] = {
  "wordpiece": wordpiece.train,
  "bytebpe": bytebpe.train,
  "sentencepiece": sentencepieces.train,
}


def training(
  kind: str, vocab_size: int, lowercase: bool, words: str
) -> tuple[Callable[[Iterable[str]], Tokenizer], dict[str, Any]]:
  """(sentences -> tokenizer, all that decides its result).

  Args:
    kind: a key of TRAINERS.
  Raises:
    TokenizerError: byte-level BPE, which takes text as it is, was to lower case.
  """
  settings: dict[str, Any] = {"vocab_size": vocab_size, "lowercase": lowercase, "words": words}
  if kind == "bytebpe":
    del settings["lowercase"]
    if lowercase:
      raise TokenizerError("tokenizer to train: got bytebpe with lowercase, want text as it is; set lowercase to False")
  return functools.partial(TRAINERS[kind], **settings), {"kind": kind, **settings}
