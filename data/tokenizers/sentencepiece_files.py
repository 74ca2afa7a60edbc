"""Reads SentencePiece unigram tokenizers from the files they are published as: spiece.model, or tokenizer.json."""

from __future__ import annotations

import base64
import itertools
from typing import Any

from data.tokenizers import Files, TokenizerError
from data.tokenizers.backend import check_same, pieces_of_json, reading, special_names
from data.tokenizers.sentencepieces import (
  COMMA_PENALTY,
  SPECIALS,
  UNUSED_SCORE,
  ModelProto,
  Piece,
  SentencePiece,
  Settings,
  digit_comma,
)

_STEPS = ("Replace", "NFKD", "StripAccents", "Lowercase", "Precompiled")


def read(files: Files, lowercase: bool | None, words: str | None) -> SentencePiece:
  """The tokenizer in `files`; `lowercase` and `words` override what they say."""
  with reading(files):
    settings = _settings(files, lowercase, words)
    pieces = [] if files.json is None else _pieces(files, settings)
    if "spiece.model" not in files.found:
      return SentencePiece(_model(files, settings), settings, str(files.path))
    tokenizer = SentencePiece(files.found["spiece.model"].read_bytes(), settings, str(files.path))
    if pieces:
      check_same(files.path, pieces, tokenizer.vocabulary, "spiece.model")
    return tokenizer


def _settings(files: Files, lowercase: bool | None, words: str | None) -> Settings:
  config, found = files.config, {}
  if files.json is not None:
    steps = {step["type"] for step in _steps(files)}
    found = {"do_lower_case": "Lowercase" in steps, "keep_accents": "StripAccents" not in steps}
  for name, value in found.items():
    if name in config and config[name] != value and not (name == "do_lower_case" and lowercase is not None):
      raise TokenizerError(
        f"tokenizer {files.path}: got {name} {value} in tokenizer.json and {config[name]} in tokenizer_config.json, "
        "want them to agree; correct the wrong one"
      )
  stated = {"do_lower_case": True, "keep_accents": False} | found | config
  return Settings(
    lowercase=stated["do_lower_case"] if lowercase is None else lowercase,
    keep_accents=stated["keep_accents"],
    words=words or files.own.get("words", "pieces"),
    specials=special_names(config, SPECIALS),
  )


def _steps(files: Files) -> list[dict[str, Any]]:
  """The normalizers in tokenizer.json, which must be those of ALBERT."""
  normalizer, splitting = files.json.get("normalizer") or {}, files.json.get("pre_tokenizer") or {}
  steps = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer] if normalizer else []
  cuts = splitting["pretokenizers"] if splitting.get("type") == "Sequence" else [splitting]
  around = [next(iter(part)) for part in (files.json.get("post_processor") or {}).get("single", [])]
  strange = next((step["type"] for step in steps if step["type"] not in _STEPS), None)
  for name, got, want in (
    ("normalizer", strange, None),
    ("pre_tokenizer", cuts[-1].get("type"), "Metaspace"),
    ("prepend_scheme", cuts[-1].get("prepend_scheme", "always"), "always"),
    ("add_prefix_space", cuts[-1].get("add_prefix_space", True), True),
    ("post_processor", around, ["SpecialToken", "Sequence", "SpecialToken"]),
  ):
    if got != want:
      raise TokenizerError(
        f"tokenizer {files.path}: tokenizer.json: got {name} {got}, want ALBERT's{f' {want}' if want else ''}; "
        "use the tokenizer of an ALBERT model"
      )
  return steps


def _pieces(files: Files, settings: Settings) -> list[str]:
  own = [piece for piece, _ in files.json["model"]["vocab"]]
  ids = {piece: i for i, piece in reversed([*enumerate(own)])}
  pieces, _ = pieces_of_json(files, ids, settings.specials, free=settings.specials)
  for i, (got, want) in enumerate(itertools.zip_longest(pieces, own)):
    if got != want:
      raise TokenizerError(
        f"tokenizer {files.path}: tokenizer.json: piece {i}: got {got!r} added to the model's {len(own)} pieces, which "
        "SentencePiece cannot find; train a vocabulary that holds it"
      )
  return pieces


def _model(files: Files, settings: Settings) -> bytes:
  """A spiece.model with the pieces of tokenizer.json.

  What the file has no place for follows from the scores: user-defined symbols, which are always found whole, have 0,
  pieces that no text gives have `UNUSED_SCORE`.
  """
  model, (pad, unk, *others) = files.json["model"], settings.specials
  proto = ModelProto()
  spec, normalizer = proto.trainer_spec, proto.normalizer_spec
  spec.model_type, spec.vocab_size = spec.UNIGRAM, len(model["vocab"])
  spec.pad_piece, spec.unk_piece, spec.bos_id, spec.eos_id = pad, unk, -1, -1
  for step in _steps(files):
    if step["type"] == "Precompiled":
      normalizer.precompiled_charsmap = base64.b64decode(step["precompiled_charsmap"])
  normalizer.name = "nmt_nfkc" if normalizer.precompiled_charsmap else "identity"
  for i, (piece, score) in enumerate(model["vocab"]):
    kind = Piece.USER_DEFINED if score == 0 else Piece.UNUSED if score == UNUSED_SCORE else Piece.NORMAL
    kind = Piece.CONTROL if piece in (pad, *others) else Piece.UNKNOWN if i == model["unk_id"] else kind
    lowered = digit_comma(piece) and UNUSED_SCORE < score < -COMMA_PENALTY
    proto.pieces.add(piece=piece, score=0 if kind == Piece.UNUSED else score + COMMA_PENALTY * lowered, type=kind)
  return proto.SerializeToString(deterministic=True)
