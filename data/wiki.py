"""MediaWiki dumps (`pages-articles.xml`, plain or bz2): pages, and the prose of a page.

`pages` streams a dump with mwxml over a parser that refuses entities and external references. `prose` keeps what the
encoders were pretrained on: text passages, without lists, tables and headings (BERT, section 3.1). Markup parsing can
take time that grows with the cube of the nesting, so `Stripper` runs it in a child process that is killed at a limit.

Run as `python -m data.wiki` this module is that child: one JSON object a line in, one out.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import itertools
import json
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from data.documents import Skipped
from data.reading import SourceError

PAGE_CHARS = 4 << 20  # MediaWiki itself stops at 2 MiB a page
PAGE_SECONDS = 10.0
_PAGE_BYTES = 64 << 20
_CHILD_BYTES = 4 << 30
_ITEM = "\x01"  # marks a list item; control characters never reach a page's text

_DROPPED_TAGS = frozenset(
  ("ref", "references", "table", "gallery", "math", "chem", "timeline", "score", "style", "script", "graph", "hiero")
  + ("syntaxhighlight", "source", "pre", "imagemap", "templatestyles", "indicator", "noinclude")
)
_LIST_TAGS = frozenset(("li", "dd", "dt"))
_NAMESPACES = frozenset(("file", "image", "media", "category", "template", "portal", "wikipedia", "help", "user"))
_INTERLANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*")
_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Page:
  """One page of a dump; `text` is wikitext, "" where the page has none."""

  id: int
  title: str
  namespace: int
  redirect: bool
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
      found = Page(page.id, page.title, page.namespace, bool(page.redirect) or bool(_REDIRECT.match(text)), text)
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


def prose(wikitext: str, namespaces: Iterable[str] = ()) -> str:
  """The running text of a page, one paragraph a line.

  Headings, lists, tables, templates, references, comments and links to files and categories are dropped; other links
  become the text they show. A paragraph with markup that does not parse is dropped. `namespaces` are a site's own
  names beside the English ones.
  """
  import mwparserfromhell

  dropped = _NAMESPACES | {name.lower() for name in namespaces}
  try:
    code = mwparserfromhell.parse(_prepared(wikitext))
    text = "".join(_rendered(code, dropped))
  except (mwparserfromhell.parser.ParserError, RecursionError) as error:
    raise Skipped("bad markup") from error
  return "\n".join(line for line in map(_tidy, text.split("\n")) if line)


_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_REFERENCE = re.compile(r"<ref\b[^<>]*/>|<ref\b[^<>]*>.*?</ref\s*>", re.DOTALL | re.IGNORECASE)
_POSSESSIVE = re.compile(r"(?<=[\w\]])'''(?=s\b)")  # ''Iliad'''s
_QUOTES = re.compile(r"'{2,}")


def _prepared(wikitext: str) -> str:
  # One unbalanced bold mark makes the parser give up on whatever reference or table stands around it.
  text = _REFERENCE.sub("", _COMMENT.sub("", wikitext))
  return _QUOTES.sub("", _POSSESSIVE.sub("'", text))


def _rendered(code, dropped: frozenset[str] | set[str]) -> Iterator[str]:
  from mwparserfromhell import nodes

  for node in code.nodes if code is not None else ():
    if isinstance(node, nodes.Text):
      yield node.value
    elif isinstance(node, nodes.Wikilink):
      yield from _link(node, dropped)
    elif isinstance(node, nodes.Tag):
      yield from _tag(node, dropped)
    elif isinstance(node, nodes.ExternalLink):
      if node.brackets:  # a bare address is no prose
        yield from _rendered(node.title, dropped)
    elif isinstance(node, nodes.HTMLEntity):
      yield node.normalize()
    elif isinstance(node, nodes.Heading):
      yield "\n"


def _link(node, dropped: frozenset[str] | set[str]) -> Iterator[str]:
  title = str(node.title).strip()
  prefix, colon, _ = title.partition(":")
  prefix = prefix.strip()
  if colon and (prefix.lower() in dropped or (node.text is None and _INTERLANGUAGE.fullmatch(prefix))):
    return
  if node.text is None:
    yield title.lstrip(":")
  else:
    yield from _rendered(node.text, dropped)


def _tag(node, dropped: frozenset[str] | set[str]) -> Iterator[str]:
  name = str(node.tag).strip().lower()
  if name in _DROPPED_TAGS:
    return
  if name in _LIST_TAGS:
    yield f"\n{_ITEM}" if node.wiki_markup is None else _ITEM
  elif name in ("br", "hr"):
    yield " " if name == "br" else "\n"
  yield from _rendered(node.contents, dropped)
  if name in _LIST_TAGS or name in ("p", "div", "blockquote"):
    yield "\n" if node.wiki_markup is None else ""


_SPACES = re.compile(r"[ \t\u00a0\u2009\u200a\u202f]+")
_MAGIC = re.compile(r"__[A-Z]+__")
_EMPTY_BRACKETS = re.compile(r"\s*[(（\[][\s,;:–-]*[)）\]]")  # left where a template stood alone in brackets
_OPEN_BRACKET = re.compile(r"([(（])[\s,;]+")
_COMMAS = re.compile(r",(?:\s*,)+")
_UNPARSED = re.compile(r"^[|!]|\[\[|\]\]|\{\{|\}\}|\{\||\|\}|</?[A-Za-z]+[^<>]*>")
_BEFORE_STOP = re.compile(r" +([,.;)])")


def _tidy(line: str) -> str:
  line = line.strip()
  if line.startswith(_ITEM) or _UNPARSED.search(line):
    return ""
  line = _MAGIC.sub("", line.replace(_ITEM, " "))
  line = _OPEN_BRACKET.sub(r"\1", _EMPTY_BRACKETS.sub("", _COMMAS.sub(",", line)))
  return _BEFORE_STOP.sub(r"\1", _SPACES.sub(" ", line)).strip()


class Stripper:
  """`prose` in a child process with a limit on time and memory; the child is started at first use."""

  def __init__(self, seconds: float = PAGE_SECONDS, chars: int = PAGE_CHARS):
    self.seconds, self.chars = seconds, chars
    self._child: subprocess.Popen | None = None

  def prose(self, wikitext: str, namespaces: Iterable[str] = ()) -> str:
    """As the function `prose`.

    Raises:
      Skipped: "over the size limit", "timed out" or "bad markup".
    """
    if len(wikitext) > self.chars:
      raise Skipped("over the size limit")
    child = self._started()
    request = json.dumps({"text": wikitext, "namespaces": list(namespaces)})
    timer = threading.Timer(self.seconds, child.kill)
    timer.start()
    try:
      child.stdin.write(request.encode() + b"\n")
      child.stdin.flush()
      answer = child.stdout.readline()
    except BrokenPipeError:
      answer = b""
    finally:
      timer.cancel()
    if not answer.endswith(b"\n"):
      self.close()
      raise Skipped("timed out")
    reply = json.loads(answer)
    if "reason" in reply:
      raise Skipped(reply["reason"])
    return reply["text"]

  def _started(self) -> subprocess.Popen:
    if self._child is None:
      root = Path(__file__).resolve().parent.parent
      command = [sys.executable, "-m", "data.wiki"]
      self._child = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
      atexit.register(self.close)
      self._check_ready(self._child)
    return self._child

  def _check_ready(self, child: subprocess.Popen) -> None:
    # The child's start is not the page's time.
    greeting = child.stdout.readline()
    if greeting != b"ready\n":
      self.close()
      raise SourceError("reading wikitext needs the package mwparserfromhell: pip install 'septet[wiki]'")

  def close(self) -> None:
    if self._child is not None:
      self._child.kill()
      self._child.wait()
      self._child.stdin.close()
      self._child.stdout.close()
      self._child = None
      atexit.unregister(self.close)


def _serve() -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
  resource.setrlimit(resource.RLIMIT_AS, (_CHILD_BYTES, _CHILD_BYTES))
  try:
    import mwparserfromhell  # noqa: F401
  except ImportError:
    return
  sys.stdout.buffer.write(b"ready\n")
  sys.stdout.buffer.flush()
  for line in sys.stdin.buffer:
    request = json.loads(line)
    try:
      reply = {"text": prose(request["text"], request["namespaces"])}
    except (Skipped, MemoryError) as error:
      reply = {"reason": str(error) or "over the size limit"}
    sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
  _serve()
