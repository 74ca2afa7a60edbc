"""Documents with entities and relations (DocRED, Yao et al., 2019; Re-DocRED, Tan et al., 2022) as three tasks.

A file is a list of {"title", "sents", "vertexSet", "labels"}: sentences in words, for each entity its mentions
("sent_id", "pos" in words of the sentence, "type"), and relations ("h", "t", "r") between entities.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.tasks.entity_typing import TypingExample
from data.tasks.files import check_span, field, listed, optional, read_json, strings
from data.tasks.named_entities import TaggedDocument
from data.tasks.relations import NONE, RelationExample, characters, joined
from data.tasks.rows import TaskError


@dataclasses.dataclass(frozen=True)
class _Mention:
  sentence: int
  span: tuple[int, int]
  kind: str


@dataclasses.dataclass(frozen=True)
class _Document:
  sentences: list[list[str]]
  entities: list[list[_Mention]]
  relations: dict[tuple[int, int], list[str]] | None  # None where the file says none, as DocRED's test file
  where: str


def read_typing(path: Path) -> list[TypingExample]:
  """An example a mention: its sentence, and the types of its entity's mentions."""
  examples = []
  for document in _documents(path):
    for mentions in document.entities:
      types = tuple(sorted({mention.kind for mention in mentions}))
      for mention in mentions:
        words = document.sentences[mention.sentence]
        examples.append(TypingExample(" ".join(words), characters(words, mention.span), types, document.where))
  return examples


def read_relations(path: Path) -> list[RelationExample]:
  """An example for each ordered pair of entities with mentions side by side in a sentence, the first such.

  A pair without a relation is an example of "no_relation"; one with several is left out, as an example has one. Where a
  file says no relations, nobody knows those of its pairs.
  """
  return [example for document in _documents(path) for example in _pairs(document)]


def read_documents(path: Path) -> list[TaggedDocument]:
  """Whole documents with their mentions as named entities; of mentions over one another the longest, then the first."""
  return [_tagged(document) for document in _documents(path)]


def _pairs(document: _Document) -> Iterator[RelationExample]:
  for head, tail in itertools.permutations(range(len(document.entities)), 2):
    relations = [None] if document.relations is None else document.relations.get((head, tail), [NONE])
    sides = itertools.product(document.entities[head], document.entities[tail])
    near = [(a, b) for a, b in sides if a.sentence == b.sentence and not _overlap(a.span, b.span)]
    if near and len(relations) == 1:
      first, second = min(near, key=lambda pair: pair[0].sentence)
      yield joined(document.sentences[first.sentence], first.span, second.span, relations[0], document.where)


def _tagged(document: _Document) -> TaggedDocument:
  bounds = np.cumsum([0, *map(len, document.sentences)]).tolist()
  mentions = itertools.chain.from_iterable(document.entities)
  found = sorted(
    ((bounds[m.sentence] + m.span[0], bounds[m.sentence] + m.span[1], m.kind) for m in mentions),
    key=lambda span: (span[0] - span[1], span),
  )
  kept: list[tuple[int, int, str]] = []
  for span in found:
    if not any(_overlap(span, other) for other in kept):
      kept.append(span)
  words = tuple(itertools.chain.from_iterable(document.sentences))
  return TaggedDocument(words, tuple(bounds), tuple(sorted(kept)), document.where)


def _overlap(a: tuple, b: tuple) -> bool:
  return max(a[0], b[0]) < min(a[1], b[1])


def _documents(path: Path) -> Iterator[_Document]:
  for i, record in enumerate(read_json(path, list)):
    yield _document(record, f"{path}, document {i}")


def _document(record: object, where: str) -> _Document:
  sentences = [_words(words, f"{where}, sentence {i}") for i, words in enumerate(field(record, "sents", list, where))]
  entities = []
  for mentions in listed(record, "vertexSet", list, where):
    entities.append([_mention(mention, sentences, where) for mention in mentions])
  relations: dict[tuple[int, int], list[str]] = defaultdict(list)
  found = optional(record, "labels", list, where)
  for relation in found or ():
    pair = tuple(field(relation, side, int, where) for side in ("h", "t"))
    if not all(0 <= entity < len(entities) for entity in pair):
      raise TaskError(
        f"{where}: got a relation of entities {pair}, want two of 0 to {len(entities) - 1}; correct the file"
      )
    relations[pair].append(field(relation, "r", str, where))
  return _Document(sentences, entities, None if found is None else dict(relations), where)


def _words(words: object, where: str) -> list[str]:
  found = strings({"sents": words}, "sents", where)
  if "" in found:
    raise TaskError(f"{where}: got '' for word {found.index('')}, want a word; correct the file")
  return found


def _mention(record: object, sentences: list[list[str]], where: str) -> _Mention:
  sentence, position = field(record, "sent_id", int, where), listed(record, "pos", int, where)
  if not 0 <= sentence < len(sentences) or len(position) != 2:
    raise TaskError(f"{where}: got a mention in sentence {sentence} at {position}, want one of {len(sentences)}")
  span = check_span(*position, len(sentences[sentence]), f"mention in sentence {sentence}", where)
  return _Mention(sentence, span, field(record, "type", str, where))
