"""Small encoders of every family as pretraining leaves them behind, fresh from their seed, and made-up tasks."""

import csv
import dataclasses
import json
import random

import jax
import numpy as np

from data.synthetic import synthetic_batch
from data.tokenizers import bytebpe, wordpiece
from models.paths import map_named
from tests.trained import SENTENCES, luke_run
from train import train
from trainer.checkpoints import Checkpoints
from trainer.config import load, to_json
from trainer.programs import Program, Setup

FAMILIES = ("bert", "roberta", "albert", "electra", "spanbert", "luke")
LAYERS, HIDDEN, POSITIONS, VOCAB = 2, 32, 48, 256
SMALL = {
  "model.vocab_size": VOCAB, "model.layers": LAYERS, "model.hidden": HIDDEN, "model.heads": 2, "model.ffn": 48,
  "model.max_positions": POSITIONS, "data.length": POSITIONS, "data.max_predictions": 6, "batch_size": 1,
  "stages": (), "model.init_std": 0.1,
}  # fmt: skip
BYTES = 290  # pieces of RoBERTa's vocabulary, which has all bytes
OWN = {
  "albert": {"model.embedding": 16},
  "bert": {},
  "electra": {
    "model.embedding": 16, "model.generator_hidden": 16, "model.generator_heads": 2, "model.generator_ffn": 32,
  },
  "roberta": {"model.vocab_size": BYTES},
  "spanbert": {},
}  # fmt: skip
WORDS = ("cat", "dog", "mat", "rain", "sun", "sat", "ran", "fell", "the", "a", "on", "in", "red", "old", "new", "big")


def encoder_run(family, folder):
  """The workdir of a family's pretraining at step 0, with parameters that no compiled program draws."""
  if family == "luke":
    return luke_run(folder)
  config = load(f"configs/{family}.py:tiny", SMALL | OWN[family] | {"optimizer.warmup_steps": 10})
  setup = Setup.of(config, jax.devices()[:1])
  shapes = Program(setup, setup.stages[0], synthetic_batch(config, setup.stages[0], 0)).shapes
  rng = np.random.default_rng(FAMILIES.index(family))
  state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  params = map_named(lambda path, leaf: _drawn(rng, path, leaf.shape, config.model.vocab_size), shapes.params)
  state = dataclasses.replace(state, params=params)
  with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
    checkpoints.save(jax.device_put(state), {}, scheduled=True, wait=True)
  (folder / "config.json").write_text(to_json(config))
  text = [*SENTENCES, " ".join(WORDS)] * 3
  tokenizer = bytebpe.train(text, BYTES) if family == "roberta" else wordpiece.train(text, vocab_size=VOCAB)
  tokenizer.save(folder / "tokenizer")
  return folder


def _drawn(rng, path, shape, words):
  if path.endswith(("scale", "bias")):
    return np.full(shape, path.endswith("scale"), np.float32)
  leaf = rng.normal(0, 0.1, shape).astype(np.float32)
  if path.endswith("word/embedding"):
    leaf[words:] = 0.0  # rows that only fill the table up
  return leaf


def sentence(rng, length=4):
  return " ".join(rng.choice(WORDS) for _ in range(length))


def write_tasks(folder, count=8, seed=0):
  """Files of one task of each kind with examples that only learning by heart tells; the dev file is the training file.

  Pairs for embeddings are trained on, and scored with as many pairs that do not belong together.
  """
  rng = random.Random(seed)
  folder.mkdir(parents=True)
  tsv = lambda name, rows: (folder / name).write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
  tsv("sst2.tsv", [("sentence", "label"), *((sentence(rng), n % 2) for n in range(count))])
  pairs = [(n, sentence(rng), sentence(rng), ("entailment", "not_entailment")[n % 2]) for n in range(count)]
  tsv("rte.tsv", [("index", "sentence1", "sentence2", "label"), *pairs])
  tsv("stsb.tsv", [("index", "sentence1", "sentence2", "score"), *((n, a, b, n * 5 / count) for n, a, b, _ in pairs)])
  tsv("embed.tsv", [("first", "second"), *((a, b) for _, a, b, _ in pairs)])
  apart = [(n, a, pairs[(n + 3) % count][2], 0) for n, a, _, _ in pairs]
  tsv("scored.tsv", [("index", "sentence1", "sentence2", "score"), *((n, a, b, 5) for n, a, b, _ in pairs), *apart])
  kinds = ("B-person", "B-location", "O")
  words = [[f"{rng.choice(WORDS)}\t{kinds[(n + i) % 3]}" for i in range(4)] for n in range(count)]
  (folder / "wnut17.conll").write_text("\n\n".join("\n".join(each) for each in words) + "\n")
  with open(folder / "swag.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["", "sent1", "sent2", *(f"ending{i}" for i in range(4)), "label"])
    for n in range(count):
      table.writerow([n, sentence(rng), "it", *(sentence(rng, 2) for _ in range(4)), n % 4])
  paragraphs = []
  for n in range(count):
    text = " ".join(rng.sample([word for word in WORDS if word not in ("a", "the")], 6))  # articles count for nothing
    answer = text.split()[n % 5]
    answers = [{"text": answer, "answer_start": f" {text} ".index(f" {answer} ")}]
    paragraphs.append({"context": text, "qas": [{"id": f"q{n}", "question": sentence(rng, 3), "answers": answers}]})
  (folder / "squad.json").write_text(json.dumps({"data": [{"title": "Cat", "paragraphs": paragraphs}]}))
  _write_mentions(folder, count, rng)
  return folder


def _write_mentions(folder, count, rng):
  """Relations between words of a sentence, types of one, gaps that a word of a passage fills, mentions in documents."""
  relations, typed, passages = [], [], []
  for n in range(count):
    first, *between, last = sentence(rng).split()
    marked = f"<e1>{first}</e1> {' '.join(between)} <e2>{last}</e2>"
    relations += [f'{n + 1}\t"{marked}"', f"{('Cause-Effect', 'Message-Topic')[n % 2]}(e1,e2)", "Comment:", ""]
    text, kinds = sentence(rng), (["person"], ["place"], ["person", "artist"])
    typed.append({"sent": text, "start": 0, "end": text.index(" "), "labels": kinds[n % 3]})
    words = rng.sample([word for word in WORDS if word not in ("a", "the")], 5)
    begins = [len(" ".join(words[:i])) + (i > 0) for i in range(3)]
    spans = [{"start": begin, "end": begin + len(word) - 1} for begin, word in zip(begins, words)]
    right = spans[n % 3] | {"text": words[n % 3]}
    asked = {"id": f"q{n}", "query": f"{sentence(rng, 2)} @placeholder", "answers": [right]}
    passages.append({"passage": {"text": " ".join(words), "entities": spans}, "qas": [asked]})
  (folder / "semeval.txt").write_text("\n".join(relations) + "\n")
  (folder / "types.json").write_text(json.dumps(typed))
  (folder / "record.json").write_text(json.dumps({"data": passages}))
  documents = []
  for n in range(count):
    named = {"sent_id": 0, "pos": [n % 3, n % 3 + 2], "type": ("PER", "LOC")[n % 2]}
    inner = named | {"pos": [n % 3, n % 3 + 1]}  # lies in the other, and so is none
    documents.append({"title": "", "sents": [sentence(rng).split()], "vertexSet": [[named], [inner]], "labels": []})
  (folder / "docred.json").write_text(json.dumps(documents))


# Task of each kind -> its training file; the dev file is the same, but for embeddings.
FILES = {
  "sst2": "sst2.tsv", "rte": "rte.tsv", "stsb": "stsb.tsv", "embed": "embed.tsv", "wnut17": "wnut17.conll",
  "swag": "swag.csv", "squad": "squad.json", "semeval": "semeval.txt", "open_entity": "types.json",
  "record": "record.json", "redocred_mentions": "docred.json",
}  # fmt: skip


def settings(task, run, folder, **changes):
  """A run of one update an epoch on all examples, on one device."""
  own = {
    "init_from": str(run), "task.dir": str(folder), "task.train": FILES[task], "task.dev_share": 0.0,
    "task.dev": "scored.tsv" if task == "embed" else FILES[task], "batch_size": 8, "optimizer.lr": 3e-3,
    "mesh.data": 1, "log_every": 20, "data.pack": 1, "model.unroll": 1, "model.dropout": 0.0,
    "model.attention_dropout": 0.0,
  }  # fmt: skip
  return own | {name.replace("__", "."): value for name, value in changes.items()}


def config_of(task, run, folder, variant="", **changes):
  return load(f"configs/finetune.py:{task}{variant}", settings(task, run, folder, **changes))


def fit(config, folder):
  return train(config, folder, setup=Setup.of(config, jax.devices()[:1]))[0]
