"""Reads byte-level BPE from the files it is published as: tokenizer.json, vocab.json with merges.txt, or fairseq's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from data.tokenizers import Files, TokenizerError
from data.tokenizers.added import beside
from data.tokenizers.backend import by_id, check_same, pieces_of_json, read_lines, reading, special_names
from data.tokenizers.bytebpe import FIRST, SPECIALS, ByteBPE, Settings

_Merges = list[tuple[str, str]]


def read(files: Files, lowercase: bool | None, words: str | None) -> ByteBPE:
  """The tokenizer in `files`; `words` overrides what they say."""
  if lowercase:
    raise TokenizerError(
      f"tokenizer {files.path}: got lowercase True, want False: byte-level BPE takes text as it is; "
      "set lowercase to False"
    )
  with reading(files):
    if files.json is not None:
      vocabulary, merges, settings = _from_json(files)
    else:
      vocabulary, merges = _from_fairseq(files) if "encoder.json" in files.found else _from_vocab(files)
      settings = _settings(files.config)
      vocabulary, added = beside(files, vocabulary, settings.specials)
      settings = dataclasses.replace(settings, added=added)
    settings = dataclasses.replace(settings, words=words or files.own.get("words", "pieces"))
    return ByteBPE(vocabulary, merges, settings, str(files.path))


def _settings(config: dict[str, Any]) -> Settings:
  mask = config.get("mask_token")
  lstrip = mask["lstrip"] if isinstance(mask, dict) else True
  return Settings(config.get("add_prefix_space", False), lstrip, specials=special_names(config, SPECIALS))


def _from_vocab(files: Files) -> tuple[list[str], _Merges]:
  return _read_vocab(files.found["vocab.json"]), _read_merges(files.found["merges.txt"])


def _from_fairseq(files: Files) -> tuple[list[str], _Merges]:
  """dict.txt holds GPT-2's ids in the order of RoBERTa's, without the special pieces; the mask is added at the end."""
  pieces, path = _read_vocab(files.found["encoder.json"]), files.found["dict.txt"]
  named = [line.split(" ")[0] for line in read_lines(path)]
  for n, name in enumerate(named):
    if name.isdecimal() and int(name) >= len(pieces):
      raise TokenizerError(
        f"tokenizer {path}: line {n + 1}: got id {name}, want ids below {len(pieces)}, the size of encoder.json; "
        "use the files of one model"
      )
  vocabulary = [*FIRST, *(pieces[int(name)] if name.isdecimal() else name for name in named), SPECIALS[-1]]
  if lost := set(pieces).difference(vocabulary):
    raise TokenizerError(
      f"tokenizer {path}: got no line for {len(lost)} pieces of encoder.json, as id {pieces.index(min(lost))}, want "
      "all of them; use the dict.txt of the released model"
    )
  return vocabulary, _read_merges(files.found["vocab.bpe"])


def _read_vocab(path: Path) -> list[str]:
  try:
    ids = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:  # invalid JSON or invalid UTF-8
    raise TokenizerError(f"tokenizer {path}: got {error}, want a JSON file; fetch the file again") from None
  if not isinstance(ids, dict) or not all(type(i) is int for i in ids.values()):
    raise TokenizerError(f"tokenizer {path}: got {str(ids)[:40]}, want an object of pieces and ids; fetch it again")
  return by_id(f"tokenizer {path}", ids)


def _read_merges(path: Path) -> _Merges:
  lines = read_lines(path)
  named = bool(lines) and lines[0].startswith("#version")
  merges = [tuple(line.split(" ")) for line in lines[named:]]
  for n, pair in enumerate(merges):
    if len(pair) != 2 or not all(pair):
      raise TokenizerError(
        f"tokenizer {path}: line {n + 1 + named}: got {' '.join(pair)!r:.60}, want two pieces; fetch the file again"
      )
  return merges


def _from_json(files: Files) -> tuple[list[str], _Merges, Settings]:
  content, model, config = files.json, files.json["model"], files.config
  splitting = content.get("pre_tokenizer") or {}
  wrong = {
    "normalizer": content.get("normalizer"),
    "dropout": model.get("dropout"),
    "continuing_subword_prefix": model.get("continuing_subword_prefix"),
    "end_of_word_suffix": model.get("end_of_word_suffix"),
    "byte_fallback": model.get("byte_fallback"),
    "ignore_merges": model.get("ignore_merges"),
    "pre_tokenizer": None if splitting.get("type") == "ByteLevel" else splitting or "none",
    "use_regex": None if splitting.get("use_regex", True) else "false",
  }
  if found := {name: value for name, value in wrong.items() if value}:
    name, value = next(iter(found.items()))
    raise TokenizerError(
      f"tokenizer {files.path}: tokenizer.json: got {name} {str(value)[:60]}, want byte-level BPE as RoBERTa has it: "
      "the pre_tokenizer ByteLevel, and nothing else; use the tokenizer of such a model"
    )
  prefix_space = splitting["add_prefix_space"]
  if "add_prefix_space" in config and config["add_prefix_space"] != prefix_space:
    raise TokenizerError(
      f"tokenizer {files.path}: got add_prefix_space {prefix_space} in tokenizer.json and "
      f"{config['add_prefix_space']} in tokenizer_config.json, want them to agree; correct the wrong one"
    )
  specials = special_names(config, SPECIALS)
  vocabulary, added = pieces_of_json(files, model["vocab"], specials, free=specials)
  if "vocab.json" in files.found:
    check_same(files.path, vocabulary, _read_vocab(files.found["vocab.json"]), "vocab.json")
  masks = [entry["lstrip"] for entry in content.get("added_tokens") or [] if entry["content"] == specials[-1]]
  merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
  return vocabulary, merges, Settings(prefix_space, all(masks), specials=specials, added=added)
