"""The prose of a wiki page: what the encoders were pretrained on, text passages without lists, tables and headings.

Lists, tables and headings go, as in BERT, section 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from data.documents import Skipped

_ITEM = "\x01"  # marks a list item; control characters never reach a page's text

_DROPPED_TAGS = frozenset(
  ("ref", "references", "table", "gallery", "math", "chem", "timeline", "score", "style", "script", "graph", "hiero")
  + ("syntaxhighlight", "source", "pre", "imagemap", "templatestyles", "indicator", "noinclude")
)
_LIST_TAGS = frozenset(("li", "dd", "dt"))
NAMESPACES = frozenset(("file", "image", "media", "category", "template", "portal", "wikipedia", "help", "user"))
INTERLANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*")


def prose(wikitext: str, namespaces: Iterable[str] = ()) -> str:
  """The running text of a page, one paragraph a line.

  Headings, lists, tables, templates, references, comments and links to files and categories are dropped; other links
  become the text they show. A paragraph with markup that does not parse is dropped. `namespaces` are a site's own
  names beside the English ones.
  """
  import mwparserfromhell

  dropped = NAMESPACES | {name.lower() for name in namespaces}
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
  if colon and (prefix.lower() in dropped or (node.text is None and INTERLANGUAGE.fullmatch(prefix))):
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
