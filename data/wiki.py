"""MediaWiki dumps (`pages-articles.xml`, plain or bz2): their pages.

`open_dump` streams a dump with mwxml over a parser that refuses entities and external references.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, BinaryIO

from data import titles
from data.reading import SourceError

PAGE_CHARS = 4 << 20  # MediaWiki itself stops at 2 MiB a page
_PAGE_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Page:
  """One page of a dump; `text` is wikitext, "" where the page has none; `redirect` is the title it leads to.

  A redirect whose target cannot be read has "", a page that is none None.
  """

  id: int
  title: str
  namespace: int
  redirect: str | None
  text: str


@dataclasses.dataclass(frozen=True)
class Dump:
  """The site's own names of its namespaces ("File", "Datei", ...) and the stream of its pages."""

  namespaces: tuple[str, ...]
  pages: Iterator[Page]


def open_dump(bytes_: BinaryIO, name: str) -> Dump:
  """Starts reading a dump from its decompressed bytes.

  Raises:
    SourceError: not a MediaWiki dump, a truncated or malformed one (also later, while pages are read), or mwxml and
      defusedxml are not installed.
  """
  try:
    from defusedxml.ElementTree import iterparse
    from mwxml.element_iterator import ElementIterator, EventPointer
    from mwxml.iteration.page import Page as Element
    from mwxml.iteration.site_info import SiteInfo
  except ImportError as error:
    raise SourceError(f"reading {name} needs the package {error.name}: pip install 'septet[wiki]'") from error
  stream = _PageBytes(bytes_, name)
  with _reported(name, 0):
    pointer = EventPointer(iterparse(stream, events=("start", "end")))
    _, root = next(pointer)
    element = ElementIterator(root, pointer)
    if element.tag != "mediawiki":
      raise SourceError(f"{name}: got a <{element.tag}> document, want a <mediawiki> dump (pages-articles)")
    parts = iter(element)
    first = next(parts, None)
    spaces, pages = {}, parts
    if first is not None and first.tag == "siteinfo":
      spaces = {space.name: space for space in SiteInfo.from_element(first).namespaces or ()}
    elif first is not None:  # a fragment, cut out of a dump
      pages = itertools.chain([first], parts)
  elements = (Element.from_element(part, spaces) for part in pages)
  return Dump(tuple(filter(None, spaces)), _pages(elements, root, stream))


class _PageBytes:
  """A stream that ends in an error where one page takes more than `_PAGE_BYTES`: the parser holds a page in memory."""

  def __init__(self, stream: BinaryIO, name: str):
    self.stream, self.name, self.since = stream, name, 0

  def read(self, size: int) -> bytes:
    data = self.stream.read(size)
    self.since += len(data)
    if self.since > _PAGE_BYTES:
      raise SourceError(f"{self.name}: a page takes over {_PAGE_BYTES >> 20} MiB, want a dump of current revisions")
    return data


def _pages(elements: Iterator, root: Any, stream: _PageBytes) -> Iterator[Page]:
  count, name = 0, stream.name
  while True:
    with _reported(name, count):
      page = next(elements, None)
      if page is None:
        return
      revision = next(iter(page), None)
      text = (revision.text if revision is not None else None) or ""
      found = Page(page.id, page.title, page.namespace, page.redirect or titles.redirect_target(text), text)
    yield found
    count, stream.since = count + 1, 0
    if count % 1024 == 0:
      del root[:-1]  # finished pages, which the parser would keep until the end of the dump


@contextlib.contextmanager
def _reported(name: str, count: int) -> Iterator[None]:
  """Turns whatever the XML and bz2 readers raise into one line that says how far reading came."""
  try:
    yield
  except (SourceError, MemoryError):
    raise
  except Exception as error:  # noqa: BLE001  expat, bz2, mwxml and defusedxml have no common base
    reason = str(error).split("\n")[0] or type(error).__name__
    raise SourceError(
      f"{name}: cannot be read after {count} pages ({reason}), want a whole pages-articles dump: fetch it again"
    ) from error
