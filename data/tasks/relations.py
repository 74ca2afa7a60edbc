"""Relation classification: how a subject and an object in a sentence are related (TACRED, SemEval-2010 task 8)."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.tasks import pieces
from data.tasks.files import check_span, field, label_ids, optional, read_json, read_lines, strings
from data.tasks.pieces import Part, Pieces
from data.tasks.rows import ENTITIES, TaskError, TaskRow
from data.tokenizers import Tokenizer

MARKERS = ("<ent>", "<ent2>")  # of the head (subject) and of the tail (object)
NONE = "no_relation"  # TACRED
OTHER = "Other"  # SemEval

_SENTENCE = re.compile(r'(\d+)\t"(.*)"')
_MARKED = re.compile(r"(.*)<e1>(.*)</e1>(.*)<e2>(.*)</e2>(.*)|(.*)<e2>(.*)</e2>(.*)<e1>(.*)</e1>(.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class RelationExample:
  """A text, the spans of the head and of the tail in it (characters), and their relation; None where it is unknown.

  name: the example's own identity, which predictions go by; "" where its file says none.
  """

  text: str
  head: tuple[int, int]
  tail: tuple[int, int]
  relation: str | None
  where: str = "example"
  name: str = ""


def read_tacred(path: Path) -> list[RelationExample]:
  """Examples of a TACRED file: a list of {"token", "subj_start", "subj_end", "obj_start", ..., "relation"}.

  Ends are of the last token. The text is the tokens with a space between each two. A file that is only answered has no
  relations.

  Raises:
    TaskError: a file of another form, or mentions outside the sentence or over one another.
  """
  return [_tacred(record, f"{path}, example {i}") for i, record in enumerate(read_json(path, list))]


def _tacred(record: object, where: str) -> RelationExample:
  tokens = strings(record, "token", where)
  spans = []
  for name in ("subj", "obj"):
    first, last = (field(record, f"{name}_{edge}", int, where) for edge in ("start", "end"))
    spans.append(check_span(first, last + 1, len(tokens), name, where))
  example = joined(tokens, *spans, optional(record, "relation", str, where), where)
  return dataclasses.replace(example, name=field(record, "id", str, where)) if "id" in record else example


def joined(
  tokens: Sequence[str], head: tuple[int, int], tail: tuple[int, int], relation: str | None, where: str
) -> RelationExample:
  """The example of a sentence in tokens; `head` and `tail` are spans of tokens, which may not share any."""
  if max(head[0], tail[0]) < min(head[1], tail[1]):
    raise TaskError(f"{where}: got mentions {head} and {tail} over one another, want two apart; leave the example out")
  spans = (characters(tokens, span) for span in (head, tail))
  return RelationExample(" ".join(tokens), *spans, relation, where)


def characters(tokens: Sequence[str], span: tuple[int, int]) -> tuple[int, int]:
  """The span of characters of a span of tokens, in the tokens joined by spaces."""
  first = sum(len(token) + 1 for token in tokens[: span[0]])
  return first, first + len(" ".join(tokens[span[0] : span[1]]))


def read_semeval(path: Path) -> list[RelationExample]:
  """Examples of SemEval-2010 task 8: lines `7<tab>"... <e1>head</e1> ... <e2>tail</e2> ..."` and then the relation.

  The relation may lack, as in the test file without a key. e1 is the head and e2 the tail, whatever the relation's
  direction.

  Raises:
    TaskError: a sentence without its marks, or a relation without its sentence.
  """
  examples: list[RelationExample] = []
  blocks = itertools.groupby(read_lines(path), key=lambda line: bool(line[1].strip()))
  for (where, sentence), *others in (list(lines) for filled, lines in blocks if filled):
    numbered = _SENTENCE.fullmatch(sentence.strip())
    if not numbered:
      raise TaskError(f'{where}: got {sentence:.60}, want NUMBER<tab>"SENTENCE"; correct the file')
    relation = others[0][1].strip() if others and not others[0][1].startswith("Comment:") else None
    examples.append(dataclasses.replace(_semeval(numbered[2], relation, where), name=numbered[1]))
  if not examples:
    raise TaskError(f"{path}: got no sentence, want some; fetch the file again")
  return examples


def _semeval(sentence: str, relation: str | None, where: str) -> RelationExample:
  found = _MARKED.fullmatch(sentence)
  if not found:
    raise TaskError(f"{where}: got {sentence:.60}, want one <e1>...</e1> and one <e2>...</e2> in it; correct the file")
  parts = [part for part in found.groups() if part is not None]
  ends = list(itertools.accumulate(map(len, parts)))
  spans = [check_span(*ends[i : i + 2], ends[-1], "mention", where) for i in (0, 2)]
  head, tail = spans if found[1] is not None else reversed(spans)
  return RelationExample("".join(parts), head, tail, relation, where)


def relation_list(examples: Sequence[RelationExample], none: str | None = NONE) -> tuple[str, ...]:
  """The relations of training examples, `none` before all others and those sorted."""
  found = {example.relation for example in examples if example.relation is not None}
  return (*({none} & found), *sorted(found - {none}))


@dataclasses.dataclass(frozen=True)
class RelationRows:
  """Examples to rows: markers around the head (<ent>) and the tail (<ent2>), and an entity on each with its markers.

  Entity 0 is the head and entity 1 the tail, whichever comes first in the text.

  Attributes:
    max_length: tokens of a row; of a longer text the part around the two mentions is kept.
    max_mention: pieces of a mention that its entity stands on, the first of them.
    entities: False for models without entity inputs: the label stands on the columns of the two first markers, head and
      then tail, in `spans`.
  """

  max_length: int = 512
  max_mention: int = 30
  entities: bool = True

  def __call__(self, examples: Sequence[RelationExample], tokenizer: Tokenizer, labels: Sequence[str]) -> list[TaskRow]:
    """One row with one label an example; raises TaskError for a relation that is no label."""
    markers = pieces.marker_ids(tokenizer, MARKERS)
    encoded = pieces.encode(tokenizer, [(example.text, _parts(example, markers)) for example in examples])
    return [
      self._row(i, e, p, tokenizer, tuple(labels)) for i, (e, p) in enumerate(zip(examples, encoded, strict=True))
    ]

  def _row(
    self, i: int, example: RelationExample, encoded: Pieces, tokenizer: Tokenizer, labels: tuple[str, ...]
  ) -> TaskRow:
    edges = [(int(encoded.parts[n]), int(encoded.parts[n + 3])) for n in (1, 5)]
    kept = pieces.around(len(encoded.ids), edges[0][0], edges[1][1], self.max_length - 2, example.where)
    ids, types = pieces.single(tokenizer, encoded.ids[kept])
    both = [np.arange(*edge, dtype=np.int32) - kept.start + 1 for edge in edges]
    head, tail = both if example.head < example.tail else reversed(both)
    wanted = () if example.relation is None else (example.relation,)
    label = np.array(label_ids(labels, wanted, example.where) or [0], np.int32)
    row = TaskRow(ids, types, label, np.full(1, len(wanted), np.float32), example=i)
    if not self.entities:
      return dataclasses.replace(row, spans=np.array([[head[0], tail[0]]], np.int32))
    entities = np.array([ENTITIES["[MASK]"], ENTITIES["[MASK2]"]], np.int32)
    mentions = (head[: self.max_mention], tail[: self.max_mention])
    return dataclasses.replace(row, slots=np.array([[0, 1]], np.int32), entities=entities, mentions=mentions)


def _parts(example: RelationExample, markers: Sequence[int]) -> list[Part]:
  (left, m), (right, n) = sorted(zip((example.head, example.tail), markers, strict=True))
  return [(0, left[0]), m, left, m, (left[1], right[0]), n, right, n, (right[1], len(example.text))]


def decode(
  examples: Sequence[RelationExample], rows: Sequence[TaskRow], logits: Sequence[np.ndarray], labels: Sequence[str]
) -> list[str]:
  """The relation of each example, that of the highest logit. logits: [1, number of labels] of each row."""
  found = [""] * len(examples)
  for row, values in zip(rows, logits, strict=True):
    found[row.example] = labels[int(np.argmax(values[0]))]
  return found
