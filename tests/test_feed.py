"""What a feed takes from the weights that a run starts from: rows of tables mean what they meant there."""

import pytest

from data import entity_vocabulary
from data.preparation import Training
from data.tokenizers import TokenizerError, bytebpe, load
from tests.trained import SENTENCES, SMALL_LUKE, WORDS, luke_run
from trainer import config as configs
from trainer.feed import _entities, _tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return luke_run(tmp_path_factory.mktemp("feed") / "luke")


def config_of(run, **changes):
  return configs.load("configs/luke.py:tiny", SMALL_LUKE | {"init_from": str(run)} | changes)


def test_words_and_entities_are_those_of_the_weights(run):
  config = config_of(run)
  tokenizer = _tokenizer(config)
  assert tokenizer.vocabulary == load(run / "tokenizer").vocabulary
  assert tokenizer.settings.words == "marks"  # where words start is this recipe's own affair
  assert entity_vocabulary.load(_entities(config).vocabulary).digest == entity_vocabulary.load(run / "tokenizer").digest


def test_a_tokenizer_with_other_pieces_is_refused(run, tmp_path):
  bytebpe.train([*SENTENCES, "quite other words"] * 3, WORDS).save(tmp_path)
  with pytest.raises(TokenizerError, match="has other pieces than .*luke, whose word table is taken over"):
    _tokenizer(config_of(run, **{"data.tokenizer": str(tmp_path)}))
  assert _tokenizer(config_of(run, **{"data.tokenizer": str(run / "tokenizer")})).vocab_size == WORDS


def test_from_scratch_both_are_learned():
  config = configs.load("configs/luke.py:tiny", SMALL_LUKE)
  assert isinstance(_tokenizer(config), Training)
  assert _entities(config).vocabulary is None and _entities(configs.load("configs/bert.py:tiny")) is None
