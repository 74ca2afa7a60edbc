"""Tasks on whole words: what their recipe leaves open, their word vectors, and the biLM that they begin with.

The biLM is that of `init_from`: a run of configs/elmo.py, or a folder with AllenNLP's options and weights. Its sizes go
into the config, its softmax is left behind. The vectors of words are those of a file, for the words of all files of the
task, or learned from the seed for the words of the training file.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data import word_vectors
from data.characters import LENGTH
from data.tasks import registry
from data.tasks.word_batches import WordShape
from data.tasks.word_rows import AnswerWords, ChoiceWords, TextWords, words_of
from data.tokenizers.words import SPECIALS, Words
from data.word_vectors import VectorError, WordVectors, WordVocabulary
from models.published import allennlp, files
from trainer.finetuning.data import Builder, TaskData, task_data, with_offsets
from trainer.loading import is_published, read_config
from trainer.rules import ConfigError
from trainer.texts import TOKENIZER, load_tokenizer

# Kind of head -> that of the task which is put to it
FORMS = {
  "crf": "words_tag", "tag": "words_tag", "classify": "words_classify", "pair": "words_pair",
  "regress": "words_regress", "choose": "words_choose", "answer": "words_answer",
}  # fmt: skip
SEEN = 2  # times that training shows a word which gets a vector from the seed; the others share one
VECTOR_SIZE = 100  # of vectors from the seed
CHARACTERS_ONLY = "want a biLM that reads words by their characters"


@dataclasses.dataclass(frozen=True, eq=False)
class WordForm:
  """A `trainer.task_data.Form` of whole words.

  task: its rows hold sentences of at most `length` words. offsets: of the answers in its files. vocabulary: of the
  table of word vectors; None where there is none yet. tokenizer: divides texts into words, and has no words itself.
  """

  task: registry.Task
  length: int
  spelling: int = LENGTH
  vocabulary: WordVocabulary | None = None
  tokenizer: Words | None = None
  offsets: str = "exact"

  @property
  def by_column(self) -> bool:
    return self.task.head == "words_answer"

  @functools.cached_property
  def digest(self) -> str:
    return hashlib.sha256(json.dumps([self.task.head, self.length, self.offsets]).encode()).hexdigest()

  def builder(self, examples: Sequence) -> Builder:
    return self.task.rows

  def shape(self, rows: list, multiple: int) -> WordShape:
    return WordShape(self.vocabulary, multiple, self.spelling)

  def save(self, folder: Path) -> None:
    self.tokenizer.save(folder)
    self.vocabulary.save(folder)


def word_form(config: ConfigDict, workdir: Path) -> WordForm:
  """The form of a config; its words are those of the workdir once it has begun.

  Raises:
    ConfigError: they are not as many as the config says.
  """
  form = _form(config)
  own = workdir / TOKENIZER
  if own.is_dir():
    vocabulary, tokenizer = word_vectors.load(own), load_tokenizer(workdir)
  else:
    vocabulary, tokenizer = _vocabulary(config, task_data(config, form)), Words(SPECIALS, split=_split(config, form))
  rows = vocabulary.size if config.task.word_vectors != "none" else 0
  if rows != config.model.vectors:
    raise ConfigError(
      f"config key model.vectors: got {config.model.vectors}, want {rows}, the rows of the words of the task's files; "
      "start from the recipe again, in a new workdir"
    )
  return dataclasses.replace(form, vocabulary=vocabulary, tokenizer=tokenizer)


def complete(config: ConfigDict) -> TaskData:
  """Fills `model` and `dtype`, in place; returns the task's data.

  Raises:
    ConfigError: no biLM to start from where one is read, or vectors that cannot be had.
  """
  if config.objective.kind not in FORMS:
    raise ConfigError(f"config key objective.kind: got {config.objective.kind!r}, want one of {', '.join(FORMS)}")
  config.model.bilm, dtype = ConfigDict(), "float32"
  if config.model.place != "none":
    config.model.bilm, dtype = bilm_of(config.init_from)
    if config.task.bilm == "frozen":
      config.model.bilm.dropout = 0.0  # the vectors of a word do not change
  _check_vectors(config)
  config.dtype = config.dtype or dtype
  data = task_data(config, _form(config))
  try:
    vectors = _vectors(config, data)
  except VectorError as error:
    raise ConfigError(str(error)) from error
  if config.task.word_vectors == "none":
    config.model.vectors = config.model.vector_size = 0
    return data
  size = VECTOR_SIZE if vectors is None else vectors.matrix.shape[1]
  if vectors is not None and config.model.vector_size not in (0, size):
    raise ConfigError(
      f"config key model.vector_size: got {config.model.vector_size}, want 0 or {size}, that of {config.task.vectors}"
    )
  config.model.vectors = _vocabulary(config, data).size
  config.model.vector_size = config.model.vector_size or size
  return data


def _check_vectors(config: ConfigDict) -> None:
  kind, file = config.task.word_vectors, config.task.vectors
  if kind == "frozen" and not file:
    raise ConfigError(
      "config key task.vectors: is empty with task.word_vectors=frozen, want a file of GloVe's or word2vec's vectors; "
      "or vectors=tuned in the variant, which learns them, or vectors=none"
    )
  if kind == "none" and file:
    raise ConfigError(f"config key task.vectors: got {file!r} with task.word_vectors=none, want tuned or frozen")
  for key in ("vectors", "vector_size") if kind == "none" else ("vectors",):
    if config.model[key]:
      raise ConfigError(f"config key model.{key}: is set, want it left out: it follows from the words of the task")


def frozen(config: ConfigDict) -> tuple[str, ...]:
  """Patterns of the parameters that stay as they are."""
  bilm = config.model.place != "none" and config.task.bilm == "frozen"
  return (("^bilm/",) if bilm else ()) + (("^vectors/",) if config.task.word_vectors == "frozen" else ())


def source_of(config: ConfigDict) -> str:
  """The folder that the biLM's parameters are from; "" for none."""
  return "" if config.model.place == "none" or config.task.fresh else config.init_from


def initial_leaves(config: ConfigDict, found: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
  """`fresh` with the biLM of `found` for its own, and the vectors of the file that the config names.

  Raises:
    ConfigError: `found` lacks a part of the biLM.
  """
  leaves = dict(fresh)
  if source_of(config):
    own = {path: path.removeprefix("bilm/") for path in fresh if path.startswith("bilm/")}
    missing = sorted(there for there in own.values() if there not in found)
    if missing:
      raise ConfigError(f"config key init_from: has no {', '.join(missing[:4])}, {CHARACTERS_ONLY}")
    leaves |= {path: found[there] for path, there in own.items()}
  vectors = _vectors(config, task_data(config, _form(config)))
  if vectors is not None:
    leaves["vectors/embedding"] = vectors.matrix
  seeded = sorted({path.split("/")[0] for path in leaves if leaves[path] is fresh[path]})
  logging.info("task: from the seed: %s", ", ".join(seeded))
  return leaves


def bilm_of(source: str) -> tuple[ConfigDict, str]:
  """(`model` of a biLM, dtype of its matrix products) of a run, or of a folder with AllenNLP's files.

  Raises:
    ConfigError: there is none, or it has no characters. WeightsError: options that cannot be read.
  """
  folder, want = Path(source), "a run of configs/elmo.py or a folder with options.json and weights.hdf5"
  if not source or not folder.is_dir():
    raise ConfigError(f"config key init_from: got {source!r}, want {want}; only place=none needs none")
  if allennlp.is_folder(folder):
    options = allennlp.find(folder)[0]
    found = dataclasses.asdict(allennlp.config_of(files.read_object(options), str(options)))
    model = {"name": "elmo"} | {name: value for name, value in found.items() if name not in ("dtype", "heads_on_top")}
    return ConfigDict(model), "float32"
  if is_published(folder):
    raise ConfigError(f"config key init_from: {source} holds no ELMo, want {want}")
  config = read_config(folder)
  if config.model.name != "elmo" or config.model.input != "characters":
    kind = config.model.name if config.model.name != "elmo" else "an ELMo that reads words by a table"
    raise ConfigError(f"config key init_from: {source} is a run of {kind}, {CHARACTERS_ONLY}: {want}")
  return ConfigDict(config.model.to_dict()), config.dtype


def _form(config: ConfigDict) -> WordForm:
  """The form of a config without its words."""
  task = registry.find(config.task.name).put(FORMS[config.objective.kind])
  task = dataclasses.replace(task, rows=dataclasses.replace(task.rows, max_words=config.data.length))
  bilm, offsets = config.model.bilm, config.task.offsets
  task = with_offsets(task, offsets, answers=config.objective.kind == "answer")
  return WordForm(task, config.data.length, bilm.characters if bilm else LENGTH, offsets=offsets)


def _split(config: ConfigDict, form: WordForm) -> str:
  """How texts are divided into words: as the task's are, or, where its files have words, as the biLM's were."""
  if isinstance(form.task.rows, (TextWords, ChoiceWords, AnswerWords)):
    return form.task.rows.split
  own = Path(config.init_from) / TOKENIZER
  return load_tokenizer(own).split if config.init_from and own.is_dir() else "marks"


def _vocabulary(config: ConfigDict, data: TaskData) -> WordVocabulary:
  """The words of the table of vectors."""
  vectors = _vectors(config, data)
  if vectors is not None:
    return vectors.vocabulary
  if config.task.word_vectors == "none":
    return WordVocabulary(())
  counts = collections.Counter(word for row in data.train for sentence in row.sentences for word in sentence)
  return WordVocabulary(sorted(word for word, count in counts.items() if count >= SEEN))


def _vectors(config: ConfigDict, data: TaskData) -> WordVectors | None:
  """The vectors of the file that a config names, for the words of the task; None where it names none."""
  if config.task.word_vectors == "none" or not config.task.vectors:
    return None
  path, held = Path(config.task.vectors), [data.dev, *data.further.values(), *data.blind.values()]
  held += [] if data.test is None else [data.test]
  rows = [*data.train, *(row for split in held for row in split.rows)]
  stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
  return _read_vectors(path, stamp, words_of(rows))


@functools.lru_cache(maxsize=2)
def _read_vectors(path: Path, stamp: tuple | None, words: tuple[str, ...]) -> WordVectors:
  return word_vectors.read(path, words)
