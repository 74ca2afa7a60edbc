"""Names behind a vocabulary, such as LUKE's <ent> and <ent2>: the same for every kind of tokenizer."""

import json
import pickle

import pytest

from data import tokenizers
from data.tokenizers import TokenizerError
from tests import test_bytebpe, test_sentencepieces, test_xlmr_tokenizer
from tests.test_tokenizers import build as wordpiece

TEXT = "Hello<ent> world <ent2>"
KINDS = {
  "wordpiece": lambda: wordpiece(["hello", "world", "<", ">", "ent", "##t", "en", "2", "ent2"]),
  "bytebpe": lambda: test_bytebpe.build(test_bytebpe.MERGES),
  "sentencepiece": lambda: test_sentencepieces.build(test_sentencepieces.model()),
  "xlmr": test_xlmr_tokenizer.build,
}


@pytest.fixture(params=KINDS)
def tokenizer(request):
  built = KINDS[request.param]()
  assert built.kind == request.param
  return built


def test_they_stand_behind_the_vocabulary_and_change_no_other_id(tokenizer):
  more = tokenizer.with_added(("<ent>", "<ent2>"))
  assert more.vocabulary == (*tokenizer.vocabulary, "<ent>", "<ent2>")
  assert (more.special, more.kind) == (tokenizer.special, tokenizer.kind)
  assert more.digest != tokenizer.digest


def test_they_are_found_whole_where_names_are_asked_for_and_are_text_elsewhere(tokenizer):
  more = tokenizer.with_added(("<ent>", "<ent2>"))
  ent, ent2 = more.id_of("<ent>"), more.id_of("<ent2>")
  named = more.encode([TEXT], specials=True)[0]
  found = [(int(i), TEXT[a:b]) for i, (a, b) in zip(named.ids, named.offsets, strict=True) if i in (ent, ent2)]
  assert found == [(ent, "<ent>"), (ent2, "<ent2>")]
  plain, before = more.encode([TEXT])[0], tokenizer.encode([TEXT])[0]
  assert plain.ids.tolist() == before.ids.tolist() and plain.offsets.tolist() == before.offsets.tolist()
  assert "ent" not in more.decode(named.ids) and "<ent2>" in more.decode(named.ids, specials=True)


def test_a_name_is_a_word_and_so_is_what_stands_behind_it(tokenizer):
  more = tokenizer.with_added(("<ent>",))
  named = more.encode(["Hello<ent> world"], specials=True)[0]
  (at,) = (i for i, piece in enumerate(more.pieces(named.ids)) if piece == "<ent>")
  assert named.word_starts[at] and named.word_starts[at + 1]


def test_they_survive_files_and_pickling(tokenizer, tmp_path):
  more = tokenizer.with_added(("<ent>", "<ent2>"))
  more.save(tmp_path, max_length=512)
  assert tokenizers.load(tmp_path).digest == pickle.loads(pickle.dumps(more)).digest == more.digest
  if tokenizer.kind != "sentencepiece":  # there the model itself holds them
    listed = json.loads((tmp_path / "added_tokens.json").read_text())
    assert listed == {"<ent>": more.id_of("<ent>"), "<ent2>": more.id_of("<ent2>")}
  (tmp_path / "tokenizer.json").unlink()
  again = tokenizers.load(tmp_path)
  assert again.digest == more.digest
  assert again.with_added(("<ent2>", "<ent>")).vocabulary == more.vocabulary  # nothing is added twice


def test_nothing_is_written_where_nothing_was_added(tokenizer, tmp_path):
  tokenizer.save(tmp_path)
  assert not (tmp_path / "added_tokens.json").exists()
  assert "additional_special_tokens" not in json.loads((tmp_path / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("piece", ["two words", "", " <ent>", None])
def test_what_is_no_name_is_refused(tokenizer, piece):
  with pytest.raises(TokenizerError, match="want a name without white space"):
    tokenizer.with_added([piece])
  with pytest.raises(TokenizerError, match="wrap it in a list"):
    tokenizer.with_added("<ent>")


def test_an_ordinary_piece_is_refused(tokenizer):
  ordinary = tokenizer.vocabulary[-2]
  with pytest.raises(TokenizerError, match="got an ordinary piece of tokenizer"):
    tokenizer.with_added([ordinary])


def test_released_luke_has_50267_pieces(tmp_path):
  """vocab.json and merges.txt are RoBERTa's 50,265; two more stand in added_tokens.json."""
  from data.tokenizers.bytebpe import FIRST, byte_pieces

  pieces = [*FIRST, *byte_pieces()]
  pieces += [f"madeupword{i:05d}" for i in range(50264 - len(pieces))] + ["<mask>"]
  (tmp_path / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
  (tmp_path / "merges.txt").write_text("#version: 0.2\n")
  (tmp_path / "added_tokens.json").write_text('{"<ent>": 50265, "<ent2>": 50266}')
  (tmp_path / "special_tokens_map.json").write_text('{"additional_special_tokens": ["<ent>", "<ent2>"]}')
  (tmp_path / "entity_vocab.json").write_text('{"[PAD]": 0}')
  tokenizer = tokenizers.load(tmp_path)
  tokenizers.validate(tokenizer, 50267)
  assert tokenizer.pieces(tokenizer.encode(["a<ent2>"], specials=True)[0].ids) == ["<s>", "a", "<ent2>", "</s>"]


def test_pieces_that_no_file_calls_names_are_found_in_any_text(tmp_path):
  KINDS["wordpiece"]().save(tmp_path)
  (tmp_path / "tokenizer.json").unlink()
  size = KINDS["wordpiece"]().vocab_size
  (tmp_path / "added_tokens.json").write_text(json.dumps({"covid": size, "<ent9>": size + 1}))
  (tmp_path / "special_tokens_map.json").write_text('{"additional_special_tokens": ["<ent9>"]}')
  tokenizer = tokenizers.load(tmp_path)
  assert tokenizer.settings.added == (("covid", False), ("<ent9>", True))
  assert tokenizer.pieces(tokenizer.encode(["Hello covid"])[0].ids) == ["hello", "covid"]


def test_two_files_that_disagree_are_refused(tmp_path):
  KINDS["bytebpe"]().save(tmp_path)
  (tmp_path / "tokenizer.json").unlink()
  size = KINDS["bytebpe"]().vocab_size
  (tmp_path / "added_tokens.json").write_text(json.dumps({"<ent>": size}))
  config = json.loads((tmp_path / "tokenizer_config.json").read_text())
  config["added_tokens_decoder"] = {str(size + 1): {"content": "<ent>", "special": True}}
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
  with pytest.raises(TokenizerError, match=f"'<ent>': got id {size} in added_tokens.json and {size + 1} in tokenizer_"):
    tokenizers.load(tmp_path)
