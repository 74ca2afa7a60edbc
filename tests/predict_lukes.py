"""Small random LUKEs as published folders, and what one gives for a text alone: material of the tests of predict.py."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

import predict
from data.batch import Entities, Tokens
from data.entity_text import encode_entities
from data.entity_vocabulary import EntityVocabulary
from data.tokenizers import bytebpe
from models.published import weights
from models.stack import Sharing
from tests.luke_models import case
from tests.parity_models import random_params
from tests.trained import SENTENCES
from trainer.entity_export import marked
from trainer.inference import load_model
from trainer.inference.mentions import MENTION

TITLES = ("Beyoncé", "Los Angeles", "Taro", "Tokyo", "Washington, D.C.")
RELATIONS, TYPES = ("no_relation", "lives_in", "works_for"), ("city", "event", "person")
HIDDEN, POSITIONS = 42, 64
KINDS = {
  "pretrained": ({"pooler": False}, ()),
  "whole": ({}, ()),  # with the pooler that released files have
  "relate": ({"heads_on_top": ("relate",)}, RELATIONS),
  "type": ({"heads_on_top": ("type",)}, TYPES),
  "spans": ({"heads_on_top": ("spans",)}, ("NIL", "LOC", "PER")),
  "answer": ({"heads_on_top": ("answer",)}, ()),
}

PLAIN, THREE, ONE, TWO = "the cat sat", "Taro met Beyoncé in Tokyo", "a cat", "Beyoncé sat in Los Angeles."
TEXTS = [PLAIN, THREE, ONE, TWO, ""]
SPANS = [[], [(9, 16), (0, 4), (20, 25)], [(2, 5)], [(0, 7), (15, 26)], []]
NAMED = [None, ["Beyoncé", None, "Tokyo"], ["no such title"], None, None]


@functools.cache
def luke(base, kind):
  """The folder of a model of KINDS, below `base`."""
  folder, (choices, labels) = base / f"luke_{kind}", KINDS[kind]
  entities = EntityVocabulary({name: i for i, name in enumerate(("[PAD]", "[UNK]", "[MASK]", "[MASK2]", *TITLES))})
  tokenizer = bytebpe.train([*SENTENCES, *TEXTS], 300).with_added(("<ent>", "<ent2>"))
  given = case(
    layers=2, sharing=Sharing(2, 2), max_positions=POSITIONS, vocab_size=tokenizer.vocab_size,
    entity_vocab_size=entities.size, classes=len(labels), **choices,
  )  # fmt: skip
  out = marked(given.model, random_params(given.model), tokenizer, entities, "here")
  weights.save(folder, "luke", out.model, out.params, given.special, out.save, labels)
  return folder


load = functools.cache(load_model)


@functools.partial(jax.jit, static_argnums=(0, 4))
def outputs(model, params, tokens, entities, heads):
  apply = functools.partial(model.apply, {"params": params})
  encoded = apply(tokens.ids, tokens, entities=entities, collect=True)
  states, found = encoded.entities, {"hidden": encoded.hidden[0], "layers": encoded.layers[:, 0]}
  every = jnp.arange(len(entities.ids[0]))
  found["entities"] = states[0]
  if "mlm" in heads:
    found["words"] = jax.nn.softmax(apply(encoded.hidden, tokens.positions, method="token_logits")[0])
  if "entity" in heads:
    found["titles"] = jax.nn.softmax(apply(states, every[None], method="entity_logits")[0])
  if "relate" in heads:
    found["relations"] = jax.nn.softmax(apply(states, every[None, None], method="relate_logits")[0, 0])
  if "type" in heads:
    found["types"] = jax.nn.sigmoid(apply(states, every[None, None], method="type_logits")[0, 0])
  return found


def alone(loaded, text, spans, titles=None, **options):
  """What the model itself gives for one text without padding; and the text as it went in."""
  given = encode_entities(loaded.tokenizer, loaded.entities, text, spans, titles, specials=True, **options)
  ids = given.ids[None]
  tokens = Tokens(ids, ids * 0, ids * 0 + 1, np.arange(ids.shape[1], dtype=np.int32)[None])
  columns = np.full((1, len(given.mentions), MENTION), -1, np.int32)
  for own, mention in zip(columns[0], given.mentions, strict=True):
    own[: len(mention)] = mention
  entities = Entities(given.entity_ids[None], columns, np.ones((1, len(columns[0])), np.int32))
  heads = loaded.model.config.heads_on_top
  return jax.device_get(outputs(loaded.model, loaded.params, tokens, entities, heads)), given


def close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def command(capsys, *argv):
  """(JSON lines, summary, stderr) of a command that succeeds."""
  assert predict.main([str(argument) for argument in argv]) == 0
  out, err = capsys.readouterr()
  *records, summary = map(json.loads, out.splitlines())
  assert summary["command"] == argv[0]
  return records, summary, err


def write_lines(path, objects):
  """The path of a file of JSON lines."""
  path.write_text("".join(f"{json.dumps(each)}\n" for each in objects), encoding="utf-8")
  return str(path)


def objects(texts=TEXTS, spans=SPANS, named=NAMED):
  return [
    {"text": text, "spans": own, **({} if titles is None else {"entities": titles})}
    for text, own, titles in zip(texts, spans, named, strict=True)
  ]
