"""SentencePiece unigram with fairseq's ids, as XLM-R, mLUKE and the Japanese LUKE use it.

The model's own first pieces are <unk>, <s> and </s>; fairseq's are <s>, <pad>, </s>, <unk>, so every other piece has
the model's id plus one. <mask> stands behind them, and pieces that were added (LUKE's <ent> and <ent2>) behind that:
of 250,000 pieces XLM-R has 250,002 ids and mLUKE 250,004; of 32,768 the Japanese LUKE has 32,772.

Text goes to the library as it is, which normalises it by the tables in the model (NFKC, white space) and puts "▁"
before every word and before the text, so that each part of a text that is cut into parts begins with "▁".
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as LibraryBackend

from data.tokenizers import XLMR_UNK, TokenizerError
from data.tokenizers.added import files_of, new_pieces
from data.tokenizers.backend import CONFIG_NAMES, begins_with_mark, check_words, write
from data.tokenizers.cleaning import in_source
from data.tokenizers.unigram import SPACE, Piece, Unigram, parse

SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")  # pad, unk, cls, sep, mask
FIRST = (Piece.UNKNOWN, Piece.CONTROL, Piece.CONTROL)  # types of the model's first pieces: <unk>, <s>, </s>


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything besides the model that decides which pieces a text has."""

  # Where words start. pieces: at "▁"; marks: also at punctuation marks; text: see `wordsegments`.
  words: str = "pieces"
  specials: tuple[str, ...] = SPECIALS  # pad, unk, cls, sep, mask
  added: tuple[str, ...] = ()  # names behind the mask

  def __post_init__(self) -> None:
    check_words(self.words)


class XLMR(Unigram):
  """A unigram model under fairseq's ids, with its settings."""

  kind = "xlmr"

  def __init__(self, model: bytes, settings: Settings, source: str = "XLM-R"):
    parsed = parse(model, source)
    own = parsed.proto.pieces
    if tuple(piece.type for piece in own[: len(FIRST)]) != FIRST:
      raise TokenizerError(
        f"tokenizer {source}: got a model that begins with {[piece.piece for piece in own[: len(FIRST)]]}, want <unk> "
        "and the control symbols <s>, </s>, as XLM-R has them; use the model of an XLM-R or mLUKE"
      )
    pad, unk, cls, sep, mask = settings.specials
    vocabulary = [cls, pad, sep, unk, *(piece.piece for piece in own[len(FIRST) :]), mask, *settings.added]
    marks = settings.words == "marks"
    begins = [piece.startswith(SPACE) or (marks and begins_with_mark(piece)) for piece in vocabulary]
    super().__init__(parsed, vocabulary, settings.specials, settings.added, source, settings.words, begins)
    self.settings = settings

  def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
    return type(self), (self.model, self.settings, self.source)

  def settings_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self.settings) | self.model_dict()

  def with_added(self, pieces: Sequence[str]) -> XLMR:
    new = new_pieces(self, pieces, self.settings.added.__contains__)
    settings = dataclasses.replace(self.settings, added=(*self.settings.added, *new))
    return XLMR(self.model, settings, self.source)

  def _pieces(self, text: str, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    part = text[first:end]
    found = self._processor.encode_as_offset_mapping(part)
    ids = np.array(found["ids"], np.int32)
    ids = np.where(ids == self._processor.unk_id(), XLMR_UNK, ids + 1)
    spans = np.fromiter(itertools.chain.from_iterable(found["offsets"]), np.int64, 2 * len(ids)).reshape(-1, 2)
    source = np.arange(len(part))[:, None] + (0, 1)
    return ids.astype(np.int32), (in_source(part, spans, source) + first).astype(np.int32)

  def save(self, directory: str | os.PathLike[str], max_length: int | None = None) -> None:
    names = dict(zip(CONFIG_NAMES, self.settings.specials, strict=True))
    mask = {"content": names["mask_token"], "lstrip": True, "rstrip": False}
    mask |= {"__type": "AddedToken", "normalized": False, "single_word": False, "special": True}
    beside, entries = files_of(tuple((piece, True) for piece in self.settings.added), self.id_of)
    config = {
      "tokenizer_class": "XLMRobertaTokenizer",
      "bos_token": names["cls_token"],
      "eos_token": names["sep_token"],
      **names,
      "mask_token": mask,
      **entries,
    }
    if max_length is not None:
      config["model_max_length"] = max_length
    files: dict[str, str | bytes] = {
      "sentencepiece.bpe.model": self.model,
      "tokenizer.json": self._published().to_str(pretty=True) + "\n",
      **beside,
    }
    write(directory, files, config, self.settings.words)

  def _published(self) -> LibraryBackend:
    """What the `tokenizers` library has for it, as published files hold it."""
    spec, (*others, mask) = self._proto.normalizer_spec, self.settings.specials
    scores = [0.0] * (XLMR_UNK + 1) + [piece.score for piece in self._proto.pieces[len(FIRST) :]]
    scores += [0.0] * (self.vocab_size - len(scores))
    backend = LibraryBackend(models.Unigram([*zip(self.vocabulary, scores)], unk_id=XLMR_UNK, byte_fallback=False))
    if spec.precompiled_charsmap:
      backend.normalizer = normalizers.Precompiled(spec.precompiled_charsmap)
    spaces = {"replacement": SPACE, "prepend_scheme": "always" if spec.add_dummy_prefix else "never"}
    backend.pre_tokenizer = pre_tokenizers.Sequence(
      [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**spaces)]
    )
    backend.decoder = decoders.Metaspace(**spaces)
    mask = AddedToken(mask, lstrip=True, normalized=False, special=True)
    backend.add_special_tokens([*others, mask, *self.settings.added])
    _, _, cls, sep = others
    backend.post_processor = processors.TemplateProcessing(
      single=f"{cls} $A {sep}",
      pair=f"{cls} $A {sep} {sep} $B {sep}",
      special_tokens=[(cls, self.special.cls), (sep, self.special.sep)],
    )
    return backend
