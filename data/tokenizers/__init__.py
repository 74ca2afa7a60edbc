"""Tokenizers: text -> ids, character offsets and word starts, the same for every kind of tokenizer.

`load(path)` reads what stands in a directory and picks the kind from it. Nothing here opens a network connection.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

OWN_FILE = "septet_tokenizer.json"  # settings that the published layouts have no place for
# Where words start. pieces: by the pieces alone, as the original of each kind has it. text: in the text itself, see
# `wordsegments`. marks: pieces that begin with a space or a punctuation mark, as in LUKE's whole-word masking.
WORDS = ("pieces", "text", "marks")
# Sets of files that are a whole tokenizer, the first one found decides; and the type of their model.
LAYOUTS = (
  (("spiece.model",), "Unigram"),  # or another *.model by itself
  (("sentencepiece.bpe.model",), "XLM-R"),
  (("tokenizer.json",), None),  # as the file says
  (("vocab.txt",), None),  # WordPiece, or whole words, as its lines say
  (("vocab.json", "merges.txt"), "BPE"),
  (("encoder.json", "vocab.bpe", "dict.txt"), "BPE"),  # fairseq
)
XLMR_UNK = 3  # id of the unknown piece, which sets XLM-R's tokenizer.json apart from ALBERT's
_ABSENT = "no such file or directory"


class TokenizerError(ValueError):
  """A tokenizer, or text given to one, that cannot be used; one line that says what to do."""


@dataclasses.dataclass(frozen=True)
class Special:
  """Ids of the special pieces; -1 = the kind has none."""

  pad: int
  unk: int
  cls: int
  sep: int
  mask: int


@dataclasses.dataclass(frozen=True)
class Encoding:
  """One text in n pieces."""

  ids: np.ndarray  # int32[n]
  offsets: np.ndarray  # int32[n, 2]: first character and one past the last, in the text as given
  word_starts: np.ndarray  # bool[n]: the piece is the first one of its word

  def __len__(self) -> int:
    return len(self.ids)


class Tokenizer(abc.ABC):
  """What a tokenizer of any kind offers. It pickles, so worker processes can be handed one.

  Attributes:
    kind: the family: 'wordpiece', 'bytebpe', 'sentencepiece' (ALBERT's), 'xlmr' or 'words' (ELMo's).
    vocabulary: the pieces in the order of their ids.
    special: ids of the special pieces.
    source: where it came from, for messages only.
  """

  kind: ClassVar[str]
  _begins: np.ndarray  # bool[V]: pieces that begin a word wherever they stand

  def __init__(self, vocabulary: Sequence[str], specials: Sequence[str | None], source: str):
    """`specials` are the names of the pad, unk, cls, sep and mask pieces; None = there is none."""
    self.vocabulary, self.source = tuple(vocabulary), source
    self._ids = {piece: i for i, piece in enumerate(self.vocabulary)}
    if len(self._ids) != len(self.vocabulary):
      twice = next(i for i, piece in enumerate(self.vocabulary) if self._ids[piece] != i)
      raise TokenizerError(
        f"tokenizer {source}: piece {self.vocabulary[twice]!r} has ids {twice} and "
        f"{self._ids[self.vocabulary[twice]]}, want one id a piece; remove one of the two"
      )
    self.special = Special(*(-1 if name is None else self.id_of(name) for name in specials))

  @property
  def vocab_size(self) -> int:
    return len(self.vocabulary)

  @functools.cached_property
  def digest(self) -> str:
    """SHA-256 (hex) of vocabulary and settings: equal for equal behaviour, whatever the files look like."""
    content = {"kind": self.kind, "vocabulary": self.vocabulary, "settings": self.settings_dict()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

  @abc.abstractmethod
  def settings_dict(self) -> dict[str, Any]:
    """Everything besides the vocabulary that changes what `encode` returns, as JSON values."""

  @abc.abstractmethod
  def encode(self, texts: list[str], specials: bool = False) -> list[Encoding]:
    """Encodes texts.

    Args:
      specials: False: text is only text: names of special pieces in it are spelled out like any other characters and no
        id of pad, cls, sep or mask is returned. True: as published tokenizers encode one text: names of special
        pieces ("[MASK]") stand for themselves, and the cls and sep pieces are put around the text, with offsets (0, 0).
    Raises:
      TokenizerError: on anything but a list of valid Unicode strings.
    """

  def encode_inside(self, texts: list[str]) -> list[Encoding]:
    """Encodes texts that go on, without a space, from what stands before them ("s" behind "[[planet]]").

    They have the pieces of the middle of a line, and the first one begins a word only if it does so anywhere.
    """
    leads = [*map(self._lead, texts)]
    encoded = self.encode([lead + text for lead, text in zip(leads, texts, strict=True)])
    return [self._behind(encoding, len(lead)) for encoding, lead in zip(encoded, leads, strict=True)]

  def _lead(self, text: str) -> str:
    """What keeps `encode` from putting a space before a text: characters that share no piece with it. "" = nothing."""
    return ""

  def _behind(self, encoding: Encoding, lead: int) -> Encoding:
    """The pieces behind the first `lead` characters; an unknown piece may hold some of these too, and stays."""
    ids, offsets, starts = encoding.ids, encoding.offsets, encoding.word_starts.copy()
    if lead:
      kept = offsets[:, 1] > lead
      ids, offsets, starts = ids[kept], np.maximum(offsets[kept] - lead, 0), starts[kept]
    starts[:1] = self._begins[ids[:1]]
    return Encoding(ids, offsets, starts)

  @abc.abstractmethod
  def decode(self, ids: Iterable[int], specials: bool = False) -> str:
    """Text of the ids, without pad, cls, sep and mask unless `specials`."""

  @abc.abstractmethod
  def with_added(self, pieces: Sequence[str]) -> Tokenizer:
    """The same tokenizer with these names (markers such as "<ent>") behind its vocabulary.

    Like the special pieces they are found, whole, only where `encode` is asked to; those that are there are kept.

    Raises:
      TokenizerError: for a name with white space, or one that is an ordinary piece already.
    """

  @abc.abstractmethod
  def save(self, directory: str | os.PathLike[str], max_length: int | None = None) -> None:
    """Writes the files of the published layout, with `max_length` as the model's, and `OWN_FILE`."""

  def pieces(self, ids: Iterable[int]) -> list[str]:
    """The piece of each id."""
    ids = [int(i) for i in ids]
    for i in ids:
      if not 0 <= i < self.vocab_size:
        raise TokenizerError(
          f"tokenizer {self.source}: got id {i}, want 0 to {self.vocab_size - 1}; the ids come from another vocabulary"
        )
    return [self.vocabulary[i] for i in ids]

  def id_of(self, piece: str) -> int:
    """The id of a piece; TokenizerError where there is none."""
    if piece not in self._ids:
      raise TokenizerError(
        f"tokenizer {self.source}: got a vocabulary of {self.vocab_size} pieces without {piece!r}, want it there; "
        "use the vocabulary that the model was trained with"
      )
    return self._ids[piece]


@dataclasses.dataclass(frozen=True)
class Files:
  """What stands in a tokenizer's directory; None or {} = no such file."""

  path: Path  # as given: messages name it
  json: dict[str, Any] | None  # tokenizer.json
  found: dict[str, Path]  # the other files of `LAYOUTS`, by their names there
  config: dict[str, Any]  # tokenizer_config.json
  own: dict[str, Any]  # OWN_FILE
  added: dict[str, Any]  # added_tokens.json
  special_map: dict[str, Any]  # special_tokens_map.json


def load(path: str | os.PathLike[str], lowercase: bool | None = None, words: str | None = None) -> Tokenizer:
  """Loads a tokenizer.

  Args:
    path: a directory with the files of one of `LAYOUTS`, or one of these files; tokenizer_config.json and
      septet_tokenizer.json beside it are read too. Where several stand, the first of `LAYOUTS` decides and must agree
      with the others. spiece.model comes before tokenizer.json, as SentencePiece and ALBERT's own rule for commas are
      what the models were trained with; the `tokenizers` library only approximates them (see `sentencepieces`).
    lowercase, words: override what the files say (`words`: see the `Settings` of each kind).
  Raises:
    TokenizerError: on missing, damaged or contradictory files.
  """
  files = _files(Path(path))
  kind = next(kind for names, kind in LAYOUTS if all(name in files.found for name in names)) or _type(files)
  if kind not in _READERS:
    raise TokenizerError(
      f"tokenizer {path}: tokenizer.json: got a model of type {kind!r}, want one of {list(_READERS)}; "
      "use the tokenizer of a model of these kinds"
    )
  return _READERS[kind](files, lowercase, words)


def validate(tokenizer: Tokenizer, vocab_size: int) -> None:
  """Holds a tokenizer against the vocabulary size of the model that it feeds.

  Raises:
    TokenizerError: where the sizes differ, or special ids coincide or lie outside the vocabulary.
  """
  if tokenizer.vocab_size != vocab_size:
    raise TokenizerError(
      f"tokenizer {tokenizer.source}: got {tokenizer.vocab_size} pieces, want {vocab_size}, the model's vocab_size; "
      f"set the model's vocab_size to {tokenizer.vocab_size} or use the tokenizer that belongs to the model"
    )
  ids = dataclasses.asdict(tokenizer.special)
  for name, i in ids.items():
    same = [other for other in ids if other != name and ids[other] == i]
    if same or not 0 <= i < vocab_size:
      raise TokenizerError(
        f"tokenizer {tokenizer.source}: special piece {name}: got id {i}{f', also of {same[0]}' if same else ''}, "
        f"want an id of its own below {vocab_size}; name five different pieces in tokenizer_config.json"
      )


def _files(path: Path) -> Files:
  folder = path if path.is_dir() else path.parent
  whole = [names for names, _ in LAYOUTS]
  if path.is_dir():
    wanted = {name: folder / name for names in whole for name in names}
    models = sorted(folder.glob("*.model"))
    if len(models) == 1 and not any(file.is_file() for file in wanted.values()):
      wanted["spiece.model"] = models[0]  # ALBERT's first releases: 30k-clean.model
  elif names := next((names for names in whole if path.name in names), None):
    wanted = {name: folder / name for name in names}
  else:
    wanted = {{".json": "tokenizer.json", ".model": "spiece.model"}.get(path.suffix, "vocab.txt"): path}
  found = {name: file for name, file in wanted.items() if file.is_file()}
  if len(found) > 1 and "tokenizer.json" in found and not found["tokenizer.json"].stat().st_size:
    del found["tokenizer.json"]  # as the Japanese LUKE is released: an empty file beside the model
  if not any(all(name in found for name in names) for names in whole):
    got = sorted(p.name for p in path.iterdir())[:8] if path.is_dir() else path.name if found else _ABSENT
    others = ", ".join(" with ".join(names) for names in whole if names not in (("tokenizer.json",), ("vocab.txt",)))
    raise TokenizerError(
      f"tokenizer {path}: got {got}, want tokenizer.json or vocab.txt (or one of: {others}); "
      "give the directory that holds one of them"
    )
  content = _read_json(found["tokenizer.json"]) if "tokenizer.json" in found else None
  if content is not None and not isinstance(content.get("model"), dict):
    raise TokenizerError(
      f"tokenizer {found['tokenizer.json']}: got no 'model' entry, want a tokenizer.json; fetch the file again"
    )
  settings = ("tokenizer_config.json", OWN_FILE, "added_tokens.json", "special_tokens_map.json")
  return Files(path, content, found, *(_read_json(folder / name) for name in settings))


def _type(files: Files) -> str | None:
  """The type of the model in a tokenizer.json, which files of 2020 do not name, or of a vocab.txt by itself.

  XLM-R's is a Unigram that begins so. Words of ELMo have a begin and an end of sentences, and no [UNK].
  """
  if files.json is None:
    lines = set(files.found["vocab.txt"].read_bytes().splitlines())
    return "words" if {b"<S>", b"</S>"} <= lines and b"[UNK]" not in lines else "WordPiece"
  model = files.json["model"]
  signs = {"max_input_chars_per_word": "WordPiece", "merges": "BPE", "unk_id": "Unigram"}
  kind = model.get("type") or next((kind for sign, kind in signs.items() if sign in model), None)
  return "XLM-R" if kind == "Unigram" and model.get("unk_id") == XLMR_UNK else kind


def _read_json(path: Path) -> dict[str, Any]:
  """The object in a file, {} where there is no file."""
  if not path.is_file():
    return {}
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:  # invalid JSON or invalid UTF-8
    raise TokenizerError(f"tokenizer {path}: got {error}, want a JSON file; fetch the file again") from None
  if not isinstance(content, dict):
    raise TokenizerError(f"tokenizer {path}: got a JSON {type(content).__name__}, want an object; fetch the file again")
  return content


def _read_wordpiece(files: Files, lowercase: bool | None, words: str | None) -> Tokenizer:
  from data.tokenizers import wordpiece_files  # it imports this module

  return wordpiece_files.read(files, lowercase, words)


def _read_bytebpe(files: Files, lowercase: bool | None, words: str | None) -> Tokenizer:
  from data.tokenizers import bytebpe_files  # it imports this module

  return bytebpe_files.read(files, lowercase, words)


def _read_sentencepiece(files: Files, lowercase: bool | None, words: str | None) -> Tokenizer:
  from data.tokenizers import sentencepiece_files  # it imports this module, and sentencepiece with it

  return sentencepiece_files.read(files, lowercase, words)


def _read_xlmr(files: Files, lowercase: bool | None, words: str | None) -> Tokenizer:
  from data.tokenizers import xlmr_files  # it imports this module, and sentencepiece with it

  return xlmr_files.read(files, lowercase, words)


def _read_words(files: Files, lowercase: bool | None, words: str | None) -> Tokenizer:
  from data.tokenizers import words as whole_words  # it imports this module

  return whole_words.read(files, lowercase, words)


_READERS: dict[str, Callable[[Files, bool | None, str | None], Tokenizer]] = {
  "WordPiece": _read_wordpiece,
  "BPE": _read_bytebpe,
  "Unigram": _read_sentencepiece,
  "XLM-R": _read_xlmr,
  "words": _read_words,
}


def _serial_after_fork() -> None:
  """Makes `tokenizers` run on one thread in forked children: its thread pool does not survive a fork.

  The variable is set over the moment of the fork so that the library does not print its warning there.
  """
  name, before = "TOKENIZERS_PARALLELISM", []  # a stack, because two threads may fork at once

  def prepare() -> None:
    before.append(os.environ.get(name))
    os.environ[name] = "false"

  def restore() -> None:
    value = before.pop()
    if value is None:
      del os.environ[name]
    else:
      os.environ[name] = value

  os.register_at_fork(before=prepare, after_in_parent=restore)


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
  _serial_after_fork()
