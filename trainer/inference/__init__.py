"""Runs a trained model on text, in three lines:

    model = load_model("runs/bert")
    vectors = encode(model, ["The cat sat.", "It rained."]).pooled  # [2, D]
    blanks = fill(model, ["The capital of France is [MASK]."])  # blanks[0][0].candidates[0].piece

and a fine-tuned one on what its task asks; tags, answers and labels have probabilities:

    labels = classify(load_model("runs/sst2"), ["A fine film.", "A dull one."])  # labels[0].labels[0].label
    tagged = tag(load_model("runs/wnut17"), ["Taro lives in Tokyo ."])  # tagged[0].spans[0].text, .type, .start, .end
    found = answer(load_model("runs/squad"), ["Who sat?"], ["The cat sat."])  # found[0].text, found[0].answers[0].start
    decided = relate(tuned, ["Taro lives in Tokyo."], [[(0, 4), (14, 19)]])  # decided[0].labels[0].label
    decided = types(tuned, ["Taro lives in Tokyo."], [[(0, 4)]])  # decided[0][0].labels

and a LUKE on mentions, spans of characters in each text:

    states = encode(model, ["Beyoncé sings."], spans=[[(0, 7)]], titles=[["Beyoncé"]]).entities  # [1, 1, D]
    filled = fill_entities(model, ["Beyoncé sings."], [[(0, 7)]])  # filled[0].entities[0].candidates[0].title

and an ELMo on words, whose layers are those of the language models in both directions:

    found = encode(load_model("runs/elmo"), ["The cat sat."], layers="all")  # found.words[0]: The, cat, sat, .
    layers = found.layers  # [1, T + 1, 4, 2P]: the word's vector twice, then each layer, forward half first

`pair`, `detect` and `choose` are the other answers, `neighbors.py` compares words in context; `running.py`,
`task_logits.py` and `word_encoding.py` say how texts become batches.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.elmo import Elmo
from trainer import loading
from trainer.inference import answers, entity_answers
from trainer.inference.answers import Blank, Candidate
from trainer.inference.encoding import POOLS, Encodings, encode, refuse_network
from trainer.inference.entity_answers import Decision, Filled
from trainer.inference.question_answers import Answered, RankedAnswer, answer
from trainer.inference.task_answers import Chosen, Classified, Entity, Tagged, choose, classify, tag
from trainer.inference.tuned import tuned
from trainer.inference.word_encoding import WordEncodings
from trainer.loading import Loaded
from trainer.texts import InputError

__all__ = (
  "POOLS", "Answered", "Blank", "Candidate", "Chosen", "Classified", "Decision", "Encodings", "Entity", "Filled",
  "Loaded", "RankedAnswer", "Tagged", "WordEncodings", "answer", "choose", "classify", "detect", "encode", "fill",
  "fill_entities", "load_model", "pair", "refuse_network", "relate", "tag", "types",
)  # fmt: skip


def load_model(path: str | os.PathLike[str], dtype: str | None = None) -> Loaded:
  """`trainer.loading.load_model`, which see, with what is known of the task of a fine-tuned model."""
  return tuned(loading.load_model(path, dtype), Path(path))


def _of_pieces(says: Callable) -> Callable:
  """`says`, which an ELMo has none of."""

  @functools.wraps(says)
  def checked(loaded: Loaded, *args: Any, **kwargs: Any) -> Any:
    refuse_network(loaded, says.__name__)
    if isinstance(loaded.model, Elmo):
      raise InputError(
        f"model {loaded.source}: is an ELMo, which has no {says.__name__}, want one of {WORD_VERBS}; choose another "
        "model for the others"
      )
    return says(loaded, *args, **kwargs)

  return checked


WORD_VERBS = "encode, neighbors and tokenize"  # what an ELMo answers
fill, pair, detect = map(_of_pieces, (answers.fill, answers.pair, answers.detect))
fill_entities, relate, types = map(
  _of_pieces, (entity_answers.fill_entities, entity_answers.relate, entity_answers.types)
)
