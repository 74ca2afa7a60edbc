"""Text with entities against transformers' LukeTokenizer and MLukeTokenizer, built from small vocabularies made here.

The tests go around three faults of transformers 5.23, with its own parts:
- LukeTokenizer and MLukeTokenizer have no `truncate_sequences`, so they cannot cut: they get its Python tokenizers'.
- MLukeTokenizer made from sentencepiece.bpe.model gives ids without fairseq's offset: it is given the pieces in
  fairseq's order here. XLMRobertaTokenizer reads the file right, and is asked for the ids of texts.
- MLukeTokenizer has lost the model's tables of normalisation, so the texts that it gets here need none.
"""

import io
import random

import pytest
import sentencepiece

from data import tokenizers
from data.entity_text import Limits, encode_all, encode_entities
from data.entity_vocabulary import EntityVocabulary
from data.tokenizers import bytebpe
from data.tokenizers.unigram import ModelProto
from data.tokenizers.xlmr import XLMR, Settings

pytestmark = pytest.mark.parity

WORDS = ["the", "Ana", "Ivanovic", "Wimbledon", "naïve", "café", "don't", "1,000", "(new)", "low-cost", "sat.", "東京"]
CORPUS = [" ".join(random.Random(i).choices(WORDS, k=12)) for i in range(600)]
ENTITIES = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3, "Ana Ivanovic": 4, "Wimbledon": 5}
LITE = {"[MASK]": 0, "[UNK]": 1, "[PAD]": 2, "[MASK2]": 3, "Wimbledon": 4}
TASKS = {
  None: None,
  "type": "entity_classification",
  "relate": "entity_pair_classification",
  "spans": "entity_span_classification",
}


@pytest.fixture(scope="module")
def transformers():
  return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def cutting(transformers):
  from transformers.tokenization_python import PreTrainedTokenizer

  return type("Cutting", (), {"truncate_sequences": PreTrainedTokenizer.truncate_sequences})


@pytest.fixture(scope="module")
def luke(tmp_path_factory):
  """(our tokenizer, the folder it was saved to)."""
  folder = tmp_path_factory.mktemp("luke")
  bytebpe.train(CORPUS, 420).with_added(("<ent>", "<ent2>")).save(folder, max_length=512)
  return tokenizers.load(folder), folder


@pytest.fixture(scope="module")
def mluke():
  """Our tokenizer."""
  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(CORPUS), model_writer=written, vocab_size=120, hard_vocab_limit=False, minloglevel=2
  )
  return XLMR(written.getvalue(), Settings(), "test").with_added(("<ent>", "<ent2>"))


@pytest.fixture(params=["luke", "mluke"])
def pair(request, transformers, cutting):
  """(our tokenizer, function of a task and an entity vocabulary that makes theirs)."""
  if request.param == "luke":
    ours, folder = request.getfixturevalue("luke")
    theirs = type("Theirs", (cutting, transformers.LukeTokenizer), {})
    return ours, lambda task, entities: theirs.from_pretrained(folder, entity_vocab=entities, task=TASKS[task])
  ours = request.getfixturevalue("mluke")
  theirs = type("Theirs", (cutting, transformers.MLukeTokenizer), {})
  scores = [piece.score for piece in ModelProto.FromString(ours.model).pieces[3:]]
  vocab = [*zip(ours.vocabulary, [0.0] * 4 + scores + [0.0] * 3, strict=True)]
  plain = {"lstrip": False, "rstrip": False, "normalized": False, "special": True}
  markers = {f"entity_{i}_token": transformers.AddedToken(name, **plain) for i, name in ((1, "<ent>"), (2, "<ent2>"))}
  return ours, lambda task, entities: theirs(vocab=vocab, entity_vocab=entities, task=TASKS[task], **markers)


def spans_of(dice, text, n, apart=False):
  """n spans of a text at random, of which none is white space alone."""
  found = []
  while len(found) < n:
    first = dice.randrange(len(text))
    span = (first, dice.randint(first + 1, min(len(text), first + 25)))
    solid = text[slice(*span)].strip() == text[slice(*span)]
    if solid and not (apart and any(span[0] < end and first < span[1] for first, end in found)):
      found.append(span)
  return found


def check(found, want, task=None):
  assert found.ids.tolist() == want["input_ids"]
  assert found.entity_ids.tolist() == want["entity_ids"]
  padded = [[*columns.tolist(), *[-1] * (30 - len(columns))] for columns in found.mentions]
  assert padded == want["entity_position_ids"]
  if task == "spans":
    assert found.starts.tolist() == want["entity_start_positions"]
    assert found.ends.tolist() == want["entity_end_positions"]


@pytest.mark.parametrize("entities", [ENTITIES, LITE])
@pytest.mark.parametrize("task", TASKS)
def test_tasks(pair, task, entities):
  ours, make = pair
  theirs, dice = make(task, entities), random.Random(1)
  many = {"type": 1, "relate": 2}
  texts = CORPUS[:40]
  spans = [spans_of(dice, text, many.get(task) or dice.randint(1, 5), apart=task == "relate") for text in texts]
  made = encode_all(ours, EntityVocabulary(entities), texts, spans, task=task, limits=Limits(mention=30))
  for text, given, found in zip(texts, spans, made, strict=True):
    check(found, theirs(text, entity_spans=given), task)
    assert found.lost == ()
  assert any(ours.id_of("<ent>") in found.ids for found in made) == (task in ("type", "relate"))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("length", [8, 15, 30])
def test_texts_that_are_cut(pair, task, length):
  ours, make = pair
  theirs, dice, lost = make(task, ENTITIES), random.Random(2), 0
  for text in CORPUS[:30]:
    spans = spans_of(dice, text, {"type": 1, "relate": 2}.get(task, 4), apart=True)
    found = encode_entities(ours, EntityVocabulary(ENTITIES), text, spans, task=task, max_length=length)
    check(found, theirs(text, entity_spans=spans, truncation=True, max_length=length), task)
    lost += len(found.lost)
  assert lost > 0


def test_titles(pair):
  ours, make = pair
  theirs, text = make(None, ENTITIES), "Ana Ivanovic sat. Wimbledon (new)"
  spans, titles = [(0, 12), (18, 27), (28, 33)], ["Ana Ivanovic", "Wimbledon", "Nobody"]
  found = encode_entities(ours, EntityVocabulary(ENTITIES), text, spans, titles)
  check(found, theirs(text, entity_spans=spans, entities=titles))
  assert found.entity_ids.tolist() == [4, 5, 1]


@pytest.mark.parametrize("length", [12, 20, 33, 512])
def test_pairs(pair, length):
  ours, make = pair
  theirs, dice = make(None, ENTITIES), random.Random(length)
  for i in range(25):
    texts = (CORPUS[i][: dice.randint(20, 80)].strip(), CORPUS[-i - 1][: dice.randint(20, 80)].strip())
    spans = tuple(spans_of(dice, text, 3) for text in texts)
    found = encode_entities(ours, EntityVocabulary(ENTITIES), texts, spans, max_length=length)
    cut = {"truncation": True, "max_length": length}
    check(found, theirs(*texts, entity_spans=spans[0], entity_spans_pair=spans[1], **cut))


@pytest.mark.parametrize("most", [1, 2, 5])
def test_too_many_entities(pair, most):
  ours, make = pair
  theirs, dice = make(None, ENTITIES), random.Random(3)
  for text, other in zip(CORPUS[:10], CORPUS[10:20], strict=True):
    spans = [spans_of(dice, each, dice.randint(1, 5)) for each in (text, other)]
    cut = {"truncation": True, "max_length": 512, "max_entity_length": most}
    one = encode_entities(ours, EntityVocabulary(ENTITIES), text, spans[0], max_entities=most)
    check(one, theirs(text, entity_spans=spans[0], **cut))
    two = encode_entities(ours, EntityVocabulary(ENTITIES), (text, other), spans, max_entities=most)
    check(two, theirs(text, other, entity_spans=spans[0], entity_spans_pair=spans[1], **cut))


def test_a_long_mention(pair):
  ours, make = pair
  text = " ".join(CORPUS[:4])
  spans = [(0, len(text) - 3), (4, 8)]
  found = encode_entities(ours, EntityVocabulary(ENTITIES), text, spans)
  want = make(None, ENTITIES)(text, entity_spans=spans)
  assert found.ids.tolist() == want["input_ids"]
  # Theirs repeats padding less than it cuts: a mention of 40 pieces has 30 columns and no padding.
  assert [columns.tolist() for columns in found.mentions] == [
    [column for column in columns if column >= 0] for columns in want["entity_position_ids"]
  ]
  assert found.ends[0] > found.mentions[0][-1]


@pytest.mark.parametrize("name", ["LukeTokenizer", "AutoTokenizer"])
def test_saved_names_have_the_same_ids_there(luke, transformers, name):
  ours, folder = luke
  theirs = getattr(transformers, name).from_pretrained(folder)
  assert theirs.convert_tokens_to_ids(["<ent>", "<ent2>", "<mask>"]) == [420, 421, 419]
  text = "the<ent> Ana <ent2>café"
  assert ours.encode([text], specials=True)[0].ids.tolist() == theirs(text)["input_ids"]


ODD = [
  "", " ", "  Two  spaces\tand\nlines ", "ﬁne ½ ① e\u0301x", "a\u00a0b\u3000c\u200bd", "😀 東京éé", "x" * 60,
  "the<mask> café <mask>.", "(new)(new)</s>sat.",
]  # fmt: skip


@pytest.mark.parametrize("missing", ["tokenizer.json", "sentencepiece.bpe.model"])
def test_saved_xlmr_files_are_read_by_transformers(mluke, transformers, tmp_path, missing):
  """With its conversion of the model, and with the tokenizer.json that is written here."""
  mluke.save(tmp_path, max_length=512)
  (tmp_path / missing).unlink()
  theirs = transformers.XLMRobertaTokenizer.from_pretrained(tmp_path)
  assert theirs.mask_token_id == mluke.special.mask and theirs.model_max_length == 512
  assert theirs.convert_tokens_to_ids(["<ent>", "<ent2>"]) == [mluke.id_of("<ent>"), mluke.id_of("<ent2>")]
  texts = [*CORPUS[:50], *ODD, "the<ent> Ana <ent2>café"]
  for text, encoding in zip(texts, mluke.encode(texts, specials=True), strict=True):
    assert encoding.ids.tolist() == theirs(text)["input_ids"], text


def test_released_files_of_xlmr_are_those_of_transformers(mluke, transformers, tmp_path):
  """What transformers writes is read here: tokenizer.json alone."""
  (tmp_path / "sentencepiece.bpe.model").write_bytes(mluke.model)
  transformers.XLMRobertaTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "there")
  assert not (tmp_path / "there" / "sentencepiece.bpe.model").exists()
  again = tokenizers.load(tmp_path / "there")
  assert again.vocabulary == mluke.vocabulary[:-2]
  texts = CORPUS[:50] + ODD
  for one, other in zip(again.encode(texts), mluke.encode(texts), strict=True):
    assert one.ids.tolist() == other.ids.tolist() and one.offsets.tolist() == other.offsets.tolist()
