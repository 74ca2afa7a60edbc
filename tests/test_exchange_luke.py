"""A LUKE out of a run, with rows for markers, and back into one; one line for what is no pretrained LUKE."""

import json
import shutil

import jax
import numpy as np
import pytest

from data.entity_vocabulary import EntityVocabulary
from data.synthetic import synthetic_batch
from models import hf
from models.paths import named_leaves
from models.published import files, weights
from tests.luke_models import CASES, case
from tests.parity_models import random_params
from tests.trained import SENTENCES, TITLES, WORDS, luke_run
from tests.trained import SMALL_LUKE as SMALL
from trainer.config import load
from trainer.entity_export import with_mask2
from trainer.inference import encode, load_model
from trainer.loading import InputError
from trainer.programs import Program, Setup
from trainer.start import initial_params

pytestmark = pytest.mark.usefixtures("own_logging")
TITLE_LIST = [f"Title {i}" for i in range(TITLES - 3)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return luke_run(tmp_path_factory.mktemp("luke") / "run")


@pytest.fixture(scope="module")
def published(run):
  target = run.parent / "published"
  assert hf.main(["export", f"--source={run}", f"--target={target}"]) == 0
  return target


def leaves(folder):
  return named_leaves(jax.device_get(load_model(folder).params))


def line(capsys):
  """The one line on stderr of a command that failed."""
  captured = capsys.readouterr()
  (text,) = captured.err.strip().splitlines()
  assert captured.out == "" and text.startswith("models.hf ")
  return text


# --- out --------------------------------------------------------------------------------------------------------------


def test_an_export_has_markers_behind_the_words(run, published):
  ours, out = load_model(run), load_model(published)
  assert out.tokenizer.vocabulary == (*ours.tokenizer.vocabulary, "<ent>", "<ent2>")
  before, after = leaves(run), leaves(published)
  at, number = (ours.tokenizer.id_of(piece) for piece in "@#")
  for path in ("embeddings/word/embedding", "heads/mlm/bias"):
    np.testing.assert_array_equal(after[path][:WORDS], before[path][:WORDS])
    np.testing.assert_array_equal(after[path][WORDS : WORDS + 2], before[path][[at, number]])


def test_the_rarest_entity_gives_its_row_to_mask2(run, published):
  before, after = load_model(run).entities, load_model(published).entities
  assert (before.special.mask2, after.special.mask2, after.size) == (None, TITLES - 1, TITLES)
  assert after.ids == {title: i for title, i in before.ids.items() if title != TITLE_LIST[-1]} | {"[MASK2]": TITLES - 1}
  np.testing.assert_array_equal(after.counts, [*before.counts[:-1], 0])
  ours, theirs = (leaves(folder)["entity_embeddings/entity/embedding"] for folder in (run, published))
  np.testing.assert_array_equal(theirs[: TITLES - 1], ours[: TITLES - 1])
  np.testing.assert_array_equal(theirs[TITLES - 1], ours[before.special.mask])


def test_everything_else_goes_out_as_it_is(run, published):
  before, after = leaves(run), leaves(published)
  grown = {f"{part}/{leaf}" for part, leaf in (("embeddings/word", "embedding"), ("heads/mlm", "bias"))}
  grown |= {"entity_embeddings/entity/embedding", "heads/entity/bias"}
  assert before.keys() == after.keys() and not any(path.startswith("pooler/") for path in after)
  for path in before.keys() - grown:
    np.testing.assert_array_equal(after[path], before[path], err_msg=path)
  ours, theirs = (encode(load_model(folder), SENTENCES).pooled for folder in (run, published))
  np.testing.assert_allclose(theirs, ours, atol=1e-6)  # batches of other widths


def test_the_folder_holds_what_transformers_reads(published):
  wanted = ("config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer.json", "entity_vocab.json")
  assert [name for name in wanted if not (published / name).is_file()] == []
  config = json.loads((published / "tokenizer_config.json").read_text())
  wanted = {"tokenizer_class": "LukeTokenizer", "task": None, "max_entity_length": 32, "max_mention_length": 30}
  assert {key: config[key] for key in wanted} == wanted
  assert [config[f"entity_token_{n}"]["content"] for n in (1, 2)] == ["<ent>", "<ent2>"]
  assert json.loads((published / "entity_vocab.json").read_text())["[MASK2]"] == TITLES - 1


@pytest.mark.parametrize(
  ("ids", "rows", "replace", "row"),
  [
    ({"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "A": 3, "B": 4}, 5, True, 4),  # LUKE
    ({"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "en:A": 3, "de:B": 3}, 4, False, 4),  # mLUKE
    ({"[PAD]": 0, "[UNK]": 1, "[MASK]": 2}, 3, True, 3),  # nothing but special entities: one more
    ({"[MASK]": 0, "[UNK]": 1, "[PAD]": 2, "[MASK2]": 3}, 4, True, None),  # the released lite ones
  ],
)
def test_the_row_of_mask2(ids, rows, replace, row):
  found, got = with_mask2(EntityVocabulary(ids), rows, replace)
  assert got == row
  kept = {title: i for title, i in ids.items() if i != row}
  assert found.ids == (kept if row is None else kept | {"[MASK2]": row})


# --- and back ---------------------------------------------------------------------------------------------------------


def test_an_import_of_an_export_is_the_export_bit_for_bit(published, tmp_path, capsys):
  """It has the markers already, so that it goes out unchanged a second time."""
  back, again = tmp_path / "back", tmp_path / "again"
  assert hf.main(["import", f"--source={published}", f"--target={back}"]) == 0
  assert json.loads(capsys.readouterr().out.splitlines()[-1])["family"] == "luke"
  ours, theirs = load_model(back), load_model(published)
  assert ours.entities.digest == theirs.entities.digest and ours.tokenizer.digest == theirs.tokenizer.digest
  found = leaves(back)
  for path, leaf in leaves(published).items():
    np.testing.assert_array_equal(found[path], leaf, err_msg=path)
  assert hf.main(["export", f"--source={back}", f"--target={again}"]) == 0
  for name in ("model.safetensors", "entity_vocab.json", "vocab.json", "tokenizer_config.json"):
    assert (again / name).read_bytes() == (published / name).read_bytes(), name


def test_training_goes_on_from_published_weights(published):
  sizes = SMALL | {"model.vocab_size": WORDS + 2, "init_from": str(published), "init_map": ()}
  config = load("configs/luke.py:tiny", sizes)
  setup = Setup.of(config, jax.devices()[:1])
  program = Program(setup, setup.stages[0], synthetic_batch(config, setup.stages[0], 0))
  started = named_leaves(initial_params(config, program.fresh_state().params))
  for path, leaf in named_leaves(weights.load(published).params).items():
    np.testing.assert_array_equal(started[path], leaf, err_msg=path)


def test_a_pooler_stays_behind_and_is_told(published, tmp_path, capsys):
  """Released files have one; pretraining neither uses nor trains it."""
  source = copied(published, tmp_path, lambda tensors: tensors.update(
    {"luke.pooler.dense.weight": np.ones((32, 32), np.float32), "luke.pooler.dense.bias": np.ones(32, np.float32)}
  ))  # fmt: skip
  assert hf.main(["import", f"--source={source}", f"--target={tmp_path / 'run'}"]) == 0
  assert "left out: pooler, which pretraining does not train" in capsys.readouterr().err
  assert leaves(tmp_path / "run").keys() == leaves(published).keys()
  assert "pooler/dense/kernel" in leaves(source)


def test_an_archive_of_the_original_code_becomes_a_run(run, published, tmp_path, capsys):
  """Without prefix and markers, titles in a TSV, and RoBERTa's tokenizer put beside it, which archives do not hold."""
  source, target = tmp_path / "archive", tmp_path / "run"
  found = load_model(run)
  weights.save(tmp_path / "plain", "luke", found.model, jax.device_get(found.params), {"pad": 1, "cls": 0, "sep": 2})
  found.tokenizer.save(source)
  tensors = files.read_tensors(tmp_path / "plain")
  files.write_tensors(source, {name.removeprefix("luke."): tensor for name, tensor in tensors.items()})
  config = json.loads((tmp_path / "plain" / "config.json").read_text())
  for key in ("model_type", "architectures", "use_entity_aware_attention"):
    del config[key]
  config["bert_model_name"] = "roberta-base"
  lengths = {"max_seq_length": 24, "max_entity_length": 6, "max_mention_length": 5}
  (source / "metadata.json").write_text(json.dumps({"model_config": config, **lengths}))
  counts = found.entities.counts
  (source / "entity_vocab.tsv").write_text(
    "".join(f"{title}\t{counts[i]}\n" for title, i in found.entities.ids.items())
  )
  assert hf.main(["import", f"--source={source}", f"--target={target}"]) == 0
  assert load_model(target).entities.digest == found.entities.digest
  again, before = leaves(target), leaves(run)
  assert again.keys() == before.keys()
  for path, leaf in before.items():
    rows = {384: WORDS, 128: TITLES}.get(len(leaf), len(leaf))  # the others pad a table
    np.testing.assert_array_equal(again[path][:rows], leaf[:rows], err_msg=path)


def copied(published, folder, change=lambda tensors: None):
  source = folder / "source"
  shutil.copytree(published, source)
  (source / "SHA256SUMS").unlink()
  tensors = files.read_tensors(source)
  change(tensors)
  files.write_tensors(source, tensors)
  return source


# --- what is refused --------------------------------------------------------------------------------------------------


def test_an_import_needs_the_titles(published, tmp_path, capsys):
  source = copied(published, tmp_path)
  for name in ("entity_vocab.json", "entity_vocab.jsonl"):
    (source / name).unlink()
  assert hf.main(["import", f"--source={source}", f"--target={tmp_path / 'run'}"]) == 2
  assert "have no entity_vocab.json beside them, want the titles; copy it there" in line(capsys)


def test_a_vocabulary_of_another_model_is_refused(published, tmp_path, capsys):
  source = copied(published, tmp_path)
  EntityVocabulary.of_titles([f"Title {i}" for i in range(60)]).save(source)
  (source / "entity_vocab.jsonl").unlink()
  with pytest.raises(InputError, match="entity vocabulary: got id 62, want ids below 40, the rows of"):
    load_model(source)
  assert hf.main(["import", f"--source={source}", f"--target={tmp_path / 'run'}"]) == 2
  assert "got id 62, want ids below 40" in line(capsys)


def test_a_tasks_model_is_no_run_of_pretraining(published, tmp_path, capsys):
  source = tmp_path / "relate"
  c = CASES["luke_relate"]
  weights.save(source, "luke", c.model, random_params(c.model), c.special)
  (source / "SHA256SUMS").unlink()
  for name in ("tokenizer.json", "tokenizer_config.json", "septet_tokenizer.json", "entity_vocab.json"):
    shutil.copy(published / name, source)
  assert hf.main(["import", f"--source={source}", f"--target={tmp_path / 'run'}"]) == 2
  assert "hold a head for relate, which pretraining has not" in line(capsys)


def test_heads_that_a_file_lacks_may_start_from_the_seed(published, tmp_path, capsys):
  source = copied(published, tmp_path, lambda tensors: [
    tensors.pop(name) for name in [*tensors] if name.startswith("entity_predictions")
  ])  # fmt: skip
  target = tmp_path / "run"
  assert hf.main(["import", f"--source={source}", f"--target={target}"]) == 2
  assert "have no heads/entity/; --fresh_heads" in line(capsys)
  assert hf.main(["import", f"--source={source}", f"--target={target}", "--fresh_heads"]) == 0
  assert leaves(target)["heads/entity/dense/kernel"].any()


def test_a_run_without_titles_or_with_another_tokenizer_is_not_exported(run, tmp_path, capsys):
  bare = tmp_path / "bare"
  shutil.copytree(run, bare)
  for name in ("entity_vocab.json", "entity_vocab.jsonl"):
    (bare / "tokenizer" / name).unlink()
  assert hf.main(["export", f"--source={bare}", f"--target={tmp_path / 'out'}"]) == 2
  assert "has no entity_vocab.json beside its tokenizer, want it; copy it there" in line(capsys)
  assert not (tmp_path / "out").exists()


def test_a_larger_vocabulary_of_words_is_refused_as_for_any_model(published, tmp_path, capsys):
  other = case()
  source = tmp_path / "other"
  weights.save(source, "luke", other.model, random_params(other.model), other.special)
  (source / "SHA256SUMS").unlink()
  for name in ("tokenizer.json", "tokenizer_config.json", "septet_tokenizer.json", "entity_vocab.json"):
    shutil.copy(published / name, source)
  assert hf.main(["import", f"--source={source}", f"--target={tmp_path / 'run'}"]) == 2
  assert f"got {WORDS + 2} pieces, want {other.model.config.vocab_size}, the model's vocab_size" in line(capsys)
