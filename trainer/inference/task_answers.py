"""What models that are fine-tuned on a task say: classes of texts, tags of words, right choices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data.tasks import certainty, tags
from data.tasks.choices import ChoiceExample
from data.tasks.named_entities import TaggedDocument
from data.tasks.rows import TaskError
from data.tasks.texts import TextExample
from data.tokenizers.words import SPECIALS, Words, checked_split
from trainer.inference.entity_answers import Label
from trainer.inference.mentions import entities_of
from trainer.inference.running import Report
from trainer.inference.task_logits import (
  CHOICES,
  NUMBERS,
  TEXTS,
  WORDS,
  fitting_rows,
  logits_of,
  longest_row,
  rows_of,
  with_head,
)
from trainer.inference.tuned import Tuned
from trainer.loading import Loaded
from trainer.texts import InputError, check_list


@dataclasses.dataclass(frozen=True)
class Classified:
  """The likeliest classes of a text or a pair, best first, or the number that a head of one output gives.

  cut: whether the end of the text was left out.
  """

  labels: list[Label]
  number: float | None = None
  cut: bool = False


@dataclasses.dataclass(frozen=True)
class Entity:
  """Characters [start, end) of a text, which are of a type.

  probability: of a span, or the product of its words' tags'; None where a CRF decides tags together.
  """

  start: int
  end: int
  type: str
  text: str
  probability: float | None


@dataclasses.dataclass(frozen=True)
class Tagged:
  """Words of a text, the class of each (by IOB2 where spans are found and not tags), and the entities these say.

  There are no entities where the classes are no tags of such, as those of parts of speech.
  """

  words: list[str]
  tags: list[str]
  spans: list[Entity]


@dataclasses.dataclass(frozen=True)
class Chosen:
  """The number of the likeliest choice, from 0, and the probability of each."""

  number: int
  probabilities: list[float]


def classify(
  loaded: Loaded,
  texts: Sequence[str | tuple[str, ...]],
  top: int = 1,
  batch_size: int = 32,
  max_length: int | None = None,
  cut: bool = False,
  split: str | None = None,
  report: Report | None = None,
) -> list[Classified]:
  """The `top` likeliest classes of each text or pair of texts; of a head that was trained on numbers, a number.

  Args:
    max_length: tokens of a text or pair, special ones included; words of a text where a network on an ELMo reads it.
      By default `loaded.max_length`.
    cut: what is longer is cut as in training; otherwise it is refused.
    split: of a network on an ELMo, what divides texts into words, one of `words.SPLITS`; by default as it was trained.
  Raises:
    InputError: the model has no such head, wants pairs or no pairs, or a text is longer.
  """
  own = with_head(loaded, *TEXTS)
  check_list(texts)
  names = own.names()
  if top != 1 and not 1 <= top <= len(names):
    raise InputError(f"top: got {top}, want a number from 1 to {max(len(names), 1)}, the classes that there are")
  if split is not None:
    own = _divided(own, split)
  sides = [(each,) if isinstance(each, str) else tuple(each) for each in texts]
  _check_sides(own, sides)
  examples = [TextExample(each, None, f"text {i}") for i, each in enumerate(sides, 1)]
  rows, long = fitting_rows(own, examples, longest_row(own, max_length), cut)
  logits = logits_of(own, rows, batch_size, report)
  if own.task.head in NUMBERS:
    numbers = own.task.decode(examples, rows, logits, names)
    return [Classified([], number, i in long) for i, number in enumerate(numbers)]
  found = []
  for i, values in enumerate(logits):
    shares = certainty.softmax(values[0])
    best = np.argsort(-shares, kind="stable")[:top]
    found.append(Classified([Label(names[k], float(shares[k])) for k in best], cut=i in long))
  return found


def _divided(own: Tuned, split: str) -> Tuned:
  if own.words is None:
    raise InputError(f"split: is of a network on an ELMo, and {own.source} is none; leave it out")
  rows = dataclasses.replace(own.task.rows, split=checked_split(split))
  return dataclasses.replace(own, task=dataclasses.replace(own.task, rows=rows))


def _check_sides(own: Tuned, sides: Sequence[tuple[str, ...]]) -> None:
  """Refuses pairs where a model was trained on texts, and texts where it was trained on pairs."""
  kinds, wanted = {1: "one text", 2: "a pair"}, (1, 2) if own.texts is None else (own.texts,)
  for i, each in enumerate(sides, 1):
    if len(each) not in wanted:
      want = "one text or a pair" if own.texts is None else f"{kinds[own.texts]}, as {own.task.name} has"
      how = "; give the second text too" if len(each) == 1 else ""
      raise InputError(f"text {i}: got {kinds.get(len(each), f'{len(each)} texts')}, want {want}: {own.source}{how}")


def choose(
  loaded: Loaded,
  texts: Sequence[str],
  choices: Sequence[Sequence[str]],
  batch_size: int = 32,
  max_length: int | None = None,
  cut: bool = False,
  report: Report | None = None,
) -> list[Chosen]:
  """Which of several texts goes with each text.

  Args:
    max_length, cut: of a text with one choice, see `classify`.
  Raises:
    InputError: the model has no such head, fewer than two choices, or a text is longer.
  """
  own = with_head(loaded, *CHOICES)
  check_list(texts)
  if len(choices) != len(texts):
    raise InputError(f"choices: got those of {len(choices)} texts, want {len(texts)}; give a list for each text")
  for i, each in enumerate(choices, 1):
    check_list(each, f"choices of text {i}")
    if len(each) < 2:
      raise InputError(f"text {i}: got {len(each)} choices, want two at least")
  pairs = zip(texts, choices, strict=True)
  examples = [
    ChoiceExample(str(i), text, tuple(own), None, where=f"text {i}") for i, (text, own) in enumerate(pairs, 1)
  ]
  rows, _ = fitting_rows(own, examples, longest_row(own, max_length), cut)
  logits = logits_of(own, rows, batch_size, report)
  found = own.task.decode(examples, rows, logits, ())
  return [Chosen(number, certainty.softmax(values).tolist()) for number, values in zip(found, logits, strict=True)]


def tag(
  loaded: Loaded,
  texts: Sequence[str],
  split: str | None = None,
  batch_size: int = 32,
  max_length: int | None = None,
  report: Report | None = None,
) -> list[Tagged]:
  """The class of each word of each text, and the entities that these say or, of LUKE's head of spans, are found.

  A text of more than `max_length` tokens is read in parts, cut between words.

  Args:
    split: what divides texts into words, one of `words.SPLITS`; by default white space, or as the model was trained.
  Raises:
    InputError: the model has no such head, or a word is longer than a row.
  """
  own = with_head(loaded, *WORDS)
  check_list(texts)
  names, plain = own.names(), "space" if own.words is None else own.words.tokenizer.split
  divided = Words(SPECIALS, split=checked_split(plain if split is None else split)).encode(list(texts))
  places = [encoding.offsets.tolist() for encoding in divided]
  words = [tuple(text[a:b] for a, b in each) for text, each in zip(texts, places, strict=True)]
  documents = [
    TaggedDocument(each, (0, len(each)) if each else (0,), None, f"text {i}") for i, each in enumerate(words, 1)
  ]
  rows = rows_of(own, documents, longest_row(own, max_length))
  if own.task.head == "spans":
    mask = entities_of(own).special.mask  # of the model's own table, where it is another than the task's
    rows = [dataclasses.replace(row, entities=np.full_like(row.entities, mask)) for row in rows]
  logits = logits_of(own, rows, batch_size, report)
  spans: list[tuple[tags.Span, ...]] = [()] * len(words)
  if own.task.head == "spans" or all(map(_is_tag, names)):
    spans = own.task.decode(documents, rows, logits, names)
  said = certainty.beside(own.task, documents, rows, logits, names, spans)
  found = []
  for text, place, each, beside in zip(texts, places, spans, said, strict=True):
    shares = beside.get("probabilities", [None] * len(each))
    bounds = [(place[first][0], place[end - 1][1], kind) for first, end, kind in each]
    found.append([Entity(a, b, kind, text[a:b], p) for (a, b, kind), p in zip(bounds, shares, strict=True)])
  classes = _tags(own, documents, rows, logits, spans)
  return [Tagged(list(each), own, entities) for each, own, entities in zip(words, classes, found, strict=True)]


def _is_tag(name: str) -> bool:
  try:
    tags.split(name)
  except TaskError:
    return False
  return True


def _tags(
  own: Tuned, documents: Sequence[TaggedDocument], rows: Sequence, logits: Sequence[np.ndarray], spans: Sequence
) -> list[list[str]]:
  """The class of each word; O for a word that the model reads nothing of."""
  if own.task.head == "spans":
    return [tags.tags_of(found, len(each.words)) for found, each in zip(spans, documents, strict=True)]
  names, said = own.names(), [["O"] * len(each.words) for each in documents]
  for row, values in zip(rows, logits, strict=True):
    classes = values if values.ndim == 1 else np.argmax(values, axis=-1)
    for place, word in row.window.tolist():
      said[row.example][word] = names[classes[place]]
  return said
