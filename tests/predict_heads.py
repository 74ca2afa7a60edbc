"""Small random models with the heads of tasks, as published folders: material of the tests of predict.py."""

import functools

import jax
import numpy as np

from data.batch import Tokens
from data.tasks.relations import MARKERS
from data.tokenizers import bytebpe, wordpiece
from models.published import weights
from tests.parity_models import random_params
from tests.task_models import case
from tests.trained import SENTENCES
from trainer.inference import load_model

POSITIONS = 48
PASSAGE = (
  "Taro met Anna in Tokyo. The cat sat on the mat while it rained in Paris all day, and a dog ran after the cat.  "
  "Later on Anna left\nTokyo for Paris, where a cat sat on a mat. " * 3
)
TAGS = ("O", "B-PER", "I-PER", "B-LOC")
# Name -> family, head, labels
FOLDERS = {
  "bert": ("bert", "classify", ("no", "yes", "perhaps", "never")),
  "roberta": ("roberta", "classify", ()),
  "number": ("electra", "regress", ()),
  "tags": ("albert", "tag", TAGS),
  "parts": ("bert", "tag", ("NOUN", "VERB", "DET", "ADP")),
  "answer": ("spanbert", "answer", ()),
  "answer_roberta": ("roberta", "answer", ()),
  "choose": ("bert", "choose", ()),
  "relations": ("bert", "relate", ("no_relation", "born_in", "lives_in", "works_for")),
  "types": ("electra", "type", ("artist", "city", "event", "person")),
}


@functools.cache
def folder(base, name):
  """Of a model of FOLDERS, below `base`."""
  family, head, labels = FOLDERS[name]
  texts = [*SENTENCES, PASSAGE]
  tokenizer = bytebpe.train(texts, 300) if family == "roberta" else wordpiece.train(texts * 2, vocab_size=95)
  tokenizer = tokenizer.with_added(MARKERS) if head in ("relate", "type") else tokenizer
  given = case(family, head, vocab_size=tokenizer.vocab_size, max_positions=POSITIONS)
  params = random_params(given.model, std=0.3)
  weights.save(base / name, family, given.model, params, given.special, tokenizer.save, labels)
  return base / name


load = functools.cache(load_model)


def head_alone(loaded, ids, types, head):
  """What the head says of one row without padding: [n] of a text, [L, n] of its tokens."""
  ids, types = (np.asarray(each, np.int32)[None] for each in (ids, types))
  tokens = Tokens(ids, types, np.ones_like(ids), np.arange(ids.shape[1], dtype=np.int32)[None])
  return jax.device_get(_alone(loaded.model, loaded.params, tokens, head))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _alone(model, params, tokens, head):
  hidden = model.apply({"params": params}, tokens.ids, tokens).hidden
  if head in ("tag", "answer"):
    return model.apply({"params": params}, hidden, method=f"{head}_logits")[0]
  return model.apply({"params": params}, hidden, np.zeros((1, 1), np.int32), method=f"{head}_logits")[0, 0]
