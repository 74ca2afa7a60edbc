"""Reads unigram models under fairseq's ids: sentencepiece.bpe.model with what stands beside it, or tokenizer.json."""

from __future__ import annotations

import base64

from data.tokenizers import XLMR_UNK, Files, TokenizerError
from data.tokenizers.added import beside
from data.tokenizers.backend import check_same, pieces_of_json, reading, special_names
from data.tokenizers.unigram import ModelProto, Piece
from data.tokenizers.xlmr import FIRST, SPECIALS, XLMR, Settings

_FILE = "sentencepiece.bpe.model"
_STEPS = ("Precompiled", "Replace", "Strip")  # the last two put white space in order, as the library does itself


def read(files: Files, lowercase: bool | None, words: str | None) -> XLMR:
  """The tokenizer in `files`; `words` overrides what they say."""
  if lowercase:
    raise TokenizerError(
      f"tokenizer {files.path}: got lowercase True, want False: XLM-R takes text as it is; set lowercase to False"
    )
  with reading(files):
    specials = special_names(files.config, SPECIALS)
    settings = Settings(words=words or files.own.get("words", "pieces"), specials=specials)
    content = files.found[_FILE].read_bytes() if _FILE in files.found else _model(files)
    tokenizer = XLMR(content, settings, str(files.path))
    if files.json is None:
      _, added = beside(files, tokenizer.vocabulary, specials)
    else:
      own = {piece: i for i, (piece, _) in enumerate(files.json["model"]["vocab"])}
      pieces, added = pieces_of_json(files, own, specials, free=specials)
      check_same(files.path, pieces, tokenizer.vocabulary, _FILE)
    ordinary = next((piece for piece, is_name in added if not is_name), None)
    if ordinary is not None:
      raise TokenizerError(
        f"tokenizer {files.path}: added piece {ordinary!r}: got one for any text, want names (special) only, as "
        "SentencePiece cannot find others; train a vocabulary that holds it"
      )
    return tokenizer.with_added([piece for piece, _ in added]) if added else tokenizer


def _model(files: Files) -> bytes:
  """A sentencepiece.bpe.model with the pieces of tokenizer.json.

  User-defined symbols, which are always found whole, are known by their score, 0, which no learnt piece has.
  """
  vocab = files.json["model"]["vocab"]
  normalizer, splitting = files.json.get("normalizer") or {}, files.json.get("pre_tokenizer") or {}
  steps = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer] if normalizer else []
  cuts = splitting["pretokenizers"] if splitting.get("type") == "Sequence" else [splitting]
  strange = next((step["type"] for step in steps if step["type"] not in _STEPS), None)
  for name, got, want in (("normalizer", strange, None), ("pre_tokenizer", cuts[-1].get("type"), "Metaspace")):
    if got != want:
      raise TokenizerError(
        f"tokenizer {files.path}: tokenizer.json: got {name} {got}, want XLM-R's{f' {want}' if want else ''}; "
        "use the tokenizer of an XLM-R or mLUKE"
      )
  proto = ModelProto()
  spec, tables = proto.trainer_spec, [step for step in steps if step["type"] == "Precompiled"]
  spec.model_type, spec.pad_id = spec.UNIGRAM, -1
  for step in tables:
    proto.normalizer_spec.precompiled_charsmap = base64.b64decode(step["precompiled_charsmap"])
  proto.normalizer_spec.name = "nmt_nfkc" if tables else "identity"
  prefix = cuts[-1].get("prepend_scheme", "always") == "always" and cuts[-1].get("add_prefix_space", True)
  proto.normalizer_spec.add_dummy_prefix = prefix
  names = {entry["content"] for entry in files.json.get("added_tokens") or []}
  for piece, kind in zip(("<unk>", "<s>", "</s>"), FIRST, strict=True):
    proto.pieces.add(piece=piece, score=0.0, type=kind)
  for piece, score in vocab[XLMR_UNK + 1 :]:
    if piece not in names:  # the mask, and what was added
      proto.pieces.add(piece=piece, score=score, type=Piece.USER_DEFINED if score == 0 else Piece.NORMAL)
  spec.vocab_size = len(proto.pieces)
  return proto.SerializeToString(deterministic=True)
