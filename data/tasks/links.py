"""Entities of a passage from the links of the article that it was taken from, as LUKE's entities of SQuAD are found.

Where the texts of an article's links stand in a question or a passage, they are taken for mentions of what the links
lead to (Yamada et al., 2020, section 4.5).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.tasks.files import field, read_lines
from data.tasks.named_entities import is_mark
from data.tasks.rows import TaskError

Known = Mapping[str, int | None]  # lower-case text -> entity; None = one that the vocabulary lacks
Mention = tuple[int, int, int]  # first piece, one past the last, entity
LEAST = 0.01  # of a text's occurrences those that are links, for the text to count
LONGEST = 30  # pieces of a mention


def read_links(path: Path, titles: Collection[str], id_of: Callable[[str], int | None]) -> Callable[[str], Known]:
  """What the texts of the links of articles mean, by the article's title; nothing for an article without a line.

  Args:
    path: of lines {"title": ARTICLE, "links": [[TEXT, TITLE, LINKS, DOCUMENTS], ...]}: of DOCUMENTS with the text LINKS
      have it as a link to TITLE.
    titles: articles that are asked for, with spaces; others are not kept.
    id_of: title -> entity, None where the vocabulary has none.
  Raises:
    TaskError: a line of another form, or no line for any of the titles.
  """
  known: dict[str, Known] = {}
  for where, line in read_lines(path):
    if not line.strip():
      continue
    try:
      record = json.loads(line)
    except json.JSONDecodeError as error:
      raise TaskError(f"{where}: got {error.msg}, want a JSON object; correct the file") from None
    title = field(record, "title", str, where).replace("_", " ")
    found = [_link(link, where) for link in field(record, "links", list, where)]
    if title in titles:
      known[title] = known_texts(found, id_of)
  if not known:
    some = ", ".join(sorted(titles)[:3])
    raise TaskError(
      f"{path}: got no line for any of {len(titles)} articles ({some}), want their links; check the titles"
    )
  return lambda title: known.get(title, {})


def _link(link: object, where: str) -> tuple[str, str, float]:
  """(text, title, share of the documents with the text in which it is a link)."""
  kinds = (str, str, int, int)
  if not isinstance(link, list) or [type(part) for part in link] != [*kinds] or link[2] < 0 or link[3] < 1:
    raise TaskError(f"{where}: got link {link!r:.60}, want [TEXT, TITLE, LINKS, DOCUMENTS]; correct the file")
  return link[0], link[1], link[2] / link[3]


def known_texts(links: Iterable[tuple[str, str, float]], id_of: Callable[[str], int | None]) -> dict[str, int | None]:
  """What the texts of an article's links mean.

  Args:
    links: (text, title that it leads to, share of the documents with the text in which it is a link).
    id_of: title -> entity, None where the vocabulary has none; redirects are its affair.

  Texts that lead to several titles are left out; those that lead to a title without an entity are kept, with None: they
  still are no mention of anything shorter inside them.
  """
  titles: dict[str, set[str]] = {}
  for text, title, probability in links:
    if probability >= LEAST:
      titles.setdefault(_normal(text), set()).add(title)
  return {text: id_of(*found) for text, found in titles.items() if len(found) == 1}


def find(text: str, offsets: np.ndarray, known: Known) -> list[Mention]:
  """(first piece, one past the last, entity) of the mentions in a text, from left to right, the longest first.

  A mention begins and ends where a mark or, after a space, a word begins, and has at most LONGEST pieces.

  Args:
    offsets: int32[n, 2], characters of the text's pieces.
  """
  if not known:
    return []
  edges = [i for i, (first, _) in enumerate(offsets.tolist()) if _is_edge(text, first)]
  found, done = [], 0
  for n, first in enumerate(edges):
    if first >= done:
      ends = [end for end in [*edges[n + 1 : n + 1 + LONGEST], len(offsets)] if end - first <= LONGEST]
      for end in reversed(ends):
        mention = _normal(text[offsets[first, 0] : offsets[end - 1, 1]])
        if mention in known:
          done, entity = end, known[mention]
          found += [] if entity is None else [(first, end, entity)]
          break
  return found


def inside(mentions: Sequence[Mention], first: int, end: int, column: int) -> list[tuple[int, np.ndarray]]:
  """(entity, columns) of the mentions whole within pieces `first` to `end`, the first of which stands in `column`."""
  shift = column - first
  return [(e, np.arange(a + shift, b + shift, dtype=np.int32)) for a, b, e in mentions if first <= a and b <= end]


def _is_edge(text: str, first: int) -> bool:
  return first == 0 or text[first - 1].isspace() or (first < len(text) and is_mark(text[first]))


def _normal(text: str) -> str:
  return " ".join(text.lower().split())
