"""Sentences with links as tokens with mentions: what each kind of tokenizer makes of them, and their store."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from data import records, tokenizers
from data.documents import Document, EncodedDocument, Skipped, encode
from data.mentions import MentionError, encode_linked
from data.store import Digest, Store, StoreError, Tally, open_store
from data.tokenizers import bytebpe, sentencepieces, wordpiece, xlmr

SHARED = Path(__file__).parents[2] / "shared" / "data" / "tokenizers"
TEXT = [
  "Tokyo's towers (Tokyo Tower, Skytree) stand.", "The river Thames flows to London-by-the-sea.",
  "In 1889 the Eiffel Tower was built; it isn't small!", "Planets, e.g. [Mars], and dwarf-planets.",
] * 3  # fmt: skip
LINKS = [
  ["Tokyo", "Tokyo Tower", "Skytree"], ["Thames", "London", "sea"], ["Eiffel Tower"], ["Planet", "Mars", "planets"],
]  # fmt: skip
IDS = {title: 5 + n for n, title in enumerate(dict.fromkeys(title for own in LINKS for title in own))}


def linked(texts, titles):
  """A document of sentences with links to the titles, each where it first stands behind the one before."""
  links = []
  for text, own in zip(texts, titles, strict=True):
    links.append([])
    for title in own:
      first = text.index(title, links[-1][-1][1] if links[-1] else 0)
      links[-1].append((first, first + len(title), title))
  return Document("d", "D", list(texts), links=links)


DOCUMENT = linked(TEXT[:4], LINKS)
KINDS = {
  "byte-level BPE": lambda: bytebpe.train(TEXT, 400, words="marks"),
  "byte-level BPE with a space before texts": lambda: _spaced(bytebpe.train(TEXT, 400)),
  "SentencePiece": lambda: sentencepieces.train(TEXT, 120, lowercase=False),
  "XLM-R's SentencePiece": lambda: _xlmr(),
  "WordPiece": lambda: wordpiece.train(TEXT, 200, lowercase=False),
}


def _spaced(made):
  return bytebpe.ByteBPE(made.vocabulary, made.merges, dataclasses.replace(made.settings, prefix_space=True))


def _xlmr():
  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXT), model_writer=written, vocab_size=100, hard_vocab_limit=False, unk_id=0, bos_id=1,
    eos_id=2, minloglevel=2,
  )  # fmt: skip
  return xlmr.XLMR(written.getvalue(), xlmr.Settings(words="marks"))


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
  return KINDS[request.param]()


@pytest.fixture(scope="module")
def bpe():
  return KINDS["byte-level BPE"]()


# --- tokens and mentions ---------------------------------------------------------------------------------------------


def test_each_mention_decodes_to_the_text_of_its_link(tokenizer):
  made = encode_linked(DOCUMENT, tokenizer, IDS.get)
  titles = [title for own in DOCUMENT.links for _, _, title in own]
  assert made.mentions.dtype == np.int32 and made.mentions[:, 2].tolist() == [IDS[title] for title in titles]
  assert [tokenizer.decode(made.ids[first:end]).strip() for first, end, _ in made.mentions] == titles
  sentence = np.searchsorted(np.cumsum(made.sentences), made.mentions[:, 0], "right")
  assert sentence.tolist() == [n for n, own in enumerate(DOCUMENT.links) for _ in own]
  assert (made.mentions[1:, 0] >= made.mentions[:-1, 1]).all()


def test_the_text_has_no_space_that_was_not_there(tokenizer):
  made = encode_linked(DOCUMENT, tokenizer, IDS.get)
  texts = [tokenizer.decode(ids).strip() for ids in np.split(made.ids, np.cumsum(made.sentences)[:-1])]
  if tokenizer.kind == "wordpiece":  # it has no pieces for spaces
    assert ["".join(text.split()) for text in texts] == ["".join(text.split()) for text in DOCUMENT.text]
  else:
    assert texts == DOCUMENT.text


def test_parts_are_encoded_one_by_one_behind_a_space_or_inside_a_line(bpe):
  """The published rule, part by part and character by character, by single calls of the tokenizer."""
  made = encode_linked(DOCUMENT, bpe, IDS.get)
  ids, mentions, lengths = [], [], []
  for text, links in zip(DOCUMENT.text, DOCUMENT.links, strict=True):
    at, before = 0, len(ids)
    for first, end, title in [*links, (len(text), len(text), None)]:
      for begin, stop, entity in ((at, first, None), (first, end, title)):
        part = text[begin:stop].rstrip()
        if part:
          spaced = begin == 0 or text[begin - 1] == " " or part[0] == " "
          found = bpe.encode([" " + part.lstrip() if spaced else part])[0].ids.tolist()
          if entity:
            mentions.append([len(ids), len(ids) + len(found), IDS[entity]])
          ids += found
      at = end
    lengths.append(len(ids) - before)
  assert made.ids.tolist() == ids and made.mentions.tolist() == mentions and made.sentences.tolist() == lengths


def test_no_piece_lies_across_the_edge_of_a_mention(bpe):
  text = "the planets"
  whole = bpe.encode([" " + text])[0]
  inside = encode_linked(Document("d", None, [text], links=[[(4, 8, "Plan")]]), bpe, lambda title: 7)
  ((first, end, _),) = inside.mentions
  assert bpe.decode(inside.ids[first:end]) == " plan" and bpe.decode(inside.ids[end:]) == "ets"
  assert len(inside.ids) > len(whole.ids)  # "planets" is one piece where nothing is linked


def test_documents_without_links_are_those_of_the_plain_encoding_behind_a_space(tokenizer):
  document = Document("d", None, TEXT[:4])
  made = encode_linked(document, tokenizer, IDS.get)
  plain = encode(dataclasses.replace(document, text=[" " + text for text in TEXT[:4]]), tokenizer)
  for name in ("ids", "word_starts", "sentences"):
    assert getattr(made, name).tolist() == getattr(plain, name).tolist()
  assert made.mentions.shape == (0, 3) and plain.mentions is None


def test_a_link_whose_entity_is_unknown_is_text_like_any_other(tokenizer):
  none = encode_linked(DOCUMENT, tokenizer, lambda title: None)
  plain = encode_linked(Document("d", "D", DOCUMENT.text), tokenizer, IDS.get)
  assert none.ids.tolist() == plain.ids.tolist() and not len(none.mentions)
  one = encode_linked(DOCUMENT, tokenizer, {"Thames": 9}.get)
  assert [entity for _, _, entity in one.mentions] == [9]


def test_white_space_is_collapsed_before_links_and_in_them(bpe):
  text = "  The   river\tThames  flows."
  first = text.index("river")
  ragged = Document("d", None, [text, "\u00a0 "], links=[[(first, text.index("flows") - 1, "River")], []])
  made = encode_linked(ragged, bpe, lambda title: 3)
  smooth = encode_linked(linked(["The river Thames flows."], [["river Thames"]]), bpe, lambda title: 3)
  assert made.ids.tolist() == smooth.ids.tolist() and made.mentions.tolist() == smooth.mentions.tolist()
  assert made.sentences.tolist() == [len(made.ids)]  # a sentence of white space alone is left out


WORDS = {
  "pieces": ["(Tokyo)", "London-by-the-sea", "isn't."],
  "marks": ["(Tokyo", ")", "London", "-by", "-the", "-sea", "isn", "'t", "."],  # what follows "(" goes on from it
  "text": ["(", "Tokyo", ")", "London", "-", "by", "-", "the", "-", "sea", "isn", "'t", "."],
}


@pytest.mark.parametrize("words", tokenizers.WORDS)
def test_words_go_on_across_the_edge_of_a_mention(words):
  bpe = bytebpe.train([*TEXT, "isn't"] * 3, 400, words=words)
  assert "'t" in bpe.vocabulary  # a piece belongs to the word of its first character
  text = "(Tokyo) London-by-the-sea isn't."
  made = encode_linked(linked([text], [["Tokyo", "sea"]]), bpe, lambda title: 3)
  parts = np.split(made.ids, np.flatnonzero(made.word_starts)[1:])
  assert [bpe.decode(ids).strip() for ids in parts] == WORDS[words]


def test_annotations_stand_where_they_stand_without_links(bpe):
  text = "The  river Thames flows."
  spans = {"entities": [[11, 17]], "noun_phrases": [[0, 17]]}
  document = Document("d", None, [text], annotations=spans, links=[[(11, 17, "Thames")]])
  made = encode_linked(document, bpe, lambda title: 3)
  ((first, end, _),) = made.mentions
  plain = encode(Document("d", None, [" The river Thames flows."], annotations={"noun_phrases": [[1, 17]]}), bpe)
  phrase = plain.flags[:first].tolist()
  assert 4 in phrase and made.annotations[:first].tolist() == phrase
  assert {8} <= {*(made.annotations[first:end] & 8).tolist()} and not made.annotations[end:].any()
  named = made.annotations[first:end][made.annotations[first:end] & 3 > 0] & 3
  assert named.tolist() == [1] + [2] * (len(named) - 1)


WRONG = ([(4, 4, "x")], [(0, 3, "x"), (2, 5, "y")], [(6, 9, "x"), (0, 2, "y")], [(-1, 2, "x")], [(5, 99, "x")])


@pytest.mark.parametrize("links", WRONG)
def test_links_that_cannot_be_are_refused_with_one_line(bpe, links):
  with pytest.raises(MentionError, match=r"document 'd': link to '.': got characters") as error:
    encode_linked(Document("d", None, ["The river Thames."], links=[links]), bpe, lambda title: 1)
  assert "\n" not in str(error.value)


def test_documents_without_tokens_and_short_ones_are_skipped(bpe):
  for texts, least, reason in (([" ", ""], 1, "empty"), (["The"], 50, "too short")):
    with pytest.raises(Skipped, match=reason):
      encode_linked(Document("d", None, texts), bpe, IDS.get, least)


def test_text_inside_a_line_has_the_pieces_that_it_has_without_a_space_before_texts():
  spaced, plain = KINDS["byte-level BPE with a space before texts"](), bytebpe.train(TEXT, 400)
  texts = ["Tokyo", "'s towers", "-by", " river", "1889", ")", "é", "isn't"]
  for got, want in zip(spaced.encode_inside(texts), plain.encode(texts), strict=True):
    assert got.ids.tolist() == want.ids.tolist() and got.offsets.tolist() == want.offsets.tolist()


@pytest.mark.parametrize("kind", ["SentencePiece", "XLM-R's SentencePiece"])
def test_unknown_characters_inside_a_line_stay_one_unknown_piece(kind):
  made = KINDS[kind]()
  (encoding,) = made.encode_inside(["東京 Tower"])
  assert encoding.ids[0] == made.special.unk and encoding.offsets[0].tolist() == [0, 2]
  assert made.decode(encoding.ids[1:]) == "Tower"


def test_words_of_sentencepiece_part_at_spaces_and_marks():
  made = KINDS["XLM-R's SentencePiece"]()
  encoded = encode_linked(linked(["the (Tokyo) by-the-sea isn't."], [["Tokyo", "sea"]]), made, lambda title: 3)
  parts = np.split(encoded.ids, np.flatnonzero(encoded.word_starts)[1:])
  words = ["".join(made.pieces(ids)) for ids in parts]
  # A "▁" by itself is a word of its own where a mark stands behind it.
  assert words == ["▁the", "▁", "(Tokyo", ")", "▁by", "-the", "-sea", "▁isn", "'t", "."]


def test_gpt2_pieces_of_a_sentence_with_links():
  if not SHARED.is_dir():
    pytest.skip("../shared/data/tokenizers is absent")
  gpt2 = tokenizers.load(SHARED, words="marks")
  text = "Tokyo's (Tōkyō) towers don't fall."
  made = encode_linked(linked([text], [["Tokyo", "Tōkyō", "towers"]]), gpt2, lambda title: 1)
  assert gpt2.pieces(made.ids) == [
    "ĠTokyo", "'s", "Ġ(", "T", "Åį", "ky", "Åį", ")", "Ġtowers", "Ġdon", "'t", "Ġfall", ".",
  ]  # fmt: skip
  assert made.word_starts.astype(int).tolist() == [1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
  assert made.mentions[:, :2].tolist() == [[0, 1], [3, 7], [8, 9]]


# --- the store -------------------------------------------------------------------------------------------------------


def documents():
  """Three documents, the second without a mention."""
  draw = np.random.default_rng(0)
  mentions = ([[0, 2, 7], [3, 4, 1]], [], [[1, 3, 9]])
  for n, (own, lengths) in enumerate(zip(mentions, ([3, 2], [4], [1, 3]), strict=True)):
    size = sum(lengths)
    arrays = draw.integers(5, 90, size).astype(np.int32), np.ones(size, bool), np.array(lengths, np.int32)
    yield EncodedDocument(f"d{n}", None, *arrays, mentions=np.array(own, np.int32).reshape(-1, 3))


def written(folder, docs, annotated=False):
  tally = Tally(annotated, linked=True)
  records.write(folder / "documents", {"train": lambda: tally.counted(iter(docs))}, annotated, linked=True)
  card = {"format": 1, "fingerprint": "f" * 64, "splits": {"train": tally.card()}, "tokenizer": {"vocab_size": 90}}
  (folder / "card.json").write_text(json.dumps(card))
  return card["splits"]["train"]


def test_mentions_go_through_records_into_the_store_in_its_tokens(tmp_path):
  docs = [*documents()]
  card = written(tmp_path, docs)
  made = open_store(tmp_path, "train")
  assert made.mentions.dtype == np.int64 and made.mentions.tolist() == [[0, 2, 7], [3, 4, 1], [10, 12, 9]]
  assert card["mentions"] == 3 and isinstance(made.mentions, np.memmap)
  nested = [np.split(d.ids, np.cumsum(d.sentences)[:-1]) for d in docs]
  memory = Store.from_documents(nested, vocab_size=90, mentions=[d.mentions for d in docs])
  assert memory.mentions.tolist() == made.mentions.tolist() and memory.fingerprint == card["digest"]


def test_a_corpus_whose_links_all_fell_away_has_no_mentions_and_still_entities(tmp_path):
  docs = [dataclasses.replace(document, mentions=np.zeros((0, 3), np.int32)) for document in documents()]
  assert written(tmp_path, docs)["mentions"] == 0
  assert open_store(tmp_path, "train").mentions.shape == (0, 3)


def test_the_digest_sees_mentions_and_whose_they_are():
  nested = [[[5, 6, 7]], [[8, 9, 10]]]
  told = ([[], []], [[(0, 1, 3)], []], [[], [(0, 1, 3)]], [[(0, 1, 4)], []], [[(0, 2, 3)], []])
  prints = {Store.from_documents(nested, mentions=own).fingerprint for own in told}
  assert len(prints | {Store.from_documents(nested).fingerprint}) == 6
  arrays = [np.arange(6), np.ones(6, bool), np.array([3, 3]), np.array([1, 1]), np.array([[0, 1, 3]]), np.array([1, 0])]
  whole, halves = Digest(linked=True), Digest(linked=True)
  whole.add(*arrays)
  halves.add(*(values[:3] for values in arrays[:2]), *(values[:1] for values in arrays[2:]))
  halves.add(*(values[3:] for values in arrays[:2]), *(values[1:] for values in arrays[2:]))
  assert whole.hexdigest() == halves.hexdigest()


def test_damaged_mentions_are_noticed(tmp_path):
  docs = [*documents()]
  written(tmp_path, docs)
  moved = [dataclasses.replace(docs[0], mentions=docs[0].mentions + np.array([0, 0, 1], np.int32)), *docs[1:]]
  other = tmp_path / "other"
  other.mkdir()
  written(other, moved)
  (other / "card.json").write_bytes((tmp_path / "card.json").read_bytes())
  with pytest.raises(StoreError, match="the records do not have the digest in card.json"):
    open_store(other, "train")


@pytest.mark.parametrize("mention", [(2, 4, 1), (1, 1, 1), (-1, 1, 1), (3, 6, 1), (0, 1, -1)])
def test_mentions_outside_a_sentence_are_refused_with_one_line(mention):
  with pytest.raises(StoreError, match="want tokens of one sentence, behind the mention before"):
    Store.from_documents([[[5, 6, 7], [8, 9]]], mentions=[[mention]])
