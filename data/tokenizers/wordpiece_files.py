"""Reads WordPiece tokenizers from the files they are published as: tokenizer.json or vocab.txt, and settings."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from data.tokenizers import Files, TokenizerError
from data.tokenizers.added import beside
from data.tokenizers.backend import check_same, pieces_of_json, read_lines, reading, special_names
from data.tokenizers.wordpiece import SPECIALS, Settings, WordPiece

_log = logging.getLogger(__name__)


def read(files: Files, lowercase: bool | None, words: str | None) -> WordPiece:
  """The tokenizer in `files`; `lowercase` and `words` override what they say."""
  with reading(files):
    vocabulary, settings = _from_vocab(files) if files.json is None else _from_json(files, lowercase is None)
    changed = {"words": words or files.own.get("words", "pieces")}
    changed |= {} if lowercase is None else {"lowercase": lowercase}
    return WordPiece(vocabulary, dataclasses.replace(settings, **changed), str(files.path))


def _from_vocab(files: Files) -> tuple[list[str], Settings]:
  config, specials = files.config, special_names(files.config, SPECIALS)
  vocabulary, added = beside(files, _read_vocab(files.found["vocab.txt"]), specials)
  return vocabulary, Settings(
    lowercase=config["do_lower_case"] if "do_lower_case" in config else _looks_uncased(files.path, vocabulary),
    strip_accents=config.get("strip_accents"),
    chinese_chars=config.get("tokenize_chinese_chars", True),
    specials=specials,
    added=added,
  )


def _looks_uncased(path: Path, vocabulary: list[str]) -> bool:
  """No piece of an uncased vocabulary has a capital letter, but for names in brackets such as [MASK]."""
  capital = next((piece for piece in vocabulary if piece.lower() != piece and not piece.startswith("[")), None)
  reason = f"it has pieces with capital letters ({capital!r})" if capital else "no piece has a capital letter"
  _log.info("tokenizer %s: taken as %scased, as %s and no file says", path, "" if capital else "un", reason)
  return capital is None


def _read_vocab(path: Path) -> list[str]:
  pieces = read_lines(path)
  if "" in pieces:
    line = pieces.index("") + 1
    raise TokenizerError(f"tokenizer {path}: line {line}: got nothing, want a piece; fetch the file again")
  return pieces


def _from_json(files: Files, check_case: bool) -> tuple[list[str], Settings]:
  model, config = files.json["model"], files.config
  for part, want in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
    got = (files.json.get(part) or {}).get("type")
    if got != want:
      raise TokenizerError(
        f"tokenizer {files.path}: tokenizer.json: got {part} {got!r}, want {want}; "
        "load its vocab.txt by itself if BERT's own splitting is meant"
      )
  normalizer = files.json["normalizer"]
  names = (("strip_accents", "strip_accents"), ("handle_chinese_chars", "tokenize_chinese_chars"))
  for ours, theirs in (*names, ("lowercase", "do_lower_case")) if check_case else names:
    got, other = normalizer[ours], config[theirs] if theirs in config else normalizer[ours]
    if None not in (got, other) and got != other:
      raise TokenizerError(
        f"tokenizer {files.path}: got {ours} {got} in tokenizer.json and {theirs} {other} in tokenizer_config.json, "
        "want them to agree; correct the wrong one"
      )
  specials = special_names(config | {"unk_token": model["unk_token"]}, SPECIALS)
  vocabulary, added = pieces_of_json(files, model["vocab"], specials)
  if beside := files.found.get("vocab.txt"):
    check_same(files.path, vocabulary, _read_vocab(beside), "vocab.txt")
  return vocabulary, Settings(
    lowercase=normalizer["lowercase"],
    strip_accents=normalizer["strip_accents"],
    chinese_chars=normalizer["handle_chinese_chars"],
    clean_text=normalizer["clean_text"],
    prefix=model["continuing_subword_prefix"],
    longest_word=model["max_input_chars_per_word"],
    specials=specials,
    added=added,
  )
