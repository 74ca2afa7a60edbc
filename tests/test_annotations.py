"""Entities and noun phrases of a document: from spans of its characters to flags of its tokens."""

import json
import random
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data.corpus import main
from data.documents import encode
from data.sources import open_source
from data.tokenizers import Encoding, bytebpe
from data.tokenizers.training import TRAINERS
from tests.words import jsonl, word_piece

RE_DOCRED = Path("../shared/data/relation/re-docred/dev_revised.json")


def spans(text, *parts):
  """Spans of the parts, one after the other."""
  found, at = [], 0
  for part in parts:
    first = text.index(part, at)
    found.append([first, first + len(part)])
    at = first + 1
  return found


def flagged(path, row, tokenizer):
  """{piece: flags} of the sentences of a row, as lists of (piece, flags)."""
  (document,) = open_source(str(jsonl(path, [row])))
  found = encode(document, tokenizer)
  pieces = list(zip(tokenizer.pieces(found.ids), found.flags.tolist(), strict=True))
  ends = np.cumsum(found.sentences).tolist()
  return [pieces[end - size : end] for end, size in zip(ends, found.sentences.tolist(), strict=True)]


def byte_bpe(*merges):
  pairs = [tuple(merge.split(" ")) for merge in merges]
  pieces = [*bytebpe.FIRST, *bytebpe.byte_pieces(), *map("".join, pairs), bytebpe.SPECIALS[-1]]
  return bytebpe.ByteBPE(pieces, pairs, bytebpe.Settings())


# Flags of tokens: 1 begins an entity, 2 goes on; 4 begins a noun phrase, 8 goes on

PIECES = "the old man met wil ##fried sch ##neider in new york city . he left 😀 and [ ] 1 ##2 u"


def test_flags_of_pieces_of_words(tmp_path):
  text = "\ufeffThe old\0 man met Wilfried\r\nSchneider in NEW YORK City. He left 😀 and Wilfried.\r\n\r\nÜ [12] man."
  row = {
    "text": text,
    "entities": spans(text, "Wilfried", "Schneider", "NEW YORK City", "😀", "Wilfried", "[12]"),
    "noun_phrases": spans(text, "\ufeffThe old\0 man", "Wilfried", "City.", "He", "Ü [1"),
  }
  assert flagged(tmp_path / "a.jsonl", row, word_piece(*PIECES.split())) == [
    [("the", 4), ("old", 8), ("man", 8), ("met", 0), ("wil", 5), ("##fried", 10)],
    [("sch", 1), ("##neider", 2), ("in", 0), ("new", 1), ("york", 2), ("city", 6), (".", 8)],
    [("he", 4), ("left", 0), ("😀", 1), ("and", 0), ("wil", 1), ("##fried", 2), (".", 0)],
    [("u", 4), ("[", 9), ("1", 10), ("##2", 2), ("]", 2), ("man", 0), (".", 0)],
  ]


def test_flags_of_pieces_of_bytes(tmp_path):
  text = "a 😀b\r\né\0 ab  b."
  row = {"text": text, "entities": spans(text, "😀", "é", "ab  b"), "noun_phrases": spans(text, " 😀b", "b ", "b.")}
  smile = ["ð", "Ł", "ĺ", "Ģ"]
  # The space in " 😀b" is no part of the phrase, nor the piece "Ġ" that stands for it alone. What stands between the
  # words of an entity is part of it. "b " is a part of a piece, and takes it whole.
  assert flagged(tmp_path / "a.jsonl", row, byte_bpe("Ġ a", "Ġa b", "Ġ b")) == [
    [("a", 0), ("Ġ", 0), *zip(smile, [5, 10, 10, 10], strict=True), ("b", 8)],
    [("Ã", 1), ("©", 2), ("Ġab", 5), ("Ġ", 2), ("Ġb", 6), (".", 8)],
  ]


def test_a_list_of_sentences_is_annotated_as_if_joined_by_newlines(tmp_path):
  sentences = ["the  old\tman", " \ufeff ", " new\nyork .", "in"]
  text = "\n".join(sentences)
  row = {"text": sentences, "entities": spans(text, "old\tman", "new\nyork", "in")}
  assert flagged(tmp_path / "a.jsonl", row, word_piece(*PIECES.split())) == [
    [("the", 0), ("old", 1), ("man", 2)],
    [("new", 1), ("york", 2), (".", 0)],
    [("in", 1)],
  ]


@pytest.mark.parametrize(
  ("entities", "flags"),
  [
    ([[0, 3], [4, 7], [8, 11]], [1, 1, 1, 0, 0]),  # neighbours stay apart
    ([[0, 7], [4, 15]], [0, 1, 2, 2, 0]),  # the longest wins
    ([[0, 3], [0, 7], [4, 7], [0, 7]], [1, 2, 0, 0, 0]),  # nested and twice
    ([[4, 11], [0, 7]], [1, 2, 0, 0, 0]),  # of equals the first in the text
    ([[0, 5], [6, 15]], [0, 1, 2, 2, 0]),  # they meet in a token, not in a character
    ([[3, 4], [7, 8]], [0, 0, 0, 0, 0]),  # white space alone
    ([[2, 5]], [1, 2, 0, 0, 0]),  # parts of two tokens
    ([[8, 18]], [0, 0, 0, 0, 0]),  # in two sentences
    ([[8, 17]], [0, 0, 1, 2, 2]),  # the space between sentences belongs to neither
  ],
)
def test_which_spans_stay(tmp_path, entities, flags):
  row = {"text": "the old man met. He left.", "entities": entities}
  sentences = flagged(tmp_path / "a.jsonl", row, word_piece("the", "old", "man", "met", "he", "left", "."))
  assert [flag for _, flag in sentences[0]] == flags
  assert not any(flag for _, flag in sentences[1])


class Characters:
  """Every character but white space is a token, by its code point."""

  def encode(self, texts):
    found = [np.asarray([at for at, c in enumerate(text) if not c.isspace()], np.int32) for text in texts]
    codes = [np.asarray([ord(text[at]) for at in places], np.int32) for text, places in zip(texts, found, strict=True)]
    pairs = [np.stack([places, places + 1], axis=1) for places in found]
    return [Encoding(ids, places, ids > 0) for ids, places in zip(codes, pairs, strict=True)]


def test_random_spans_of_random_text_equal_a_plain_oracle(tmp_path):
  draw = random.Random(0)
  blanks = ["\r\n", "\n", " ", "\t", "\xa0", "\u3000", "  "]
  rows = []
  for _ in range(400):
    signs = [*"abcdefghijklmnopABCDEFGHIJ.!?。", *"éß한국日本😀😁\u0301"]  # once each, so that a token tells its place
    draw.shuffle(signs)
    parts = "".join(sign + "".join(draw.choices(blanks, k=draw.choice((0, 0, 1, 2)))) for sign in signs)
    at = draw.randrange(len(parts))
    text = parts[:at] + draw.choice(["\0", "\ufeff"]) + parts[at:]  # more of them would be a binary file
    pairs = [sorted(draw.sample(range(len(text) + 1), 2)) for _ in range(draw.randint(1, 6))]
    rows.append({"text": text.split("\n") if draw.random() < 0.3 else text, "noun_phrases": pairs})
  documents, across = list(open_source(str(jsonl(tmp_path / "a.jsonl", rows)))), 0
  assert len(documents) == len(rows)
  for row, document in zip(rows, documents, strict=True):
    text = row["text"] if isinstance(row["text"], str) else "\n".join(row["text"])
    seen = "".join(document.text)
    want, kept = dict.fromkeys(re.sub(r"\s", "", seen), 0), []
    for first, end in row["noun_phrases"]:
      inside = re.sub(r"[\s\0\ufeff]", "", text[first:end])
      home = [sentence for sentence in document.text if set(inside) & set(sentence)]
      across += len(home) > 1
      if len(home) == 1:
        places = (home[0].index(inside[0]), home[0].index(inside[-1]))
        kept.append((places[0] - places[1], seen.index(inside[0]), inside))
    for _, _, inside in sorted(kept):
      if not any(want[sign] for sign in inside):
        want |= {sign: 4 if sign == inside[0] else 8 for sign in inside}
    found = encode(document, Characters())
    assert list(zip(map(chr, found.ids), found.flags.tolist(), strict=True)) == list(want.items())
  assert across > 100


# What is wrong, and what is not there


@pytest.mark.parametrize(
  "wrong",
  [3, {}, "01", [3], [[0]], [[0, 1, 2]], [["0", "1"]], [[0.0, 1.0]], [[False, True]], [[0, None]], [{"first": 0}]]
  + [[[0, 0]], [[2, 1]], [[-1, 1]], [[0, 5]], [[0, 1], [4, 5]], [[0, 10**30]]],
)
@pytest.mark.parametrize("kind", ["entities", "noun_phrases"])
def test_a_wrong_annotation_leaves_its_document_out(tmp_path, kind, wrong):
  rows = [{"text": "abcd", kind: wrong, "id": 0}, {"text": "abcd", kind: [[0, 4]], "id": 1}]
  source = open_source(str(jsonl(tmp_path / "a.jsonl", [*rows, {"text": ["a", "bc"], kind: [[3, 5]], "id": 2}])))
  assert [document.id for document in source] == ["1"]
  assert source.skipped == {"bad annotation": 2}


def test_documents_with_wrong_annotations_count_as_damaged(tmp_path, capsys):
  path = jsonl(tmp_path / "a.jsonl", [{"text": "a b", "entities": [[0, 9]]}, *[{"text": "a b"}] * 3])
  arguments = [f"--input={path}", "--tokenizer=train", f"--output={tmp_path}/out", "--workers=0"]
  assert main(arguments) == 2
  assert "1 of 4 documents are damaged (bad annotation: 1)" in capsys.readouterr().err


# Real text


def documents_of_re_docred(count):
  """(sentences of words joined by spaces, spans of the mentions in them joined by newlines) of each document."""
  for page in json.loads(RE_DOCRED.read_text())[:count]:
    words = [(number, at) for number, row in enumerate(page["sents"]) for at in range(len(row))]
    places, end = {}, -1
    for number, at in words:
      first = end + 1
      end = first + len(page["sents"][number][at])
      places[number, at] = (first, end)
    mentions = {(m["sent_id"], *m["pos"]) for entity in page["vertexSet"] for m in entity}
    found = sorted((places[number, first][0], places[number, end - 1][1]) for number, first, end in mentions)
    yield list(map(" ".join, page["sents"])), [list(span) for span in found]


def longest(found):
  """Those of the spans that stay where they meet, in the order of the text."""
  kept = []
  for first, end in sorted(found, key=lambda span: (span[0] - span[1], span[0])):
    if all(end <= other or stop <= first for other, stop in kept):
      kept.append((first, end))
  return sorted(kept)


def decoded(found, tokenizer):
  """The entities of a document as text."""
  flags = found.flags & 3
  ends = np.flatnonzero(flags != 2)
  firsts = np.flatnonzero(flags == 1)
  stops = np.append(ends, len(flags))[np.searchsorted(ends, firsts, side="right")]
  return [plain(tokenizer.decode(found.ids[first:stop])) for first, stop in zip(firsts, stops, strict=True)]


def plain(text):
  return "".join(unicodedata.normalize("NFKC", text).split())


TRAINING = {
  "wordpiece": {"lowercase": False},
  "bytebpe": {},
  "sentencepiece": {"lowercase": False, "keep_accents": True, "character_coverage": 1.0},
}


@pytest.mark.skipif(not RE_DOCRED.exists(), reason="needs ../shared/data/relation/re-docred")
@pytest.mark.parametrize("kind", TRAINING)
def test_entities_of_re_docred_decode_to_their_surfaces(tmp_path, kind):
  pages = list(documents_of_re_docred(80))
  tokenizer = TRAINERS[kind]([sentence for text, _ in pages for sentence in text], 2000, **TRAINING[kind])
  want = [[plain("\n".join(text)[first:end]) for first, end in longest(found)] for text, found in pages]
  assert sum(map(len, want)) > 1500

  def entities(name, join):
    path = jsonl(tmp_path / name, [{"text": join(text), "entities": found} for text, found in pages])
    return [decoded(encode(document, tokenizer), tokenizer) for document in open_source(str(path))]

  assert entities("listed.jsonl", list) == want
  # As running text, with a space for each newline, the splitter ends some sentences inside of a mention.
  lost = 0
  for names, left in zip(want, entities("running.jsonl", " ".join), strict=True):
    assert not Counter(left) - Counter(names)
    lost += len(names) - len(left)
  assert lost < 0.02 * sum(map(len, want))
