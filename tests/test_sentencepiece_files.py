"""Files of SentencePiece models: two layouts, what they mean, what is refused, and what is written."""

import dataclasses
import json
import pickle

import pytest

from data import tokenizers
from data.tokenizers import Special, TokenizerError
from data.tokenizers.sentencepieces import SPECIALS, ModelProto, Settings
from tests.test_sentencepieces import FIXED, LEARNT, build, make, model, pieces_of
from trainer.texts import load_tokenizer


@pytest.fixture
def folder(tmp_path):
  build(model()).save(tmp_path, max_length=512)
  return tmp_path


def edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def test_each_file_and_the_directory_give_the_same_tokenizer(folder):
  want = build(model())
  for path in (folder, folder / "spiece.model", folder / "tokenizer.json"):
    got = tokenizers.load(path)
    assert (got.digest, got.special, got.kind) == (want.digest, Special(0, 1, 2, 3, 4), "sentencepiece")
    assert pieces_of(got, "x232, 1,000 (") == pieces_of(want, "x232, 1,000 (")
  (folder / "spiece.model").rename(folder / "30k-clean.model")
  assert tokenizers.load(folder / "30k-clean.model").digest == want.digest
  (folder / "tokenizer.json").unlink()
  assert tokenizers.load(folder).digest == want.digest


def test_predict_finds_it_in_the_folder_of_a_published_model(folder):
  (folder / "config.json").write_text("{}")
  (folder / "tokenizer.json").unlink()
  assert load_tokenizer(folder).digest == build(model()).digest


@pytest.mark.parametrize("changes", [{"lowercase": False}, {"keep_accents": True}, {"words": "text"}])
def test_save_load_and_pickle_give_back_the_tokenizer(tmp_path, changes):
  tokenizer = build(make(unused=3), **changes)
  tokenizer.save(tmp_path)
  copy = pickle.loads(pickle.dumps(tokenizer))
  for again in (tokenizers.load(tmp_path), tokenizers.load(tmp_path / "tokenizer.json"), copy):
    assert again.settings == tokenizer.settings and again.digest == tokenizer.digest


def test_every_setting_piece_and_score_changes_the_digest():
  changes = dict(lowercase=False, keep_accents=True, words="text", specials=(*SPECIALS[:3], "[MASK]", "[SEP]"))
  assert set(changes) == {field.name for field in dataclasses.fields(Settings)}
  digests = {build(model(), **{name: value}).digest for name, value in changes.items()}
  others = [make(tables=b""), make(LEARNT | {"s": -4.5}), make(unused=1)]
  digests |= {build(other).digest for other in (model(), *others)}
  assert len(digests) == len(changes) + 4


def test_saved_files_have_the_published_layout(folder):
  assert (folder / "spiece.model").read_bytes() == model()
  config = json.loads((folder / "tokenizer_config.json").read_text())
  assert config["tokenizer_class"] == "AlbertTokenizer" and config["model_max_length"] == 512
  assert (config["do_lower_case"], config["keep_accents"], config["pad_token"]) == (True, False, "<pad>")
  content = json.loads((folder / "tokenizer.json").read_text())
  steps = [step["type"] for step in content["normalizer"]["normalizers"]]
  assert steps == ["Replace", "Replace", "NFKD", "StripAccents", "Lowercase", "Precompiled"]
  scores = dict(content["model"]["vocab"])
  assert (content["model"]["type"], content["model"]["unk_id"]) == ("Unigram", 1)
  assert (scores["5,"], scores["5"], scores["("], scores[","]) == (-106, -7, 0, -3)  # as published files have it


def test_older_files_do_not_name_the_type_of_the_model(folder):
  want = tokenizers.load(folder).digest

  def older(content):
    del content["model"]["type"]
    content["pre_tokenizer"]["pretokenizers"][1] = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}

  edit(folder / "tokenizer.json", older)
  assert tokenizers.load(folder).digest == tokenizers.load(folder / "tokenizer.json").digest == want


def test_an_argument_overrules_the_files(folder):
  edit(folder / "tokenizer_config.json", lambda c: c.update(do_lower_case=False))
  with pytest.raises(TokenizerError, match="got do_lower_case True in tokenizer.json and False in tokenizer_config"):
    tokenizers.load(folder)
  got = tokenizers.load(folder, lowercase=False, words="text").settings
  assert (got.lowercase, got.words) == (False, "text")


def rewrite(change):
  def damage(folder):
    proto = ModelProto.FromString((folder / "spiece.model").read_bytes())
    change(proto)
    (folder / "spiece.model").write_bytes(proto.SerializeToString())

  return damage


def first_piece(content):
  content["added_tokens"].append(
    dict(id=FIXED + len(LEARNT), content="[E]", special=True, normalized=False)
    | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
  )


DAMAGED = {
  "cut off": (
    lambda d: (d / "spiece.model").write_bytes((d / "spiece.model").read_bytes()[:-5]), "want a SentencePiece model",
  ),
  "empty": (lambda d: (d / "spiece.model").write_bytes(b""), "got no pieces, want a SentencePiece model"),
  "not a model": (lambda d: (d / "spiece.model").write_text("version https://git-lfs"), "want a SentencePiece model"),
  "another type": (rewrite(lambda p: setattr(p.trainer_spec, "model_type", 2)), "model of type bpe, want unigram"),
  "byte fallback": (rewrite(lambda p: setattr(p.trainer_spec, "byte_fallback", True)), "byte_fallback|byte"),
  "no mask": (rewrite(lambda p: setattr(p.pieces[4], "piece", "<mask>")), r"pieces without '\[MASK\]', want it there"),
  "two vocabularies": (
    rewrite(lambda p: setattr(p.pieces[14], "piece", "▁a")), "got '▁the' in tokenizer.json and '▁a' in spiece.model",
  ),
  "an ordinary mask": (
    lambda d: ((d / "tokenizer.json").unlink(), (d / "tokenizer_config.json").write_text('{"mask_token": "▁the"}')),
    "got an ordinary piece '▁the', want it as a control symbol",
  ),
  "an added piece": (
    lambda d: edit(d / "tokenizer.json", first_piece), r"got '\[E\]' added to the model's 46 pieces",
  ),
  "another normalizer": (
    lambda d: edit(d / "tokenizer.json", lambda c: c.update(normalizer={"type": "NFC"})),
    "got normalizer NFC, want ALBERT's",
  ),
  "another splitting": (
    lambda d: edit(d / "tokenizer.json", lambda c: c.update(pre_tokenizer={"type": "ByteLevel"})),
    "got pre_tokenizer ByteLevel, want ALBERT's Metaspace",
  ),
  "another order": (
    lambda d: edit(d / "tokenizer.json", lambda c: c["post_processor"]["single"].pop()),
    "got post_processor .* want ALBERT's",
  ),
  "hollow": (
    lambda d: edit(d / "tokenizer.json", lambda c: c["model"].pop("vocab")), "missing or misplaced entry .*vocab",
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_give_one_line(folder, name):
  damage, message = DAMAGED[name]
  damage(folder)
  with pytest.raises(TokenizerError, match=message) as error:
    tokenizers.load(folder)
  assert "\n" not in str(error.value)
