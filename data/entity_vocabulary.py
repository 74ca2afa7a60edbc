"""Entity vocabularies: titles of pages to rows of the entity table, in the files that LUKE's releases use.

entity_vocab.json   {"Title": id}, or {"lang:Title": id} with several titles to an id (mLUKE); special names are bare
entity_vocab.jsonl  {"id": 4, "entities": [["Title", "lang" or null], ...], "count": 17} a line
entity_vocab.tsv    "Title<TAB>count" a line; the id is the number of the line, from 0 (first releases)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.titles import normalise

SPECIALS = ("[PAD]", "[UNK]", "[MASK]")
_MASK2 = "[MASK2]"
_NAMES = frozenset((*SPECIALS, _MASK2))
_WITH_LANGUAGE = re.compile(r"[a-z]{2,}(?:-[a-z]+)*:.|None:.")
_MAX_ID = 1 << 31
FILES = ("entity_vocab.json", "entity_vocab.jsonl", "entity_vocab.tsv")


class EntityError(ValueError):
  """An entity vocabulary, or a way to make one, that cannot be used; one line."""


@dataclasses.dataclass(frozen=True)
class EntitySpecial:
  """Ids of the special entities; `mask2` is the second of a relation's two, None where a vocabulary has none."""

  pad: int
  unk: int
  mask: int
  mask2: int | None = None


class EntityVocabulary:
  """Titles to ids; several titles may share an id.

  Attributes:
    ids: title, as in its file, to id; in the order of ids, titles of one id in the order of the file.
    size: rows of the entity table: the largest id + 1, whatever ids there are.
    special: see `EntitySpecial`; read from the names, for their ids differ among releases.
    counts: int64 [size], how often each entity was linked to; None where the file does not say.
    digest: SHA-256 of titles and ids.
  """

  def __init__(self, ids: Mapping[str, int], counts: np.ndarray | None = None, source: str = "entity vocabulary"):
    """Raises EntityError where an id is no id, or [PAD], [UNK] or [MASK] is missing."""
    wrong = next((pair for pair in ids.items() if type(pair[1]) is not int or not 0 <= pair[1] < _MAX_ID), None)
    if wrong is not None:
      raise EntityError(f"{source}: got id {wrong[1]!r} of {wrong[0]!r}, want an int from 0 to {_MAX_ID - 1}")
    missing = [name for name in SPECIALS if name not in ids]
    if missing:
      raise EntityError(f"{source}: has no {', '.join(missing)}, want {', '.join(SPECIALS)} among its titles")
    self.ids: dict[str, int] = dict(sorted(ids.items(), key=lambda pair: pair[1]))
    self.size = max(self.ids.values()) + 1
    if counts is not None and counts.shape != (self.size,):
      raise EntityError(f"{source}: got {len(counts)} counts, want {self.size}, one an id")
    self.counts = None if counts is None else counts.astype(np.int64)
    self.special = EntitySpecial(*(self.ids[name] for name in SPECIALS), self.ids.get(_MASK2))

  @classmethod
  def of_titles(cls, titles: Sequence[str], counts: Sequence[int] | None = None) -> EntityVocabulary:
    """[PAD] = 0, [UNK] = 1, [MASK] = 2, then the titles in their order; counts of the specials are 0."""
    names = (*SPECIALS, *titles)
    ids = {name: number for number, name in enumerate(names)}
    if len(ids) != len(names):
      twice = next(name for number, name in enumerate(names) if ids[name] != number)
      raise EntityError(f"entity vocabulary: got the title {twice!r} twice, want each once")
    return cls(ids, None if counts is None else np.asarray([0] * len(SPECIALS) + list(counts), np.int64))

  @classmethod
  def of_specials(cls) -> EntityVocabulary:
    """[PAD] = 0, [UNK] = 1, [MASK] = 2, [MASK2] = 3 and nothing else."""
    return cls.of_titles([_MASK2])

  @functools.cached_property
  def digest(self) -> str:
    sha = hashlib.sha256()
    for title, number in self.ids.items():
      sha.update(f"{number}\t{title}\n".encode(errors="surrogatepass"))
    return sha.hexdigest()

  @functools.cached_property
  def multilingual(self) -> bool:
    """Whether titles are written "lang:Title"."""
    names = self.ids.keys() - _NAMES
    return bool(names) and all(map(_WITH_LANGUAGE.match, names))

  def id_of(self, title: str, language: str | None = None) -> int | None:
    """The id of a title in any spelling that leads to its page, None where it has none.

    Args:
      language: of the title, for a multilingual vocabulary, where the title does not name it ("de:Berlin"); others have
        bare titles, whatever it is.
    """
    if title in _NAMES:
      return self.ids.get(title)
    names = [normalise(title), title]
    if self.multilingual:  # "None:" is what a conversion of vocabularies without a language wrote
      own, _, rest = title.partition(":")
      names = [f"{language}:{names[0]}", f"{own.strip()}:{normalise(rest)}", title]
    return next((self.ids[name] for name in names if name in self.ids), None)

  def titles(self, ids: Iterable[int]) -> list[str]:
    """Of each id the first of its titles.

    Raises:
      EntityError: an id without a title.
    """
    names = self._names
    ids = [int(number) for number in ids]
    wrong = next((number for number in ids if number not in names), None)
    if wrong is not None:
      raise EntityError(f"entity id {wrong}: names no entity of the vocabulary, want one of its ids below {self.size}")
    return [names[number] for number in ids]

  @functools.cached_property
  def _names(self) -> dict[int, str]:
    return {number: name for name, number in reversed(self.ids.items())}

  def save(self, directory: str | Path) -> None:
    """Writes entity_vocab.json and, where there are counts, entity_vocab.jsonl."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / FILES[0]).write_text(json.dumps(self.ids, indent=1, ensure_ascii=False), encoding="utf-8")
    if self.counts is None:
      return
    entities: dict[int, list] = {}
    for name, number in self.ids.items():
      language, colon, title = name.partition(":") if self.multilingual and name not in _NAMES else (None, "", name)
      entities.setdefault(number, []).append([title, language])
    rows = [{"id": i, "entities": names, "count": int(self.counts[i])} for i, names in entities.items()]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (directory / FILES[1]).write_text("".join(lines), encoding="utf-8")


def load(path: str | Path) -> EntityVocabulary:
  """The vocabulary of a file, or of a folder that has one; of several, the one with counts.

  Raises:
    EntityError: there is none, or it is damaged; says the line.
  """
  path = Path(path)
  if path.is_dir():
    found = next((path / name for name in (FILES[1], FILES[2], FILES[0]) if (path / name).exists()), None)
    if found is None:
      raise EntityError(f"entity vocabulary {path}: the folder holds none of {', '.join(FILES)}")
    path = found
  readers = {".json": _read_json, ".jsonl": _read_jsonl, ".tsv": _read_tsv}
  if path.suffix not in readers:
    raise EntityError(f"entity vocabulary {path}: got a {path.suffix or 'nameless'} file, want .json, .jsonl or .tsv")
  try:
    return readers[path.suffix](path)
  except (OSError, UnicodeDecodeError) as error:
    raise EntityError(f"entity vocabulary {path}: cannot be read ({error})") from error


def _read_json(path: Path) -> EntityVocabulary:
  ids = _value(path.read_text(encoding="utf-8"), str(path))
  if not isinstance(ids, dict):
    raise EntityError(f"entity vocabulary {path}: got {type(ids).__name__}, want an object of titles and ids")
  return EntityVocabulary(ids, source=f"entity vocabulary {path}")


def _read_jsonl(path: Path) -> EntityVocabulary:
  ids: dict[str, int] = {}
  counted: dict[int, int] = {}
  with path.open(encoding="utf-8") as lines:
    for number, line in enumerate(lines, 1):
      where = f"{path}, line {number}"
      row = _value(line, where)
      try:
        identity, names = int(row["id"]), [(str(title), language) for title, language in row["entities"]]
        counted[identity] = int(row["count"])
      except (KeyError, TypeError, ValueError) as error:
        raise EntityError(f'entity vocabulary {where}: want "id", "entities" of [title, lang] and "count"') from error
      for title, language in names:
        name = title if title in _NAMES or language is None else f"{language}:{title}"
        if ids.setdefault(name, identity) != identity:
          raise EntityError(f"entity vocabulary {where}: got {name!r} a second time, want each title once")
  return _counted(ids, counted, path)


def _read_tsv(path: Path) -> EntityVocabulary:
  ids: dict[str, int] = {}
  counted: dict[int, int] = {}
  with path.open(encoding="utf-8", newline="\n") as lines:
    for number, line in enumerate(lines):
      title, tab, count = line.rstrip("\r\n").partition("\t")
      if not tab or not count.isdecimal():
        raise EntityError(f"entity vocabulary {path}, line {number + 1}: got {line[:80]!r}, want TITLE<TAB>COUNT")
      if title in ids:
        raise EntityError(f"entity vocabulary {path}, line {number + 1}: got {title!r} a second time, want each once")
      ids[title], counted[number] = number, int(count)
  return _counted(ids, counted, path)


def _counted(ids: dict[str, int], counted: dict[int, int], path: Path) -> EntityVocabulary:
  """With counts by id: those of ids that no line has, as a minimum count leaves them, are 0."""
  plain = EntityVocabulary(ids, source=f"entity vocabulary {path}")
  counts = np.zeros(plain.size, np.int64)
  counts[list(counted)] = list(counted.values())
  return EntityVocabulary(ids, counts, source=f"entity vocabulary {path}")


def _value(text: str, where: str) -> Any:
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as error:
    raise EntityError(f"entity vocabulary {where}: is no JSON ({error})") from error
