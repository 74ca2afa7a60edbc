"""The entities of a corpus under preparation: its links counted, its vocabulary learned or taken, each entity found."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data import chunks, entity_vocabulary
from data.entity_vocabulary import SPECIALS, EntityError, EntityVocabulary
from data.link_table import LinkTable
from data.titles import normalise
from data.wiki_links import PARSER

SPECIAL = "special"  # in place of a vocabulary's path
HOMONYMS = "disambiguation.txt"  # beside the vocabulary: titles of pages that only tell others apart, one a line
UNKNOWN = ("keep", "drop")
PAGES = ("existing", "linked")


@dataclasses.dataclass(frozen=True)
class Entities:
  """How the links of a corpus become mentions of entities.

  Attributes:
    vocabulary: a file or folder of one; "special" = [PAD], [UNK], [MASK] and [MASK2] alone; None = the most common of
      the pages that the corpus links to.
    size: of a vocabulary to learn, [PAD], [UNK] and [MASK] included (LUKE: 500,000).
    unknown: what becomes of a link that the vocabulary does not have: "keep" it as a mention of [UNK] (LUKE), or
      "drop" it, its words being text like any other (mLUKE).
    white_list: a file with a title a line; of a vocabulary to learn, pages that are in it if anything links to them.
    pages: which pages a vocabulary is learned from: "existing" ones (LUKE), or all articles that are "linked" to, for a
      fragment of a dump, which lacks most of the pages that it links to.
  """

  vocabulary: str | Path | None = None
  size: int = 500_000
  unknown: str = "keep"
  white_list: str | Path | None = None
  pages: str = "existing"

  def __post_init__(self):
    for name, value, choices in (("unknown entities", self.unknown, UNKNOWN), ("entity pages", self.pages, PAGES)):
      if value not in choices:
        raise EntityError(f"{name}: got {value!r}, want one of {', '.join(choices)}")
    if self.size <= len(SPECIALS):
      raise EntityError(f"entity vocabulary: got a size of {self.size}, want over {len(SPECIALS)}, [PAD] [UNK] [MASK]")
    if self.vocabulary == SPECIAL and self.unknown == "drop":
      raise EntityError("unknown entities: got 'drop' with special entities alone, want 'keep': they are all there are")
    if self.vocabulary is not None and self.white_list is not None:
      raise EntityError("entity white list: got one beside a vocabulary, want it where one is learned from the corpus")

  def settings(self) -> dict[str, Any]:
    """All that decides what the links of a corpus become."""
    if self.vocabulary is None:
      white_list = None if self.white_list is None else chunks.digest(self.wanted())
      vocabulary = {"train": {"size": self.size, "pages": self.pages, "white_list": white_list}}
    else:
      vocabulary = {"digest": self.given().digest}
    return {"vocabulary": vocabulary, "unknown": self.unknown, "parser": PARSER}

  def given(self) -> EntityVocabulary:
    """The vocabulary that `vocabulary` names."""
    return EntityVocabulary.of_specials() if self.vocabulary == SPECIAL else entity_vocabulary.load(self.vocabulary)

  def wanted(self) -> list[str]:
    """Titles of the white list, in its order, each once."""
    if self.white_list is None:
      return []
    try:
      lines = Path(self.white_list).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
      raise EntityError(f"entity white list {self.white_list}: cannot be read ({error})") from error
    return list(dict.fromkeys(filter(None, map(normalise, lines))))


@dataclasses.dataclass(frozen=True)
class Linked:
  """What the links of a corpus became: the file of their table, the folder of the vocabulary, figures for the card."""

  table: Path
  folder: Path
  unknown: int | None
  card: dict[str, Any]


def link(entities: Entities, texts: list[Path], work: Path, key: str, language: str, report: Callable) -> Linked:
  """Counts the links of chunks of texts, finds the vocabulary, and the entity of each link.

  Args:
    work: folder of unfinished work, which the result stands in.
    key: names what the texts and their entities follow from.
    report: called with "entities" and the number of documents of a chunk.
  Raises:
    EntityError: nothing to learn a vocabulary from, or one that cannot be read.
  """
  path = work / f"links-{key}.sqlite"
  table = LinkTable(path)
  try:
    for text in texts:
      about = chunks.read_links(text)
      table.add(text.name, about["pages"], about["redirects"], about["links"], about["namespaces"])
      report("entities", len(about["pages"]) + len(about["redirects"]))
    table.resolve()
    folder = work / f"entities-{key}"
    if not folder.exists():
      _write(folder, _learned(entities, table) if entities.vocabulary is None else entities.given(), table)
    vocabulary = entity_vocabulary.load(folder)
    table.assign(lambda title: vocabulary.id_of(title, language))
    card = {"parser": PARSER, **table.card(), "unknown": entities.unknown}
  finally:
    table.close()
  card["vocabulary"] = {"size": vocabulary.size, "digest": vocabulary.digest}
  return Linked(path, folder, vocabulary.special.unk if entities.unknown == "keep" else None, card)


def _learned(entities: Entities, table: LinkTable) -> EntityVocabulary:
  wanted = {title: count for title in entities.wanted() if (count := table.count(title)) > 0}
  listed = table.most_common(existing=entities.pages == "existing")
  common = ((title, count) for title, count in listed if title not in wanted)
  rows = list(itertools.islice(itertools.chain(wanted.items(), common), entities.size - len(SPECIALS)))
  if not rows:
    raise EntityError(
      f"entity vocabulary: no {entities.pages} page of the corpus is linked to, want a dump, or JSON lines with "
      '"links": [[first, end, title], ...]; a fragment of a dump needs --entity_pages=linked'
    )
  return EntityVocabulary.of_titles([title for title, _ in rows], [count for _, count in rows])


def _write(folder: Path, vocabulary: EntityVocabulary, table: LinkTable) -> None:
  temporary = folder.with_name(f".{folder.name}")
  shutil.rmtree(temporary, ignore_errors=True)
  vocabulary.save(temporary)
  with (temporary / HOMONYMS).open("w", encoding="utf-8") as file:
    file.writelines(f"{title}\n" for title in table.homonyms())
  temporary.rename(folder)
