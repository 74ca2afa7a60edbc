"""Tasks from TensorFlow Datasets: a split is read like the official file that it was made from.

`task.dir` is tfds:NAME, as tfds:glue/sst2, or tfds:NAME:VERSION, of a data set prepared in TFDS's own folder (the
environment's TFDS_DATA_DIR, else ~/tensorflow_datasets), or tfds:FOLDER, the folder of one with its version. Records
are read by random access, so they must be ArrayRecord; nothing is fetched or prepared here. A split becomes lines of
the task's own format, so that the task's reader makes, checks and refuses examples as it does those of files.

GLUE's examples come in the order of their files, others in TFDS's own, which is shuffled: CoNLL-2003's sentences are
documents of their own, as nothing says which were neighbours.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import operator
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.tasks.files import Line, RecordFile, digest
from data.tasks.rows import TaskError

if TYPE_CHECKING:
  from data.tasks.task import Task

PREFIX = "tfds:"
_AT_ONCE = 1024  # records

Records = Iterator[tuple[str, dict]]  # where, features
Labels = dict[int, str]  # TFDS's number -> label as the task's files have it


@dataclasses.dataclass(frozen=True)
class _DataSet:
  """What a data set of TFDS has for a task.

  Attributes:
    splits: official file -> split.
    features: those that are read.
    label: of them the one with class numbers; "" where there is none.
    lines: (records, labels) -> lines of the task's own format.
  """

  splits: Mapping[str, str]
  features: tuple[str, ...]
  label: str
  lines: Callable[[Records, Labels], Iterator[Line]]


def _texts(features: tuple[str, ...], splits: Mapping[str, str], undecided: str = "") -> _DataSet:
  """Texts with a class or a number. undecided: a file's label where TFDS has -1; "" where that says there is none."""

  def lines(records: Records, labels: Labels) -> Iterator[Line]:
    for where, record in records:
      own = {name: _string(record[feature]) for name, feature in zip(("text_a", "text_b"), features)}
      if (value := record["label"]) >= 0:
        own["label"] = labels[value] if labels else str(np.float32(value))  # a file's 3.8, not 3.799999952316284
      elif undecided:
        own["label"] = undecided
      own |= {"idx": int(record["idx"])} if "idx" in record else {}
      yield where, json.dumps(own)

  return _DataSet(splits, (*features, "label"), "label", lines)


def _questions(records: Records, labels: Labels) -> Iterator[Line]:
  """An article for each question."""
  yield "", '{"data": ['
  for number, (where, record) in enumerate(records):
    found = zip(record["answers"]["text"], record["answers"]["answer_start"], strict=True)
    asked = {name: _string(record[name]) for name in ("id", "question")}
    asked["answers"] = [{"text": _string(text), "answer_start": int(start)} for text, start in found]
    if "is_impossible" in record:
      asked["is_impossible"] = bool(record["is_impossible"])
    paragraph = {"context": _string(record["context"]), "qas": [asked]}
    yield where, "," * (number > 0) + json.dumps({"title": _string(record["title"]), "paragraphs": [paragraph]})
  yield "", "]}"


def _tagged_words(records: Records, labels: Labels) -> Iterator[Line]:
  for where, record in records:
    for word, tag in zip(record["tokens"], record["ner"], strict=True):
      yield where, f"{_string(word)}\t{labels[tag]}"
    yield where, ""


def _string(value: bytes | str) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)


def _squad(version: str) -> _DataSet:
  features = ("id", "title", "context", "question", "answers")
  splits = {f"train-v{version}.json": "train", f"dev-v{version}.json": "validation"}
  return _DataSet(splits, features + ("is_impossible",) * (version == "2.0"), "", _questions)


_FILES = {"train.tsv": "train", "dev.tsv": "validation", "test.tsv": "test"}
_PAIR, _INFERENCE = ("sentence1", "sentence2"), ("premise", "hypothesis")
_MATCHED = {f"{name}_{part}.tsv": f"{split}_{part}" for name, split in (("dev", "validation"), ("test", "test"))
            for part in ("matched", "mismatched")}  # fmt: skip
_SNLI = {f"snli_1.0_{name}.txt": split for name, split in (("train", "train"), ("dev", "validation"), ("test", "test"))}
_CONLL = {"eng.train": "train", "eng.testa": "dev", "eng.testb": "test"}
SETS: dict[str, tuple[str, _DataSet]] = {  # task -> name of the data set, what it has
  "cola": ("glue/cola", _texts(("sentence",), _FILES)),
  "sst2": ("glue/sst2", _texts(("sentence",), _FILES)),
  "mrpc": ("glue/mrpc", _texts(_PAIR, _FILES)),
  "qqp": ("glue/qqp", _texts(("question1", "question2"), _FILES)),
  "stsb": ("glue/stsb", _texts(_PAIR, _FILES)),
  "mnli": ("glue/mnli", _texts(_INFERENCE, {"train.tsv": "train"} | _MATCHED)),
  "qnli": ("glue/qnli", _texts(("question", "sentence"), _FILES)),
  "rte": ("glue/rte", _texts(_PAIR, _FILES)),
  "wnli": ("glue/wnli", _texts(_PAIR, _FILES)),
  "snli": ("snli", _texts(_INFERENCE, _SNLI, undecided="-")),
  "squad": ("squad/v1.1", _squad("1.1")),
  "squad2": ("squad/v2.0", _squad("2.0")),
  "conll2003": ("conll2003", _DataSet(_CONLL, ("tokens", "ner"), "ner", _tagged_words)),
}


@dataclasses.dataclass(frozen=True)
class SplitFile(RecordFile):
  """A split, or a slice of one, as a file of its task."""

  spec: str
  split: str
  task: Task = dataclasses.field(repr=False, compare=False)
  builder: Any = dataclasses.field(repr=False, compare=False)

  def __str__(self) -> str:
    return f"{self.spec} {self.split}"

  def exists(self) -> bool:
    try:
      return self.builder.info.splits[self.split].num_examples >= 0
    except (KeyError, ValueError):  # no such split, or no slice
      return False

  @property
  def digest(self) -> str:
    """Of the data set's name and version, the split and the content of its record files."""
    files = [digest(Path(path)) for path in self.builder.info.splits[self.split].filepaths]
    return hashlib.sha256(json.dumps([self.builder.info.full_name, self.split, files]).encode()).hexdigest()

  @functools.cached_property
  def lines(self) -> tuple[Line, ...]:
    """Raises TaskError where records cannot be read."""
    own = SETS[self.task.name][1]
    try:
      return tuple(own.lines(self._records(), self._labels(own.label)))
    except Exception as error:  # noqa: BLE001  the formats raise what their readers raise; the line names the split
      raise TaskError(f"{self}: cannot be read ({_first_line(error)}); prepare the data set again") from error

  def _records(self) -> Records:
    """Records in the order of their official file where they say their number in it, else in that of TFDS."""
    source = self.builder.as_data_source(self.split)
    blocks = (range(first, min(first + _AT_ONCE, len(source))) for first in range(0, len(source), _AT_ONCE))
    records = [record for block in blocks for record in source.__getitems__(list(block))]
    if "idx" in self.builder.info.features:
      records.sort(key=operator.itemgetter("idx"))
    for number, record in enumerate(records):
      yield f"{self}, example {int(record['idx']) if 'idx' in record else number}", record

  def _labels(self, name: str) -> Labels:
    feature = self.builder.info.features[name] if name else None
    names = getattr(getattr(feature, "feature", feature), "names", None) or ()  # a sequence's are its element's
    written = {name: label for label, name in (getattr(self.task.read, "classes", None) or {}).items()}
    return {number: written.get(name, name) for number, name in enumerate(names)}


def split_file(task: Task, spec: str, name: str) -> SplitFile:
  """The split of a data set that stands for a file of the task, or one that is named itself.

  Args:
    spec: see the module.
    name: an official file, whose split need not exist, or a split or slice, as train[:10%].
  Raises:
    TaskError: a task that TFDS does not have, another data set, one that is not prepared as ArrayRecord, no such split.
  """
  if task.name not in SETS:
    raise TaskError(f"task {task.name}: got task.dir={spec}, want a folder; of TFDS there are {', '.join(SETS)}")
  builder, own = _opened(task.name, spec), SETS[task.name][1]
  file = SplitFile(spec, own.splits.get(name, name), task, builder)
  official = {*task.files.values(), *task.blind.values(), *(other.file for other in task.further.values())}
  if name not in official and not file.exists():
    some = ", ".join(builder.info.splits)
    raise TaskError(f"task {task.name}: {spec}: got split {name!r}, want one of {some} or a slice as train[:10%]")
  return file


def _opened(task: str, spec: str) -> Any:
  """The builder of a prepared data set, which must be the task's."""
  import tensorflow_datasets as tfds  # slow

  rest, wanted = spec.removeprefix(PREFIX), SETS[task][0]
  in_folder = (Path(rest) / "dataset_info.json").is_file()
  if not in_folder and rest.partition(":")[0] != wanted:
    raise TaskError(
      f"task {task}: got task.dir={spec}, want tfds:{wanted}, tfds:{wanted}:VERSION, or tfds:FOLDER with the folder of "
      "a version of that data set"
    )
  find = tfds.core.read_only_builder.builder_from_files  # reads files alone; tfds.builder may ask the network
  try:
    builder = tfds.builder_from_directory(rest) if in_folder else find(rest)
  except tfds.core.registered.DatasetNotFoundError:
    raise TaskError(
      f"task {task}: {spec}: is not prepared below {tfds.core.constants.DATA_DIR}; set TFDS_DATA_DIR to where it is, "
      f"or prepare it: {_prepare(wanted)}"
    ) from None
  except Exception as error:  # noqa: BLE001  TFDS raises what its parts raise; the line names the data set
    raise TaskError(f"task {task}: {spec}: cannot be opened ({_first_line(error)}); prepare it again") from error
  if complaint := _complaint(builder.info, *SETS[task]):
    raise TaskError(f"task {task}: {spec}: {complaint}")
  return builder


def _complaint(info: Any, wanted: str, own: _DataSet) -> str:
  """What is wrong with a data set; "" where it can be used."""
  name, form = info.full_name.rpartition("/")[0], info.file_format.value
  if name not in (wanted, f"{wanted}/{wanted}"):  # conll2003's only configuration has its name
    return f"holds {name}, want {wanted}"
  if form != "array_record":
    return f"got {form} records, want array_record; prepare it below another folder: {_prepare(wanted)}"
  if lacking := [feature for feature in own.features if feature not in info.features]:
    return f"got the features {', '.join(sorted(info.features))}, want {', '.join(lacking)} too"
  return ""


def _prepare(name: str) -> str:
  made = f"tfds.builder('{name}', file_format='array_record').download_and_prepare()"
  return f'python -c "import tensorflow_datasets as tfds; tfds.text; {made}"'


def _first_line(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).split("\n")[0]
