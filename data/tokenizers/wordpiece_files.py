"""Reads WordPiece tokenizers from the files they are published as: tokenizer.json or vocab.txt, and settings."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from pathlib import Path
from typing import Any

from data.tokenizers import Files, TokenizerError
from data.tokenizers.wordpiece import CONFIG_NAMES, SPECIALS, Settings, WordPiece

_log = logging.getLogger(__name__)


def read(files: Files, lowercase: bool | None, words: str | None) -> WordPiece:
  """The tokenizer in `files`; `lowercase` and `words` override what they say."""
  try:
    vocabulary, settings = _from_vocab(files) if files.json is None else _from_json(files, lowercase is None)
    changed = {"words": words or files.own.get("words", "pieces")}
    changed |= {} if lowercase is None else {"lowercase": lowercase}
    return WordPiece(vocabulary, dataclasses.replace(settings, **changed), str(files.path))
  except (KeyError, TypeError, AttributeError) as error:
    raise TokenizerError(
      f"tokenizer {files.path}: got a missing or misplaced entry ({type(error).__name__}: {error}), want the "
      "layout that the tokenizers library writes; fetch the files again"
    ) from error


def _from_vocab(files: Files) -> tuple[list[str], Settings]:
  config, vocabulary = files.config, _read_vocab(files.vocab)
  return vocabulary, Settings(
    lowercase=config["do_lower_case"] if "do_lower_case" in config else _looks_uncased(files.path, vocabulary),
    strip_accents=config.get("strip_accents"),
    chinese_chars=config.get("tokenize_chinese_chars", True),
    specials=_special_names(config),
  )


def _looks_uncased(path: Path, vocabulary: list[str]) -> bool:
  """No piece of an uncased vocabulary has a capital letter, but for names in brackets such as [MASK]."""
  capital = next((piece for piece in vocabulary if piece.lower() != piece and not piece.startswith("[")), None)
  reason = f"it has pieces with capital letters ({capital!r})" if capital else "no piece has a capital letter"
  _log.info("tokenizer %s: taken as %scased, as %s and no file says", path, "" if capital else "un", reason)
  return capital is None


def _special_names(config: dict[str, Any]) -> tuple[str, ...]:
  """Names from tokenizer_config.json, where a piece is a string or an object with its `content`."""
  named = (config.get(key) or default for key, default in zip(CONFIG_NAMES, SPECIALS, strict=True))
  return tuple(name["content"] if isinstance(name, dict) else name for name in named)


def _read_vocab(path: Path) -> list[str]:
  try:
    pieces = path.read_text(encoding="utf-8").split("\n")  # not splitlines(): a piece may be U+2028
  except UnicodeDecodeError as error:
    raise TokenizerError(f"tokenizer {path}: got {error}, want UTF-8 text; fetch the file again") from None
  pieces = pieces[:-1] if not pieces[-1] else pieces
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
  specials = _special_names(config | {"unk_token": model["unk_token"]})
  vocabulary, added = _pieces_of_json(files, specials)
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


def _pieces_of_json(files: Files, specials: tuple[str, ...]) -> tuple[list[str], tuple[tuple[str, bool], ...]]:
  """Pieces by id, and those that the file has matched whole, besides the special ones."""
  where, ids, added = f"tokenizer {files.path}: tokenizer.json", dict(files.json["model"]["vocab"]), []
  for entry in files.json.get("added_tokens") or []:
    piece, as_written = entry["content"], entry["special"]
    plain = not (entry["single_word"] or entry["lstrip"] or entry["rstrip"]) and entry["normalized"] == (not as_written)
    if ids.setdefault(piece, entry["id"]) != entry["id"] or not plain:
      raise TokenizerError(
        f"{where}: got added token {entry}, want the id it has in the vocabulary and the library's default matching; "
        "add it again without options"
      )
    if piece not in specials:
      added.append((piece, as_written))
  vocabulary = sorted(ids, key=ids.__getitem__)
  for i, piece in enumerate(vocabulary):
    if ids[piece] != i:
      raise TokenizerError(
        f"{where}: got id {ids[piece]} for {piece!r}, want id {i}, as ids have no gaps; use the model's own file"
      )
  if files.vocab:
    _check_same(files.path, vocabulary, _read_vocab(files.vocab))
  return vocabulary, tuple(added)


def _check_same(path: Path, vocabulary: list[str], beside: list[str]) -> None:
  """Holds vocab.txt against tokenizer.json, which alone may have more: added pieces."""
  for i, (piece, other) in enumerate(itertools.zip_longest(vocabulary[: len(beside)], beside)):
    if piece != other:
      raise TokenizerError(
        f"tokenizer {path}: piece {i}: got {piece!r} in tokenizer.json and {other!r} in vocab.txt, want the same; "
        "remove the wrong file"
      )
