"""SentencePiece under fairseq's ids, as XLM-R, mLUKE and the Japanese LUKE have them: ids, spans, words, files."""

import dataclasses
import functools
import json
import pickle

import numpy as np
import pytest
import sentencepiece

from data import tokenizers
from data.tokenizers import Special, TokenizerError
from data.tokenizers.unigram import ModelProto, Piece
from data.tokenizers.xlmr import XLMR, Settings
from tests.test_sentencepieces import charsmap
from tests.test_sentencepieces import model as albert
from trainer.texts import load_tokenizer

LEARNT = {
  ",": -4, ".": -4, "▁": -3, "s": -5, "▁de": -6, "▁Los": -6, "▁Angeles": -7, "▁world": -7, "▁in": -5,
  "アフガニスタン": -8, "東京": -8, "(": -6, ")": -6, "▁Iran": -7, "fi": -9, "e": -9, "▁1": -8, "1,": -7,
  "'": -6, "▁a": -6, "t": -7,
}  # fmt: skip
TEXTS = (
  "Los Angeles", "  two   spaces\tand\nlines ", "", " ", "in Iran (アフガニスタン).", "東京s", "ﬁe 1,1,",
  "Zoë ½ 😀 world", "a▁world", "<mask> <s> <unk>", "world's", "a\u00a0b\u3000c\u200bd", "x" * 50,
)  # fmt: skip


def make(learnt=LEARNT, tables=True):
  """A sentencepiece.bpe.model with these pieces and scores behind its own first three."""
  proto = ModelProto()
  proto.trainer_spec.model_type = proto.trainer_spec.UNIGRAM
  proto.normalizer_spec.precompiled_charsmap = charsmap() if tables else b""
  for piece, kind in zip(("<unk>", "<s>", "</s>"), (Piece.UNKNOWN, Piece.CONTROL, Piece.CONTROL), strict=True):
    proto.pieces.add(piece=piece, score=0, type=kind)
  for piece, score in learnt.items():
    proto.pieces.add(piece=piece, score=score, type=Piece.NORMAL)
  return proto.SerializeToString(deterministic=True)


@functools.cache
def model():
  return make()


def build(**changes):
  return XLMR(model(), Settings(**changes), "test")


def test_ids_are_fairseqs():
  """<s> <pad> </s> <unk>, then the model's pieces from its fourth on, then the mask."""
  tokenizer = build()
  assert tokenizer.vocabulary[:6] == ("<s>", "<pad>", "</s>", "<unk>", ",", ".")
  assert tokenizer.special == Special(pad=1, unk=3, cls=0, sep=2, mask=4 + len(LEARNT))
  assert tokenizer.vocab_size == len(LEARNT) + 3 + 2  # the model's own pieces and two more


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_the_librarys_under_an_id_one_higher(text):
  processor = sentencepiece.SentencePieceProcessor(model_proto=model())
  want = [3 if i == 0 else i + 1 for i in processor.encode(text)]
  assert build().encode([text])[0].ids.tolist() == want
  assert build().encode([""], specials=True)[0].ids.tolist() == [0, 2]


@pytest.mark.parametrize("pieces, ids, added", [(250_000, 250_002, 250_004), (32_768, 32_770, 32_772)])
def test_released_sizes(pieces, ids, added):
  """XLM-R and mLUKE; the Japanese LUKE, whose 32,772 ids are a model of 32,768 pieces under the same scheme."""
  tokenizer = XLMR(make({f"▁{i}": -1 - i / pieces for i in range(pieces - 3)}, tables=False), Settings(), "test")
  assert (tokenizer.vocab_size, tokenizer.special.mask) == (ids, ids - 1)
  luke = tokenizer.with_added(("<ent>", "<ent2>"))
  assert (luke.vocab_size, luke.id_of("<ent>"), luke.id_of("<ent2>")) == (added, added - 2, added - 1)
  assert luke.encode(["7 9"])[0].ids.tolist() == [4 + 7, 4 + 9]


def test_spans_point_into_the_text_as_given():
  text = "in  Iran (アフガニスタン) ﬁe"
  encoding = build().encode([text])[0]
  got = [text[a:b] for a, b in encoding.offsets]
  assert got == ["in", "Iran", "(", "(", "アフガニスタン", ")", "ﬁ", "ﬁ", "e"]
  assert build().pieces(encoding.ids)[:3] == ["▁in", "▁Iran", "▁"]


def test_names_are_found_only_where_they_are_asked_for():
  tokenizer = build().with_added(("<ent>", "<ent2>"))
  text = "Los <ent2>Angeles<ent> <mask>."
  named = tokenizer.encode([text], specials=True)[0]
  assert tokenizer.pieces(named.ids) == [
    "<s>", "▁Los", "<ent2>", "▁Angeles", "<ent>", "<mask>", "▁", ".", "</s>",
  ]  # fmt: skip
  assert [text[a:b] for a, b in named.offsets][1:6] == ["Los", "<ent2>", "Angeles", "<ent>", "<mask>"]
  plain = tokenizer.encode([text])[0].ids
  assert plain.max() < tokenizer.special.mask and tokenizer.encode([""])[0].ids.size == 0


def test_decoding():
  tokenizer = build().with_added(("<ent>",))
  ids = tokenizer.encode(["<ent>Los Angeles<ent> in Iran"], specials=True)[0].ids
  assert tokenizer.decode(ids) == "Los Angeles in Iran"
  assert tokenizer.decode(ids, specials=True) == "<s> <ent> Los Angeles <ent> in Iran </s>"


def test_words():
  pieces = ["▁Los", "▁Angeles", "'", "s", "▁", "(", "s", ")"]
  text, starts = "Los Angeles's (s)", {}
  for words in tokenizers.WORDS:
    tokenizer = build(words=words)
    encoding = tokenizer.encode([text])[0]
    assert tokenizer.pieces(encoding.ids) == pieces
    starts[words] = encoding.word_starts.tolist()
  t, f = True, False
  assert starts["pieces"] == [t, t, f, f, t, f, f, f]
  assert starts["marks"] == [t, t, t, f, t, t, f, t]
  assert starts["text"] == [t, t, t, t, t, f, t, t]  # "▁" belongs to the mark that it stands before


# Files


@pytest.fixture
def folder(tmp_path):
  build(added=("<ent>", "<ent2>")).save(tmp_path, max_length=512)
  return tmp_path


def test_each_set_of_files_gives_the_same_tokenizer(folder):
  """The model with added_tokens.json, as mLUKE is released, or with tokenizer.json; and that file alone."""
  want = build(added=("<ent>", "<ent2>"))
  assert tokenizers.load(folder / "sentencepiece.bpe.model").digest == want.digest
  for missing in ("none", "tokenizer.json", "added_tokens.json", "sentencepiece.bpe.model"):
    copy = folder / f"without {missing}"
    copy.mkdir()
    for file in folder.glob("*.*"):
      if file.is_file() and file.name != missing:
        (copy / file.name).write_bytes(file.read_bytes())
    got = tokenizers.load(copy)
    assert (got.digest, got.kind, got.settings) == (want.digest, "xlmr", want.settings), missing


def test_the_released_layout_of_mluke(tmp_path):
  (tmp_path / "sentencepiece.bpe.model").write_bytes(model())
  assert tokenizers.load(tmp_path).vocab_size == len(LEARNT) + 5
  size = len(LEARNT) + 5
  (tmp_path / "added_tokens.json").write_text(json.dumps({"<ent2>": size + 1, "<ent>": size, "<mask>": size - 1}))
  (tmp_path / "special_tokens_map.json").write_text('{"additional_special_tokens": ["<ent>", {"content": "<ent>"}]}')
  (tmp_path / "tokenizer_config.json").write_text('{"entity_token_2": {"content": "<ent2>", "__type": "AddedToken"}}')
  (tmp_path / "entity_vocab.json").write_text('{"[MASK]": 0}')
  (tmp_path / "config.json").write_text("{}")
  tokenizer = load_tokenizer(tmp_path)
  assert tokenizer.settings.added == ("<ent>", "<ent2>") and tokenizer.id_of("<ent2>") == size + 1


def test_an_empty_tokenizer_json_beside_the_model_says_nothing(folder):
  """The Japanese LUKE is released with one."""
  (folder / "tokenizer.json").write_bytes(b"")
  assert tokenizers.load(folder).digest == build(added=("<ent>", "<ent2>")).digest
  (folder / "sentencepiece.bpe.model").unlink()
  with pytest.raises(TokenizerError, match="tokenizer.json: got .*want a JSON file"):
    tokenizers.load(folder)


def test_names_may_stand_in_tokenizer_config(tmp_path):
  (tmp_path / "sentencepiece.bpe.model").write_bytes(model())
  size, entry = len(LEARNT) + 5, {"lstrip": False, "normalized": False, "rstrip": False, "special": True}
  pieces = {"0": "<s>", "1": "<pad>", str(size - 1): "<mask>", str(size): "<ent>"}
  config = {"added_tokens_decoder": {i: entry | {"content": piece} for i, piece in pieces.items()}}
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
  assert tokenizers.load(tmp_path).settings.added == ("<ent>",)


@pytest.mark.parametrize("changes", [{"words": "marks"}, {"added": ("<e>",)}, {}])
def test_save_load_and_pickle_give_back_the_tokenizer(tmp_path, changes):
  tokenizer = build(**changes)
  tokenizer.save(tmp_path)
  for again in (tokenizers.load(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
    assert again.settings == tokenizer.settings and again.digest == tokenizer.digest


def test_every_setting_piece_and_score_changes_the_digest():
  changes = dict(words="text", added=("<ent>",), specials=("<pad>", "<unk>", "<s>", "</s>", "<m>"))
  assert set(changes) == {field.name for field in dataclasses.fields(Settings)}
  digests = {build(**{name: value}).digest for name, value in changes.items()}
  others = [make(tables=False), make(LEARNT | {"s": -4.5}), make({**LEARNT, "new": -9})]
  digests |= {XLMR(other, Settings(), "test").digest for other in (model(), *others)}
  assert len(digests) == len(changes) + 4


def test_saved_files_have_the_published_layout(folder):
  assert (folder / "sentencepiece.bpe.model").read_bytes() == model()
  config = json.loads((folder / "tokenizer_config.json").read_text())
  assert config["tokenizer_class"] == "XLMRobertaTokenizer" and config["model_max_length"] == 512
  assert config["additional_special_tokens"] == ["<ent>", "<ent2>"] and config["mask_token"]["lstrip"] is True
  content = json.loads((folder / "tokenizer.json").read_text())
  vocab = [piece for piece, _ in content["model"]["vocab"]]
  assert vocab[:5] == ["<s>", "<pad>", "</s>", "<unk>", ","] and vocab[-3:] == ["<mask>", "<ent>", "<ent2>"]
  assert (content["model"]["unk_id"], content["normalizer"]["type"]) == (3, "Precompiled")
  pair = [next(iter(part.values()))["id"] for part in content["post_processor"]["pair"]]
  assert pair == ["<s>", "A", "</s>", "</s>", "B", "</s>"]


def edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def ordinary(content):
  content["added_tokens"][-1] |= {"special": False, "normalized": True}


DAMAGED = {
  "not a model": (lambda d: (d / "sentencepiece.bpe.model").write_text("git-lfs"), "want a SentencePiece model"),
  "ALBERT's": (
    lambda d: (d / "sentencepiece.bpe.model").write_bytes(albert()),
    r"begins with \['<pad>', '<unk>', '\[CLS\]'\], want <unk> and the control symbols",
  ),
  "another vocabulary": (
    lambda d: (d / "sentencepiece.bpe.model").write_bytes(make({**LEARNT, "s": -5, "new": -9})),
    "got '<mask>' in tokenizer.json and 'new' in sentencepiece.bpe.model",
  ),
  "an ordinary added piece": (lambda d: edit(d / "tokenizer.json", ordinary), "'<ent2>': got one for any text"),
  "a gap": (
    lambda d: ((d / "tokenizer.json").unlink(), edit(d / "added_tokens.json", lambda c: c.update({"<ent2>": 99}))),
    "added piece '<ent2>': got id 99, want 27",
  ),
  "another normalizer": (
    lambda d: (
      (d / "sentencepiece.bpe.model").unlink(),
      edit(d / "tokenizer.json", lambda c: c.update(normalizer={"type": "NFC"})),
    ),
    "got normalizer NFC, want XLM-R's",
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_give_one_line(folder, name):
  damage, message = DAMAGED[name]
  damage(folder)
  with pytest.raises(TokenizerError, match=message) as error:
    tokenizers.load(folder)
  assert "\n" not in str(error.value)


def test_lower_case_is_refused(folder):
  with pytest.raises(TokenizerError, match="got lowercase True, want False: XLM-R takes text as it is"):
    tokenizers.load(folder, lowercase=True)


def test_many_texts_are_encoded_as_each_alone():
  tokenizer = build(added=("<ent>",))
  for specials in (False, True):
    together = tokenizer.encode(list(TEXTS), specials)
    for text, encoding in zip(TEXTS, together, strict=True):
      alone = tokenizer.encode([text], specials)[0]
      np.testing.assert_array_equal(encoding.ids, alone.ids)
      np.testing.assert_array_equal(encoding.offsets, alone.offsets)
      assert encoding.offsets.shape == (len(alone), 2) and encoding.offsets.dtype == np.int32
