"""What a whole corpus knows about its links, in a file and not in memory: pages, redirects, counts of links.

The table is filled chunk by chunk, each in one transaction, and goes on after an interruption where it stopped. A full
English Wikipedia has 15 million different link targets and 10 million redirects.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from data import titles
from data.wikitext import NAMESPACES

_ROWS = 100_000  # of one transaction
_AT_ONCE = 500  # titles of one query; every SQLite allows 999
_SCHEMA = """
  CREATE TABLE IF NOT EXISTS chunks (name TEXT PRIMARY KEY) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS pages (title TEXT PRIMARY KEY, disambiguation INT) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS redirects (title TEXT PRIMARY KEY, target TEXT) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS namespaces (name TEXT PRIMARY KEY) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS links (title TEXT PRIMARY KEY, count INT, target TEXT) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS targets (title TEXT PRIMARY KEY, count INT, entity INT) WITHOUT ROWID;
"""
_ADD_PAGE = """
  INSERT INTO pages VALUES (?, ?)
  ON CONFLICT DO UPDATE SET disambiguation = max(disambiguation, excluded.disambiguation)
"""
_ADD_LINKS = "INSERT INTO links VALUES (?, ?, NULL) ON CONFLICT DO UPDATE SET count = count + excluded.count"
_LEADING = "SELECT title FROM links JOIN redirects USING (title) WHERE links.target IS NULL LIMIT ?"
_COUNT_TARGETS = """
  INSERT INTO targets SELECT coalesce(target, title) AS led, sum(count), NULL FROM links GROUP BY led
"""
_MOST_COMMON = """
  SELECT title, count FROM targets LEFT JOIN pages USING (title)
  WHERE pages.title IS NOT NULL OR NOT ? ORDER BY count DESC, title
"""
_ENTITIES = """
  SELECT links.title, targets.entity FROM links JOIN targets ON targets.title = coalesce(links.target, links.title)
  WHERE links.title IN ({})
"""


class LinkTable:
  """Links by their titles as written, `targets` by where the redirects lead. Titles are normalised throughout."""

  def __init__(self, path: Path):
    self._base = sqlite3.connect(path, isolation_level=None)
    self._base.execute("PRAGMA cache_size = -262144")  # KiB
    self._base.executescript(_SCHEMA)

  def close(self) -> None:
    self._base.close()

  def add(
    self,
    chunk: str,
    pages: Iterable[tuple[str, bool]],
    redirects: Iterable[tuple[str, str]],
    links: Mapping[str, int],
    namespaces: Iterable[str] = (),
  ) -> None:
    """Adds what a chunk has, once, whoever calls how often: (title, whether it only tells others apart) of its pages,
    (title, target) of its redirects, how often it links to which title, and its site's names of namespaces."""
    with self._transaction():
      if not self._base.execute("INSERT OR IGNORE INTO chunks VALUES (?)", (chunk,)).rowcount:
        return
      self._base.executemany(_ADD_PAGE, pages)
      self._base.executemany("INSERT OR IGNORE INTO redirects VALUES (?, ?)", redirects)
      self._base.executemany(_ADD_LINKS, links.items())
      self._base.executemany("INSERT OR IGNORE INTO namespaces VALUES (?)", ((name.lower(),) for name in namespaces))

  @contextlib.contextmanager
  def _transaction(self) -> Iterator[None]:
    self._base.execute("BEGIN IMMEDIATE")
    try:
      yield
    except BaseException:
      self._base.execute("ROLLBACK")
      raise
    self._base.execute("COMMIT")

  def resolve(self) -> None:
    """Finds where the links lead, and counts by that. To be called once all chunks are in."""
    while found := self._base.execute(_LEADING, (_ROWS,)).fetchall():
      with self._transaction():
        led = [(titles.resolve(title, self._redirect), title) for (title,) in found]
        self._base.executemany("UPDATE links SET target = ? WHERE title = ?", led)
    with self._transaction():
      self._base.execute("DELETE FROM targets")
      self._base.execute(_COUNT_TARGETS)

  def _redirect(self, title: str) -> str | None:
    row = self._base.execute("SELECT target FROM redirects WHERE title = ?", (title,)).fetchone()
    return row[0] if row else None

  def count(self, title: str) -> int:
    """How often pages link to where `title` leads."""
    query = "SELECT count FROM targets WHERE title = ?"
    row = self._base.execute(query, (titles.resolve(title, self._redirect),)).fetchone()
    return row[0] if row else 0

  def most_common(self, existing: bool) -> Iterator[tuple[str, int]]:
    """(title, count) of the targets, the most common first, equals by title; where asked, of `existing` pages only.

    Files, categories and pages of other namespaces are left out, by their English names and by those of their site.
    """
    spaces = NAMESPACES.union(name for (name,) in self._base.execute("SELECT name FROM namespaces"))
    rows = self._base.execute(_MOST_COMMON, (existing,))
    return (row for row in rows if titles.prefix(row[0]) not in spaces)

  def homonyms(self) -> Iterator[str]:
    """Titles of the pages that only tell others apart, in order."""
    return (title for (title,) in self._base.execute("SELECT title FROM pages WHERE disambiguation ORDER BY title"))

  def assign(self, entity: Callable[[str], int | None]) -> None:
    """Keeps the entity of each target for `lookup`."""
    after = ""
    while found := self._base.execute("SELECT title FROM targets WHERE title > ? LIMIT ?", (after, _ROWS)).fetchall():
      after = found[-1][0]
      with self._transaction():
        known = [(entity(title), title) for (title,) in found]
        self._base.executemany("UPDATE targets SET entity = ? WHERE title = ?", known)

  def card(self) -> dict[str, int]:
    """Counts of pages, redirects, disambiguation pages, links, and of the different pages that they lead to."""
    queries = {
      "pages": "SELECT count(*) FROM pages",
      "redirects": "SELECT count(*) FROM redirects",
      "disambiguation_pages": "SELECT count(*) FROM pages WHERE disambiguation",
      "links": "SELECT coalesce(sum(count), 0) FROM targets",
      "targets": "SELECT count(*) FROM targets",
    }
    return {name: self._base.execute(query).fetchone()[0] for name, query in queries.items()}


def entities(path: Path, wanted: Iterable[str]) -> dict[str, int | None]:
  """The entity of each of these link titles, redirects resolved; None for those that the vocabulary does not have.

  Reads the file of a table whose links are resolved and whose entities are assigned.
  """
  wanted = sorted(set(wanted))
  found: dict[str, int | None] = {}
  with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as base:
    for first in range(0, len(wanted), _AT_ONCE):
      some = wanted[first : first + _AT_ONCE]
      found |= base.execute(_ENTITIES.format(", ".join("?" * len(some))), some)
  return found
