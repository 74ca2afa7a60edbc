"""Files of byte-level BPE: three layouts, what they mean, what is refused, and what is written."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest

from data import tokenizers
from data.tokenizers import Special, TokenizerError
from data.tokenizers.bytebpe import FIRST, SPECIALS, ByteBPE, Settings, byte_pieces
from tests.test_bytebpe import MERGES, build
from trainer.texts import load_tokenizer

RELEASED = Path(__file__).parent.parent / "../shared/data/tokenizers"


# Released files


def released():
  if not (RELEASED / "dict.txt").is_file():
    pytest.skip("../shared/data/tokenizers is not here")
  return RELEASED


def test_the_released_vocabulary(tmp_path):
  """50,265 ids: dict.txt as RoBERTa has it ends after three madeupwords; the one here has 936 more."""
  folder = released()
  for name in ("encoder.json", "vocab.bpe"):
    (tmp_path / name).symlink_to((folder / name).resolve())
  (tmp_path / "dict.txt").write_text("\n".join((folder / "dict.txt").read_text().split("\n")[:50260]) + "\n")
  tokenizer = tokenizers.load(tmp_path)
  tokenizers.validate(tokenizer, 50265)
  assert tokenizer.special == Special(pad=1, unk=3, cls=0, sep=2, mask=50264)
  assert tokenizer.vocabulary[50260:] == ("<|endoftext|>", *(f"madeupword000{i}" for i in range(3)), "<mask>")
  for text, ids in {
    "Hello world!": [0, 31414, 232, 328, 2],
    " world": [0, 232, 2],
    "world": [0, 8331, 2],
    "Hello <mask>.": [0, 31414, 50264, 4, 2],
  }.items():
    assert tokenizer.encode([text], specials=True)[0].ids.tolist() == ids
  tokenizer.save(tmp_path / "again")
  assert tokenizers.load(tmp_path / "again").digest == tokenizer.digest


def write_fairseq(folder, merges=MERGES):
  """GPT-2's ids: bytes, merges, <|endoftext|>; RoBERTa's order is by frequency, here from the last id to the first."""
  pieces = [*byte_pieces(), *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]
  (folder / "encoder.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
  (folder / "vocab.bpe").write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges))
  counts = [*(f"{i} {i}" for i in reversed(range(len(pieces)))), "madeupword0000 0"]
  (folder / "dict.txt").write_text("\n".join(counts) + "\n")
  return pieces


def test_fairseq_files_are_read_in_the_order_of_the_dictionary(tmp_path):
  pieces = write_fairseq(tmp_path)
  for path in (tmp_path, tmp_path / "encoder.json", tmp_path / "dict.txt"):
    tokenizer = tokenizers.load(path)
    assert tokenizer.vocabulary == (*FIRST, *reversed(pieces), "madeupword0000", "<mask>")
  assert tokenizer.special == Special(pad=1, unk=3, cls=0, sep=2, mask=len(pieces) + 5)
  assert tokenizer.pieces(tokenizer.encode(["Hello world!"])[0].ids) == ["Hello", "Ġworld", "!"]


# Files


@pytest.fixture
def folder(tmp_path):
  build(MERGES).save(tmp_path, max_length=512)
  return tmp_path


def edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def test_each_file_and_the_directory_give_the_same_tokenizer(folder):
  want = build(MERGES)
  for path in (folder, folder / "tokenizer.json", folder / "vocab.json", folder / "merges.txt"):
    got = tokenizers.load(path)
    assert (got.digest, got.kind) == (want.digest, "bytebpe")
    assert got.encode(["Hello world"])[0].ids.tolist() == want.encode(["Hello world"])[0].ids.tolist()


def test_predict_finds_it_in_the_folder_of_a_published_model(folder):
  (folder / "config.json").write_text("{}")
  (folder / "tokenizer.json").unlink()
  assert load_tokenizer(folder).digest == build(MERGES).digest


@pytest.mark.parametrize("changes", [{"words": "text"}, {"prefix_space": True}, {"mask_takes_space": False}])
def test_save_load_and_pickle_give_back_the_tokenizer(tmp_path, changes):
  tokenizer = build(MERGES, **changes)
  tokenizer.save(tmp_path)
  (tmp_path / "copy").mkdir()
  for name in ("vocab.json", "merges.txt", "tokenizer_config.json", tokenizers.OWN_FILE):
    (tmp_path / "copy" / name).write_bytes((tmp_path / name).read_bytes())
  for again in (tokenizers.load(tmp_path), tokenizers.load(tmp_path / "copy"), pickle.loads(pickle.dumps(tokenizer))):
    assert again.settings == tokenizer.settings and again.digest == tokenizer.digest


def test_every_setting_merge_and_piece_changes_the_digest():
  changes = dict(prefix_space=True, mask_takes_space=False, words="text", added=(("a", False),))
  changes |= dict(specials=(*SPECIALS[:4], "a"))
  assert set(changes) == {field.name for field in dataclasses.fields(Settings)}
  digests = {build(MERGES, **{name: value}).digest for name, value in changes.items()}
  digests |= {build(MERGES).digest, build([*MERGES[1::-1], *MERGES[2:]]).digest, build(MERGES[:-1]).digest}
  assert len(digests) == len(changes) + 3


def test_saved_files_have_the_published_layout(folder):
  vocabulary = json.loads((folder / "vocab.json").read_text())
  assert list(vocabulary)[:4] == ["<s>", "<pad>", "</s>", "<unk>"] and list(vocabulary)[-1] == "<mask>"
  assert (folder / "merges.txt").read_text().split("\n")[:3] == ["#version: 0.2", "w o", "r l"]
  config = json.loads((folder / "tokenizer_config.json").read_text())
  assert config["tokenizer_class"] == "RobertaTokenizer" and config["model_max_length"] == 512
  assert (config["cls_token"], config["bos_token"], config["add_prefix_space"]) == ("<s>", "<s>", False)
  assert config["mask_token"]["content"] == "<mask>" and config["mask_token"]["lstrip"] is True
  content = json.loads((folder / "tokenizer.json").read_text())
  assert content["model"]["type"] == "BPE" and content["post_processor"]["type"] == "RobertaProcessing"


def test_older_files_do_not_name_the_type_of_the_model_and_write_merges_as_strings(folder):
  want = tokenizers.load(folder).digest

  def older(content):
    del content["model"]["type"]
    content["model"] |= {"unk_token": None, "merges": MERGES}

  edit(folder / "tokenizer.json", older)
  assert tokenizers.load(folder).digest == want


def test_added_pieces_are_found_whole(folder):
  """LUKE's <ent> and <ent2> stand after RoBERTa's pieces."""
  options = dict(single_word=False, lstrip=False, rstrip=False, special=True, normalized=False)
  size = build(MERGES).vocab_size
  edit(folder / "tokenizer.json", lambda c: c["added_tokens"].append(dict(id=size, content="<ent>", **options)))
  tokenizer = tokenizers.load(folder)
  named = tokenizer.encode(["Hello<ent> world"], specials=True)[0].ids
  assert tokenizer.pieces(named) == ["<s>", "Hello", "<ent>", "Ġworld", "</s>"]
  plain = tokenizer.encode(["Hello<ent> world"])[0].ids
  assert size not in plain and tokenizer.decode(plain) == "Hello<ent> world"  # where no names are asked for, it is text
  assert tokenizer.vocab_size == size + 1


def test_a_byte_without_a_piece_is_unknown():
  vocabulary = [*FIRST, "a", "Ġ", SPECIALS[-1]]
  tokenizer = ByteBPE(vocabulary, [], Settings(), "test")
  assert tokenizer.pieces(tokenizer.encode(["a b"])[0].ids) == ["a", "Ġ", "<unk>"]


DAMAGED = {
  "half of it": (lambda d: (d / "merges.txt").unlink(), "vocab.json", "want tokenizer.json or vocab.txt .*merges.txt"),
  "another splitting": (
    lambda d: edit(d / "tokenizer.json", lambda c: c.update(pre_tokenizer={"type": "Whitespace"})),
    "", "got pre_tokenizer .*Whitespace.*, want byte-level BPE as RoBERTa has it",
  ),
  "a normalizer": (
    lambda d: edit(d / "tokenizer.json", lambda c: c.update(normalizer={"type": "Lowercase"})),
    "", "got normalizer .*Lowercase",
  ),
  "two vocabularies": (
    lambda d: edit(d / "vocab.json", lambda c: c.update(wo=c["rl"], rl=c["wo"])),
    "", "got 'wo' in tokenizer.json and 'rl' in vocab.json",
  ),
  "two settings": (
    lambda d: edit(d / "tokenizer_config.json", lambda c: c.update(add_prefix_space=True)),
    "", "got add_prefix_space False in tokenizer.json and True in tokenizer_config.json",
  ),
  "no mask": (
    lambda d: edit(d / "vocab.json", lambda c: c.pop("<mask>")), "vocab.json", "pieces without '<mask>', want it there",
  ),
  "ids with gaps": (
    lambda d: edit(d / "vocab.json", lambda c: c.update(wo=9999)), "vocab.json", "want id 260, as ids have no gaps",
  ),
  "a list": (lambda d: (d / "vocab.json").write_text("[1]"), "vocab.json", "want an object of pieces and ids"),
  "cut off": (lambda d: (d / "vocab.json").write_text('{"a'), "vocab.json", "want a JSON file"),
  "a broken merge": (
    lambda d: (d / "merges.txt").write_text("#version: 0.2\nw o\nrl\n"),
    "merges.txt", "line 3: got 'rl', want two pieces",
  ),
  "a strange merge": (
    lambda d: (d / "merges.txt").write_text("H o\n"), "merges.txt", "merge 0 of .*: got a vocabulary without 'Ho'",
  ),
  "hollow": (
    lambda d: edit(d / "tokenizer.json", lambda c: c["model"].pop("merges")), "", "missing or misplaced entry .*merges",
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_give_one_line(folder, name):
  damage, file, message = DAMAGED[name]
  damage(folder)
  with pytest.raises(TokenizerError, match=message) as error:
    tokenizers.load(folder / file)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "lines, message",
  [("99999 1", "line 1: got id 99999, want ids below"), ("0 1", "got no line for 27[0-9] pieces of encoder.json")],
)
def test_a_dictionary_of_another_model_is_refused(tmp_path, lines, message):
  write_fairseq(tmp_path)
  (tmp_path / "dict.txt").write_text(lines + "\n")
  with pytest.raises(TokenizerError, match=message):
    tokenizers.load(tmp_path)


def test_lower_casing_is_refused(folder):
  with pytest.raises(TokenizerError, match="got lowercase True, want False: byte-level BPE takes text as it is"):
    tokenizers.load(folder, lowercase=True)
  assert tokenizers.load(folder, lowercase=False, words="text").settings.words == "text"
