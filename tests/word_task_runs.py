"""A small biLM as a run leaves it behind, made-up tasks on whole words, and settings that learn them in seconds."""

import json

import jax
import numpy as np

import objectives
from data.synthetic import synthetic_batch
from data.tokenizers import words
from models.paths import named_leaves
from train import train
from trainer.checkpoints import Checkpoints
from trainer.config import load, stages, to_json
from trainer.finetuning.feed import TaskFeed
from trainer.programs import Program, Setup
from trainer.restore import Reader

SIZES = {
  "model.filters": ((1, 8), (2, 8)), "model.char_embedding": 4, "model.cell": 16, "model.projection": 6,
  "model.characters": 12, "model.vocab_size": 40, "objective.negatives": 8, "batch_size": 4, "data.length": 8,
  "data.distinct_words": 64, "data.words": "space",
}  # fmt: skip
NAMES = {"anna": "person", "bert": "person", "paris": "location", "rome": "location"}
PLAIN = ("saw", "the", "cat", "in", "near", "and")
WORDS = (*NAMES, *PLAIN, "new")  # of the entities' sentences
NUMBERS = {"task__train": "numbers.tsv", "task__dev": "numbers_dev.tsv"}  # of STS-B, in the folder of all tasks
GOOD, BAD = ("good", "fine", "great"), ("bad", "dull", "poor")


def elmo_run(folder, **changes):
  """The workdir of an ELMo that is fresh from its seed."""
  config = load("configs/elmo.py:tiny", SIZES | {name.replace("__", "."): value for name, value in changes.items()})
  setup = Setup.of(config, jax.devices()[:1])
  program = Program(setup, setup.stages[0], synthetic_batch(config, setup.stages[0], 0))
  with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
    checkpoints.save(program.fresh_state(), {}, scheduled=True, wait=True)
  (folder / "config.json").write_text(to_json(config))
  words.train(["the cat saw anna in rome"], "space").save(folder / "tokenizer")
  return folder


def entities(path, count, seed):
  """Sentences in columns: a name is an entity of its type, "new" before it belongs to it."""
  rng, lines = np.random.default_rng(seed), []
  for _ in range(count):
    for _ in range(int(rng.integers(1, 4))):
      lines.append(f"{rng.choice(PLAIN)}\tO")
      name = str(rng.choice(list(NAMES)))
      new = rng.random() < 0.3
      lines += [f"new\tB-{NAMES[name]}"] * new + [f"{name}\t{'I' if new else 'B'}-{NAMES[name]}"]
    lines.append("")
  path.write_text("\n".join(lines))


def sentences(path, count, seed):
  """SST-2's columns: one word of a sentence says its class."""
  rng, lines = np.random.default_rng(seed), ["sentence\tlabel"]
  for _ in range(count):
    label = int(rng.integers(2))
    said = [*rng.choice(PLAIN, 3), rng.choice((BAD, GOOD)[label])]
    lines.append(f"{' '.join(rng.permutation(said))}\t{label}")
  path.write_text("\n".join(lines) + "\n")


def pairs(path, count, seed):
  """SNLI's columns: the same word is entailment, one of the other kind contradiction, any other neutral."""
  rng, lines = np.random.default_rng(seed), ["gold_label\tsentence1\tsentence2"]
  for _ in range(count):
    label = str(rng.choice(["entailment", "contradiction", "neutral"]))
    sides = (GOOD, BAD) if rng.random() < 0.5 else (BAD, GOOD)
    first = str(rng.choice(sides[0]))
    second = {"entailment": first, "contradiction": str(rng.choice(sides[1])), "neutral": str(rng.choice(PLAIN))}[label]
    lines.append(f"{label}\tthe cat is {first}\ta cat is {second}")
  path.write_text("\n".join(lines) + "\n")


def numbers(path, count, seed):
  """STS-B's columns: 5 where both sentences have the same word, 0 where they have not."""
  rng, lines = np.random.default_rng(seed), ["index\tsentence1\tsentence2\tscore"]
  for i in range(count):
    first, other = rng.permutation((*GOOD, *BAD))[:2]
    same = bool(rng.integers(2))
    lines.append(f"{i}\tthe cat is {first}\ta cat is {first if same else other}\t{5 * same}")
  path.write_text("\n".join(lines) + "\n")


def questions(path, count, seed, unanswerable=False):
  """SQuAD's form: where a person is, who stands before "in" and a place; every third without an answer in version 2."""
  rng, paragraphs = np.random.default_rng(seed), []
  people, places = (sorted(name for name in NAMES if NAMES[name] == kind) for kind in ("person", "location"))
  for i in range(count):
    here = rng.permutation(places)
    facts = [f"{person} in {place}" for person, place in zip(rng.permutation(people), here)]
    context = " and ".join(facts) + " near the cat"
    asked = int(rng.integers(2))
    place, impossible = str(here[asked]), unanswerable and i % 3 == 0
    answers = [] if impossible else [{"text": place, "answer_start": context.index(place)}]
    who = "the cat" if impossible else facts[asked].split()[0]
    question = {"id": f"q{i}", "question": f"saw {who} in", "answers": answers, "is_impossible": impossible}
    paragraphs.append({"context": context, "qas": [question]})
  path.write_text(json.dumps({"data": [{"title": "Cat", "paragraphs": paragraphs}]}))


def choices(path, count, seed):
  """SWAG's columns: of four endings the one with the word of the first text is right."""
  rng, lines = np.random.default_rng(seed), ["sent1,sent2,ending0,ending1,ending2,ending3,label"]
  for _ in range(count):
    words = rng.permutation((*GOOD, *BAD))[:4]
    right = int(rng.integers(4))
    lines.append(f"the cat is {words[right]},a cat,{','.join(f'is {word}' for word in words)},{right}")
  path.write_text("\n".join(lines) + "\n")


def task_folder(folder):
  """Files of wnut17, sst2, snli, swag, stsb (numbers.tsv, numbers_dev.tsv) and both SQuADs under their official names,
  and vectors of five words beside their folder."""
  folder.mkdir()
  splits = (("wnut17train.conll", 60, 0), ("emerging.dev.conll", 20, 1), ("emerging.test.annotated", 20, 2))
  for name, count, seed in splits:
    entities(folder / name, count, seed)
  for name, count, seed in (("train.tsv", 80, 0), ("dev.tsv", 20, 1)):
    sentences(folder / name, count, seed)
  for name, count, seed in (("snli_1.0_train.txt", 100, 0), ("snli_1.0_dev.txt", 20, 1)):
    pairs(folder / name, count, seed)
  for name, count, seed in (("numbers.tsv", 100, 0), ("numbers_dev.tsv", 20, 1)):
    numbers(folder / name, count, seed)
  for name, count, seed in (("train.csv", 100, 0), ("val.csv", 20, 1)):
    choices(folder / name, count, seed)
  for version in ("1.1", "2.0"):
    for name, count, seed in (("train", 80, 0), ("dev", 20, 1)):
      questions(folder / f"{name}-v{version}.json", count, seed, unanswerable=version == "2.0")
  lines = [f"{word} {i}.5 -1 0.25" for i, word in enumerate((*WORDS[:5], "elsewhere"))]
  (folder.parent / "glove.txt").write_text("\n".join(lines) + "\n")
  return folder


def config_of(run, variant, **changes):
  own = {
    "init_from": str(run), "task.dir": str(run.parent / "task"), "batch_size": 20, "optimizer.lr": 2e-2,
    "task.epochs": 5, "model.hidden": 8, "model.layers": 1, "model.dropout": 0.0, "model.elmo_dropout": 0.0,
    "mesh.data": 1, "log_every": 5,
  }  # fmt: skip
  return load(
    f"configs/elmo_tasks.py:{variant}", own | {name.replace("__", "."): value for name, value in changes.items()}
  )


def fit(config, folder):
  """One device, as most who train a task network have."""
  return train(config, folder, setup=Setup.of(config, jax.devices()[:1]))


def unborn(run):
  """A workdir that no run has begun in."""
  return run.parent / "unborn"


def params_of(folder, config):
  """{path: leaf} of the newest checkpoint of a run."""
  objective = objectives.build(config)
  batch = TaskFeed(config, folder).example(None) if "task" in config else synthetic_batch(config, stages(config)[0], 0)
  shapes = jax.eval_shape(lambda: objective.init(jax.random.key(0), batch))
  return named_leaves(Reader(folder / "checkpoints").restore_params(shapes, None)[0])
