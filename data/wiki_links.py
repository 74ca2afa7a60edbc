"""The text of a wiki page with its links, by the rules of wikipedia2vec 1.0, from which LUKE's corpus was made.

Only nodes at the top level of a page count: text, links, the titles of external links, and b, i and u. Lists keep their
text; templates, tables, references and headings go. A line of text is a paragraph. We depart from those rules in two
places: character references (`&nbsp;`) become their characters instead of vanishing, and a link that shows a namespace
or a language ("Category:Birds", "de:Vogel") is blanked here, where LUKE blanks categories later and others never.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from data import titles
from data.documents import Skipped
from data.wikitext import INTERLANGUAGE, NAMESPACES

PARSER = "wikipedia2vec-1.0, character references read, shown namespaces blanked"

_STYLE = re.compile("'{2,}")
_STYLED_TAGS = frozenset(("b", "i", "u"))
_LINES = str.maketrans("\n\r", "  ")
# LUKE blanked these because the sentence splitters it called count UTF-16 units; vocabularies learned from its corpus
# never saw them. Lone surrogates come from character references, and are no text.
_OUTSIDE_BMP = re.compile("[\U00010000-\U0010ffff\ud800-\udfff]")

Link = tuple[int, int, str]


def linked(wikitext: str, namespaces: Iterable[str] = ()) -> tuple[str, list[Link]]:
  """(text with one paragraph a line, its links as (first, end, title) in characters of that text, in order).

  Titles are normalised, redirects not resolved. Links to files and categories are links as others are where they show
  text. `namespaces` are a site's own names beside the English ones.

  Raises:
    Skipped: "bad markup" where the page does not parse.
  """
  import mwparserfromhell

  spaces = NAMESPACES | {name.lower() for name in namespaces}
  parts: list[str] = []
  links: list[Link] = []
  size = 0
  try:
    for text, title in _parts(_parsed(_STYLE.sub("", wikitext)), spaces):
      if title and text.strip():
        links.append((size, size + len(text), title))
      parts.append(text)
      size += len(text)
  except (mwparserfromhell.parser.ParserError, RecursionError) as error:
    raise Skipped("bad markup") from error
  return _OUTSIDE_BMP.sub(" ", "".join(parts)), links


def _parsed(wikitext: str):
  """The page's nodes but those that show nothing here, whose building would take two thirds of the time."""
  from mwparserfromhell.parser import Parser

  parser = Parser()
  return parser._builder.build(_wanted(parser._tokenizer.tokenize(wikitext)))  # noqa: SLF001  no public way between


def _wanted(tokens: list) -> list:
  """The parser's tokens without templates, and at the top level without tags that are not shown."""
  from mwparserfromhell.parser import tokens as kinds

  openings = {kinds.TemplateOpen, kinds.WikilinkOpen, kinds.ExternalLinkOpen, kinds.HeadingStart, kinds.TagOpenOpen}
  closings = {kinds.TemplateClose, kinds.WikilinkClose, kinds.ExternalLinkClose, kinds.HeadingEnd}
  closings |= {kinds.TagCloseSelfclose, kinds.TagCloseClose}
  kept = []
  depth = dropped = 0  # `dropped` is the depth at which what is dropped began
  for number, token in enumerate(tokens):
    kind = type(token)
    if kind in openings:
      depth += 1
      if not dropped and (kind is kinds.TemplateOpen or (depth == 1 and _is_unseen_tag(token, tokens[number + 1]))):
        dropped = depth
    if not dropped:
      kept.append(token)
    if kind in closings:
      dropped = 0 if dropped == depth else dropped
      depth -= 1
  return kept


def _is_unseen_tag(token, following) -> bool:
  from mwparserfromhell.parser import tokens as kinds

  return type(token) is kinds.TagOpenOpen and str(following.text).strip() not in _STYLED_TAGS


def _parts(code, spaces: frozenset[str] | set[str]) -> Iterator[tuple[str, str]]:
  """(text, title of the link that it shows or "") of each node that has text."""
  from mwparserfromhell import nodes

  for node in code.nodes:
    if isinstance(node, nodes.Text):
      yield node.value, ""
    elif isinstance(node, nodes.Wikilink):
      yield _link(node, spaces)
    elif isinstance(node, nodes.ExternalLink):
      if node.title is not None:
        yield _shown(node.title), ""
    elif isinstance(node, nodes.HTMLEntity):
      yield node.normalize().translate(_LINES), ""
    elif isinstance(node, nodes.Tag) and str(node.tag).strip() in _STYLED_TAGS and node.contents is not None:
      yield _shown(node.contents), ""


def _link(node, spaces: frozenset[str] | set[str]) -> tuple[str, str]:
  written = _shown(node.title)
  title = titles.normalise(written)
  text = written if node.text is None else _shown(node.text)
  space = titles.prefix(title)
  if space in spaces:
    text = text.rpartition("|")[2]  # of an image, after its settings: the caption
  names_language = node.text is None and INTERLANGUAGE.fullmatch(titles.prefix(written))
  if (space in spaces and titles.prefix(text) in spaces) or names_language:
    return " " * len(text), ""
  return text, title


def _shown(code) -> str:
  """The text that a part of a page shows, on one line."""
  from mwparserfromhell import nodes

  if all(isinstance(node, nodes.Text) for node in code.nodes):  # most: `strip_code` takes ten times as long
    return "".join(node.value for node in code.nodes).strip("\n").translate(_LINES)
  return code.strip_code().translate(_LINES)
