"""What tokenizers on the `sentencepiece` library share: reading a model, special pieces in a text, spans, decoding."""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from data.tokenizers import Encoding, Tokenizer, TokenizerError
from data.tokenizers.backend import check_list, check_text
from data.tokenizers.wordsegments import word_starts

ModelProto = sentencepiece_model_pb2.ModelProto
Piece = ModelProto.SentencePiece

SPACE = "▁"


@dataclasses.dataclass(frozen=True)
class Model:
  """A .model file: its bytes, what they say, and what runs it."""

  content: bytes
  proto: ModelProto
  processor: sentencepiece.SentencePieceProcessor


class Unigram(Tokenizer):
  """A tokenizer that a unigram model runs; subclasses say how text comes to it and which ids its pieces have.

  Attributes:
    model: the content of the .model file.
  """

  model: bytes

  def __init__(
    self,
    model: Model,
    vocabulary: Sequence[str],
    specials: Sequence[str],
    added: Sequence[str],
    source: str,
    words: str,
    begins: Sequence[bool],
  ):
    """`added`: names that are found whole, besides those of `specials`; `begins`: which pieces begin a word."""
    super().__init__(vocabulary, specials, source)
    self.model, self._proto, self._processor = model.content, model.proto, model.processor
    names = sorted((*specials, *added), key=len, reverse=True)  # of two that begin alike the longer one
    self._names = re.compile("|".join(map(re.escape, names)))
    special = self.special
    self._around = np.array([special.pad, special.cls, special.sep, special.mask, *map(self.id_of, added)])
    self._words, self._begins = words, np.array(begins, bool)
    self._begins[self._around] = True

  @abc.abstractmethod
  def _pieces(self, text: str, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids int32[n], spans int32[n, 2] in `text`) of text[first:end], in which nothing is special."""

  def model_dict(self) -> dict[str, Any]:
    """What of the model changes the pieces of a text, besides their names."""
    normalizer = self._proto.normalizer_spec
    flags = ("add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces")
    return {
      "scores": [piece.score for piece in self._proto.pieces],
      "types": [piece.type for piece in self._proto.pieces],
      "charsmap": hashlib.sha256(normalizer.precompiled_charsmap).hexdigest(),
      "normalizer": [getattr(normalizer, flag) for flag in flags],
    }

  def encode(self, texts: list[str], specials: bool = False) -> list[Encoding]:
    """As `Tokenizer.encode`.

    The span of a piece has no white space at its ends; that of "▁" alone is the next character's, whose word it begins.
    """
    check_list(texts)
    for i, text in enumerate(texts):
      check_text(text, i)
    return [self._encode(text, specials) for text in texts]

  def _encode(self, text: str, specials: bool) -> Encoding:
    ids, spans, end = [np.empty(0, np.int32)], [np.empty((0, 2), np.int32)], 0
    for name in self._names.finditer(text) if specials else ():
      for part in (self._pieces(text, end, name.start()), ([self._ids[name.group()]], [name.span()])):
        ids.append(np.array(part[0], np.int32))
        spans.append(np.array(part[1], np.int32).reshape(-1, 2))
      end = name.end()
    last, last_spans = self._pieces(text, end, len(text))
    ids.append(last)
    spans.append(last_spans)
    if specials:
      ids = [np.array([self.special.cls], np.int32), *ids, np.array([self.special.sep], np.int32)]
      spans = [np.zeros((1, 2), np.int32), *spans, np.zeros((1, 2), np.int32)]
    joined, offsets = np.concatenate(ids), np.concatenate(spans)
    starts = word_starts(text, offsets) if self._words == "text" else self._begins[joined]
    return Encoding(joined, offsets, starts)

  @functools.cached_property
  def _stranger(self) -> str:
    """An ideograph (of extension A, so of no everyday text) that is in no piece, so that none goes on from it."""
    known = set("".join(self.vocabulary))
    return next(chr(code) for code in range(0x3400, 0x4DC0) if chr(code) not in known)

  def _lead(self, text: str) -> str:
    return self._stranger if self._proto.normalizer_spec.add_dummy_prefix else ""

  def decode(self, ids: Iterable[int], specials: bool = False) -> str:
    ids = [int(i) for i in ids]
    pieces, around, words = self.pieces(ids), set(self._around.tolist()), []
    for special, run in itertools.groupby(zip(ids, pieces, strict=True), lambda pair: pair[0] in around):
      run = [piece for _, piece in run]
      words += (run if specials else []) if special else ["".join(run).replace(SPACE, " ").strip()]
    return " ".join(filter(None, words))


def parse(content: bytes, source: str) -> Model:
  """Reads the bytes of a .model file.

  Raises:
    TokenizerError: where it is no unigram model.
  """
  try:
    proto, processor = ModelProto.FromString(content), sentencepiece.SentencePieceProcessor(model_proto=content)
  except (DecodeError, RuntimeError) as error:
    raise TokenizerError(
      f"tokenizer {source}: got {str(error).splitlines()[0]}, want a SentencePiece model; fetch the file again"
    ) from None
  if not proto.pieces:
    raise TokenizerError(f"tokenizer {source}: got no pieces, want a SentencePiece model; fetch the file again")
  spec = proto.trainer_spec
  others = [name for name in ("byte_fallback", "treat_whitespace_as_suffix") if getattr(spec, name)]
  if spec.model_type != spec.UNIGRAM or others:
    got = " with ".join([spec.ModelType.Name(spec.model_type).lower(), *others])
    raise TokenizerError(
      f"tokenizer {source}: got a model of type {got}, want unigram; use the model of an ALBERT, XLM-R or mLUKE"
    )
  return Model(content, proto, processor)
