"""The tasks by name: files, labels, rows, answers, official figures. The numbers of fine-tuning are the recipe's."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from data.tasks import (
  answers,
  choices,
  cloze,
  docred,
  entity_typing,
  glue,
  metrics,
  named_entities,
  questions,
  relations,
  tagging,
  text_pairs,
  texts,
  word_rows,
)
from data.tasks.rows import TaskError
from data.tasks.task import Further, Task


def _relation_task(name: str, **changes: Any) -> Task:
  base = Task(
    name=name,
    head="relate",
    files={"train": "train.json", "dev": "dev.json", "test": "test.json"},
    read=relations.read_tacred,
    label_list=relations.relation_list,
    rows=relations.RelationRows(),
    decode=relations.decode,
    gold=lambda example: example.relation,
    score=metrics.relation_micro,
    identity=lambda example: example.name or example.where,
    markers={"<ent>": "@", "<ent2>": "#"},
  )
  return dataclasses.replace(base, **changes)


def _typing_task(name: str, **changes: Any) -> Task:
  base = Task(
    name=name,
    head="type",
    files={"train": "train.json", "dev": "dev.json", "test": "test.json"},
    read=entity_typing.read_open_entity,
    label_list=entity_typing.type_list,
    rows=entity_typing.TypingRows(),
    decode=entity_typing.decode,
    gold=lambda example: example.types,
    score=metrics.micro,
    markers={"<ent>": "@"},
  )
  return dataclasses.replace(base, **changes)


def _span_task(name: str, **changes: Any) -> Task:
  base = Task(
    name=name,
    head="spans",
    files={"train": "eng.train", "dev": "eng.testa", "test": "eng.testb"},
    read=named_entities.read_columns,
    label_list=named_entities.span_labels,
    rows=named_entities.SpanRows(),
    decode=named_entities.decode,
    gold=lambda example: example.spans,
    score=metrics.micro,
  )
  return dataclasses.replace(base, **changes)


def _answer_texts(example: questions.QuestionExample) -> list[str] | None:
  return [answer.text for answer in example.answers] if example.answers or example.impossible else None


def _answer_task(name: str, unanswerable: bool) -> Task:
  version, decoder = "2.0" if unanswerable else "1.1", answers.AnswerDecoder(unanswerable=unanswerable)
  return Task(
    name=name,
    head="answer",
    files={"train": f"train-v{version}.json", "dev": f"dev-v{version}.json"},
    read=functools.partial(questions.read_squad, unanswerable="keep" if unanswerable else "skip"),
    label_list=lambda examples: (),
    rows=answers.AnswerRows(),
    decode=decoder,
    gold=_answer_texts,
    score=functools.partial(metrics.answer_scores, unanswerable=unanswerable),
    tuned=answers.best_thresholds if unanswerable else lambda decode, examples, rows, logits: {},
    part=lambda example: ("HasAns" if example.answers else "NoAns") if unanswerable else "",
    identity=lambda example: example.name,
    group=lambda example: example.title or example.passage,
    others={"words_answer": {"rows": word_rows.AnswerWords(), "decode": dataclasses.replace(decoder, max_answer=17)}},
  )


def _tagged(scheme: str, rows: Callable[..., list]) -> dict[str, Any]:
  """What changes where named entities are found by a tag for each word."""
  labels = functools.partial(tagging.tag_labels, scheme=scheme)
  return {"label_list": labels, "rows": rows, "decode": tagging.decode}


_TAGS = {"tag": _tagged("iob2", tagging.TagPieces()), "words_tag": _tagged("bioes", word_rows.TagWords())}


def _text_task(name: str, reader: glue.TextReader, **changes: Any) -> Task:
  """A task of one text or of two, by default in GLUE's files. Its test files say no label, so they are no split."""
  words = "words_classify" if len(reader.texts) == 1 else "words_pair"
  base = Task(
    name=name,
    head="classify",
    files={"train": "train.tsv", "dev": "dev.tsv"},
    read=reader,
    label_list=lambda examples: reader.labels,
    rows=texts.TextRows(),
    decode=relations.decode,
    gold=lambda example: example.label,
    score=metrics.accuracy,
    identity=lambda example: example.name or example.where,
    others={words: {"rows": word_rows.TextWords()}},
  )
  return dataclasses.replace(base, **changes)


def _glue_task(name: str, submission: str, reader: glue.TextReader, **changes: Any) -> Task:
  """A text task whose test file, without labels, is answered by a file to hand in."""
  return _text_task(name, reader, **{"blind": {submission: "test.tsv"}} | changes)


def _choice_task(name: str, **changes: Any) -> Task:
  base = Task(
    name=name,
    head="choose",
    files={"train": "train", "dev": "dev", "test": "test"},
    read=choices.read_race,
    label_list=lambda examples: (),
    rows=choices.ChoiceRows(),
    decode=choices.decode,
    gold=lambda example: example.label,
    score=metrics.accuracy,
    part=lambda example: example.part,
    identity=lambda example: example.name,
    group=lambda example: example.text,
    others={"words_choose": {"rows": word_rows.ChoiceWords()}},
  )
  return dataclasses.replace(base, **changes)


def _same(*names: str) -> dict[str, str]:
  return {name: name for name in names}


_DIVIDED = {"words_classify": {"rows": word_rows.TextWords(split="space")}}  # the files have words
_SENTENCES = ("sentence1", "sentence2")
_INFERENCE = _same("contradiction", "entailment", "neutral")
_NLI = glue.TextReader(_SENTENCES, "gold_label", _INFERENCE)
_SIMILARITY = glue.TextReader(_SENTENCES, "score", None)
_ENTAILMENT = _same("entailment", "not_entailment")
_EQUIVALENT = {"0": "not_equivalent", "1": "equivalent"}
_DUPLICATE = {"0": "not_duplicate", "1": "duplicate"}
_QQP = glue.TextReader(("question1", "question2"), "is_duplicate", _DUPLICATE)
_TEXT_TASKS = (
  _glue_task(
    "sst2", "SST-2", glue.TextReader(("sentence",), "label", {"0": "negative", "1": "positive"}), others=_DIVIDED
  ),
  _text_task(
    "sst5",
    glue.SST5,
    files={"train": "train.txt", "dev": "dev.txt", "test": "test.txt"},
    read=glue.read_sst5,
    others=_DIVIDED,
  ),
  _glue_task(
    "cola",
    "CoLA",
    glue.TextReader(
      ("sentence",), "label", {"0": "unacceptable", "1": "acceptable"}, bare=("source", "label", "mark", "sentence")
    ),
    score=functools.partial(texts.class_matthews, positive="acceptable"),
  ),
  _text_task(
    "mnli",
    _NLI,
    files={"train": "train.tsv", "dev": "dev_matched.tsv"},
    further={
      "mismatched": Further("dev_mismatched.tsv"),
      "diagnostic": Further(
        "diagnostic-full.tsv", glue.TextReader(("Premise", "Hypothesis"), "Label", _INFERENCE), metrics.matthews
      ),
    },
    blind={"MNLI-m": "test_matched.tsv", "MNLI-mm": "test_mismatched.tsv", "AX": "diagnostic.tsv"},
  ),
  _text_task(
    "snli", _NLI, files={"train": "snli_1.0_train.txt", "dev": "snli_1.0_dev.txt", "test": "snli_1.0_test.txt"}
  ),
  _glue_task("qnli", "QNLI", glue.TextReader(("question", "sentence"), "label", _ENTAILMENT)),
  _glue_task("rte", "RTE", glue.TextReader(_SENTENCES, "label", _ENTAILMENT)),
  _glue_task(
    "mrpc",
    "MRPC",
    glue.TextReader(("#1 String", "#2 String"), "Quality", _EQUIVALENT),
    score=functools.partial(texts.accuracy_f1, positive="equivalent"),
  ),
  _glue_task(
    "qqp",
    "QQP",
    _QQP,
    read_train=dataclasses.replace(_QQP, damaged=True),
    score=functools.partial(texts.accuracy_f1, positive="duplicate"),
  ),
  _glue_task(
    "stsb",
    "STS-B",
    _SIMILARITY,
    head="regress",
    rows=texts.TextRows(number=True),
    decode=texts.decode_number,
    score=texts.correlations,
    others={"words_regress": {"rows": word_rows.TextWords(number=True)}},
  ),
  _glue_task("wnli", "WNLI", glue.TextReader(_SENTENCES, "label", {"0": "not_entailment", "1": "entailment"})),
)

_RECORD = Task(
  name="record",
  head="cloze",
  files={"train": "train.json", "dev": "dev.json"},
  read=cloze.read_record,
  label_list=lambda examples: (),
  rows=cloze.ClozeRows(),
  decode=cloze.decode,
  gold=lambda example: None if example.answers is None else example.texts,
  score=metrics.answer_scores,
  identity=lambda example: example.name,
  markers={"[HIGHLIGHT]": "@", "[PLACEHOLDER]": "#", "[ENTITY]": "*"},
)

_EMBED = Task(
  name="embed",
  head="embed",
  files={"train": "train.tsv", "dev": "dev.tsv"},  # test.tsv of STS-B has no scores
  read=text_pairs.PairReader(_SIMILARITY, _NLI),
  label_list=text_pairs.no_labels,
  rows=text_pairs.PairRows(),
  decode=text_pairs.decode,
  gold=lambda example: example.score,
  unlabelled=True,
  score=texts.correlations,
  identity=lambda example: example.name or example.where,
)

_DOCRED = {"train": "train_revised.json", "dev": "dev_revised.json", "test": "test_revised.json"}

TASKS: dict[str, Task] = {
  task.name: task
  for task in (
    _typing_task("open_entity"),
    _typing_task("redocred_types", files=_DOCRED, read=docred.read_typing),
    _relation_task("tacred"),
    _relation_task(
      "semeval",
      files={"train": "TRAIN_FILE.TXT", "test": "TEST_FILE_FULL.TXT"},
      read=relations.read_semeval,
      label_list=functools.partial(relations.relation_list, none=relations.OTHER),
      score=metrics.relation_macro,
    ),
    _relation_task("redocred_relations", files=_DOCRED, read=docred.read_relations),
    _span_task("conll2003", others=_TAGS),
    _span_task(
      "wnut17",
      others=_TAGS,
      files={"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"},
    ),
    _span_task("redocred_mentions", others={"tag": _TAGS["tag"]}, files=_DOCRED, read=docred.read_documents),
    _RECORD,
    _answer_task("squad", unanswerable=False),
    _answer_task("squad2", unanswerable=True),
    _choice_task("swag", files={"train": "train.csv", "dev": "val.csv"}, read=choices.read_swag),
    _choice_task("race"),
    _EMBED,
    *_TEXT_TASKS,
  )
}


def find(name: str) -> Task:
  """The task of a name; TaskError where there is none."""
  if name not in TASKS:
    raise TaskError(f"task: got {name!r}, want one of {', '.join(TASKS)}")
  return TASKS[name]
