"""LUKE against transformers in float32 on padded words and mentions: outputs to 1e-5, gradients to 1e-4, no dropout."""

import io
import json

import numpy as np
import pytest
import sentencepiece

from data import tokenizers
from data.entity_vocabulary import EntityVocabulary
from data.tokenizers import bytebpe, xlmr
from models.paths import named_leaves
from models.published import weights
from tests.luke_models import CASES, OWN_CASES, case, example, ours, theirs
from tests.parity_models import (
  Case,
  errors,
  from_pretrained,
  in_our_layout,
  random_params,
  relative_errors,
  table_of,
  their_random,
)
from trainer.entity_export import marked

pytestmark = pytest.mark.parity

OUTPUTS, GRADIENTS = 1e-5, 1e-4


@pytest.fixture(autouse=True, scope="module")
def peers():
  pytest.importorskip("torch")
  pytest.importorskip("transformers")


def above(found, tolerance):
  return {name: error for name, error in found.items() if not error < tolerance}


def compare(case, params, model, with_entities=True):
  """Outputs and gradients of ours with `params` against those of transformers' model; paths without a gradient."""
  rows = example(case)
  outputs, gradients = ours(case, params, rows, with_entities)
  their_outputs, their_gradients = theirs(model, rows, with_entities)
  assert above(errors(outputs, their_outputs), OUTPUTS) == {}
  wanted = in_our_layout(their_gradients, table_of(case), case.model)
  assert above(relative_errors(named_leaves(gradients), wanted), GRADIENTS) == {}
  return [path for path, x in wanted.items() if not np.abs(x).max() > 0]


@pytest.mark.parametrize("name", CASES)
def test_exports_compute_the_same_in_transformers(name, tmp_path):
  """And what transformers writes again means the same model."""
  case, params = CASES[name], random_params(CASES[name].model)
  weights.save(tmp_path / "export", "luke", case.model, params, case.special)
  model = from_pretrained(tmp_path / "export")
  # the scalar reaches every parameter, or agreement would say nothing of it
  assert compare(case, params, model) == []
  model.save_pretrained(tmp_path / "again")
  assert weights.load(tmp_path / "again").model == case.model
  written, again = (json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("export", "again"))
  known = written.keys() - {"torch_dtype"}  # which transformers now calls dtype
  assert {key: again[key] for key in known} == {key: written[key] for key in known}


@pytest.mark.parametrize("name", ["luke", "luke_one_query", "luke_classify", "luke_answer"])
def test_without_entities_it_is_the_words_encoder_of_transformers(name, tmp_path):
  case, params = CASES[name], random_params(CASES[name].model)
  weights.save(tmp_path, "luke", case.model, params, case.special)
  untouched = compare(case, params, from_pretrained(tmp_path), with_entities=False)
  assert untouched and all("entity" in path for path in untouched)


@pytest.mark.parametrize("name", CASES)
def test_models_of_transformers_compute_the_same_here(name, tmp_path):
  """Saved by transformers, loaded here; saved again, transformers has the same weights bit for bit."""
  import torch

  case, model = CASES[name], their_random(CASES[name])
  if hasattr(model, "lm_head"):
    with torch.no_grad():  # released weights are tied
      model.lm_head.decoder.weight.copy_(model.luke.embeddings.word_embeddings.weight)
  model.save_pretrained(tmp_path / "theirs")
  found = weights.load(tmp_path / "theirs")
  rows = example(case)
  outputs, _ = ours(Case("luke", found.model), found.params, rows)
  assert above(errors(outputs, theirs(model, rows)[0]), OUTPUTS) == {}
  weights.save(tmp_path / "ours", "luke", found.model, found.params, case.special)
  again = from_pretrained(tmp_path / "ours")
  assert type(again) is type(model)
  state, wanted = again.state_dict(), model.state_dict()
  assert state.keys() == wanted.keys()
  assert [key for key in wanted if state[key].numpy().tobytes() != wanted[key].numpy().tobytes()] == []


def test_a_run_without_pooler_gets_one_in_transformers_that_its_logits_do_not_use(tmp_path):
  import transformers

  given = OWN_CASES["luke_without_pooler"]
  params, rows = random_params(given.model), example(given)
  weights.save(tmp_path, "luke", given.model, params, given.special)
  model, info = transformers.LukeForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
  assert info.pop("missing_keys") == {"luke.pooler.dense.weight", "luke.pooler.dense.bias"} and not any(info.values())
  found, _ = ours(given, params, rows)
  said, _ = theirs(model.eval(), rows)
  del said["pooled"]
  assert above(errors(found, said), OUTPUTS) == {}


# --- tokenizers of exported runs --------------------------------------------------------------------------------------

TEXTS = ["the cat sat on the mat", "it rained in Paris all day", "Ana Ivanovic said: a netcord # helped @ the cat"]
TITLES = [f"Title {i}" for i in range(20)]


def exported(folder, tokenizer, entities, **choices):
  """A run's model with these vocabularies, as an export writes it; and the tokenizer as it is read from there."""
  given = case(vocab_size=tokenizer.vocab_size, entity_vocab_size=entities.size, pooler=False, **choices)
  out = marked(given.model, random_params(given.model), tokenizer, entities, "here")
  weights.save(folder, "luke", out.model, out.params, given.special, out.save)
  return tokenizers.load(folder)


def mlukes():
  """A tokenizer and an entity vocabulary of mLUKE's kind."""
  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS * 5), model_writer=written, vocab_size=90, hard_vocab_limit=False, minloglevel=2
  )
  titles = {f"{language}:{title}": i + 3 for language in ("en", "de") for i, title in enumerate(TITLES)}
  entities = EntityVocabulary({"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, **titles})
  return xlmr.XLMR(written.getvalue(), xlmr.Settings()), entities


def same_ids(ours, theirs, texts):
  for text in texts:
    assert theirs(text)["input_ids"] == ours.encode([text], specials=True)[0].ids.tolist(), text


def same_markers(ours, folder, mask2):
  """`<ent>` stands around the first mention of a pair, `<ent2>` around the second; they are [MASK] and [MASK2]."""
  import transformers

  pairs = transformers.AutoTokenizer.from_pretrained(folder, task="entity_pair_classification")
  found = pairs(TEXTS[1], entity_spans=[(13, 18), (0, 2)])
  assert found["entity_ids"] == [2, mask2]
  marker = [i for i in found["input_ids"] if i >= ours.id_of("<ent>")]
  assert marker == [ours.id_of(piece) for piece in ("<ent2>", "<ent2>", "<ent>", "<ent>")]


def test_transformers_tokenizes_for_an_exported_luke(tmp_path):
  import transformers

  ours = exported(tmp_path, bytebpe.train(TEXTS * 5, 300), EntityVocabulary.of_titles(TITLES))
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
  assert type(theirs).__name__ == "LukeTokenizer"
  assert (theirs.task, theirs.max_entity_length, theirs.max_mention_length) == (None, 32, 30)
  same_ids(ours, theirs, [*TEXTS, "a <mask> b", "<ent> a <ent2>", "", "two  spaces"])
  found = theirs(TEXTS[1], entity_spans=[(13, 18), (0, 2)], entities=["Title 4", "nothing of the kind"])
  assert found["entity_ids"] == [7, 1]
  same_markers(ours, tmp_path, mask2=22)  # the rarest entity's row, of 23


def test_transformers_tokenizes_for_an_exported_mluke(tmp_path):
  """But for unknown pieces, which its MLukeTokenizer takes for <s>, and double spaces."""
  import transformers

  ours = exported(tmp_path, *mlukes(), query_kinds=1)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
  assert type(theirs).__name__ == "MLukeTokenizer"
  same_ids(ours, theirs, [*TEXTS, ""])
  found = theirs(TEXTS[1], entity_spans=[(13, 18), (0, 2)], entities=["de:Title 4", "en:Title 4"])
  assert found["entity_ids"] == [7, 7]
  same_markers(ours, tmp_path, mask2=23)  # one more


@pytest.mark.parametrize(
  ("head", "task"),
  [
    ("type", "entity_classification"),
    ("relate", "entity_pair_classification"),
    ("spans", "entity_span_classification"),
  ],
)
def test_a_tasks_tokenizer_knows_the_task(head, task, tmp_path):
  import transformers

  tokenizer, entities = bytebpe.train(TEXTS * 5, 300), EntityVocabulary.of_titles(TITLES)
  exported(tmp_path, tokenizer, entities, heads_on_top=(head,), classes=3)
  assert transformers.AutoTokenizer.from_pretrained(tmp_path).task == task
