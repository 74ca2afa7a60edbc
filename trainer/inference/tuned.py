"""Models with the head of a task: what their outputs are called, and how they read what they decide about."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from data.tasks import registry
from data.tasks.answers import AnswerDecoder
from data.tasks.glue import TextReader
from data.tasks.rows import TaskError
from data.tasks.task import Task
from models.luke import Luke
from models.published import files
from models.published.luke_files import is_archive
from models.published.tasks import labels_of, task_of
from models.task_networks import TaskNetwork
from trainer.finetuning.null_threshold import with_threshold
from trainer.finetuning.word_tasks import FORMS, WordForm, word_form
from trainer.loading import Loaded, is_published, read_config
from trainer.texts import InputError

# Head -> a task that is put to it. Its rows and its decoder are those of published weights, which do not say what they
# were trained on, and of which every question has an answer unless the caller says otherwise.
_LIKE = {
  "answer": "squad", "choose": "swag", "classify": "sst2", "regress": "stsb", "spans": "conll2003", "tag": "conll2003",
}  # fmt: skip
# The same of encoders that read mentions at their markers
_MARKED = {"cloze": "record", "relate": "tacred", "type": "open_entity"}


@dataclasses.dataclass(frozen=True, eq=False)
class Tuned(Loaded):
  """A model with the head of a task.

  labels: names of its classes; () where nothing names them.
  spaced: texts with spans begin as after a space, as its task's texts did when it was trained here.
  task: put to its head, the one that it was trained on here or, of published weights, one like it; None for a LUKE's
    heads of mentions.
  texts: 1, or 2 for pairs, of its task's examples; None where nothing says.
  words: how a network on an ELMo reads words; None for models of pieces.
  """

  labels: tuple[str, ...] = ()
  spaced: bool = False
  task: Task | None = None
  texts: int | None = None
  words: WordForm | None = None

  def names(self) -> tuple[str, ...]:
    """Names of the classes, LABEL_0 ... as transformers has them where nothing names them; () for heads without.

    Raises:
      InputError: there are more names than classes, or fewer.
    """
    classes = self.model.config.classes
    if classes and self.labels and len(self.labels) != classes:
      raise InputError(
        f"model {self.source}: got {len(self.labels)} labels in its config.json, want {classes}, its classes"
      )
    return (self.labels or tuple(f"LABEL_{i}" for i in range(classes))) if classes else ()


def head_of(loaded: Loaded) -> str | None:
  """Kind of the task's head of a model, as `Task.head` has it; None where it has none."""
  config = loaded.model.config
  return FORMS[config.head] if isinstance(loaded.model, TaskNetwork) else task_of(config)


def tuned(loaded: Loaded, folder: Path) -> Loaded:
  """What was loaded from `folder`, with what is known of its task where it has the head of one.

  Raises:
    InputError: its config names no task of this version. ConfigError, VectorError: its words cannot be read.
  """
  head = head_of(loaded)
  if head is None:
    return loaded
  fields, entities = vars(loaded), isinstance(loaded.model, Luke)
  like = _LIKE if entities else _LIKE | _MARKED
  if is_published(folder):
    labels = () if is_archive(folder) else labels_of(files.read_config(folder))
    task = registry.find(like[head]).put(head, entities) if head in like else None
    return Tuned(**fields, labels=labels, task=task)
  config = read_config(folder)
  found = Tuned(**fields, labels=tuple(config.objective.labels), spaced=True)
  words = word_form(config, folder) if isinstance(loaded.model, TaskNetwork) else None
  if words is None and head not in like:
    return found
  try:
    task = registry.find(config.task.name).put(head, entities) if words is None else words.task
  except TaskError as error:
    raise InputError(f"model {folder}: config.json: {error}") from None
  if isinstance(task.decode, AnswerDecoder):
    task = dataclasses.replace(task, decode=with_threshold(task.decode, folder, loaded.step))
  return dataclasses.replace(found, task=task, texts=_texts(task), words=words)


def _texts(task: Task) -> int | None:
  """Texts of an example where it is one of texts."""
  if "classify" not in task.head and task.head not in ("regress", "words_pair", "words_regress"):
    return None
  return len(task.read.texts) if isinstance(task.read, TextReader) else 1
