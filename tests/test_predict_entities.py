"""Texts with spans through a LUKE: each has the states and the candidates that the model gives for it alone."""

import contextlib
import dataclasses
import functools
import io
import sys

import numpy as np
import pytest

import predict
from data.entity_text import encode_entities
from data.entity_vocabulary import EntityVocabulary
from tests.predict_lukes import (
  HIDDEN,
  NAMED,
  PLAIN,
  POSITIONS,
  SPANS,
  TEXTS,
  TITLES,
  TWO,
  alone,
  close,
  command,
  load,
  luke,
  objects,
  write_lines,
)
from trainer.inference import encode, fill, fill_entities
from trainer.inference.mentions import cut_to, entity_batch, with_mentions
from trainer.texts import Chunk


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return luke(tmp_path_factory.getbasetemp(), "pretrained")


@pytest.fixture
def lines(tmp_path):
  """A function that writes objects as JSON lines."""
  return functools.partial(write_lines, tmp_path / "texts.jsonl")


# --- encode ----------------------------------------------------------------------------------------------------------


def test_every_mention_has_the_state_it_has_alone(folder):
  """Row e of a text is its e-th span, whichever stands first in the text."""
  loaded = load(folder)
  got = encode(loaded, TEXTS, layers="all", batch_size=3, spans=SPANS, titles=NAMED)
  assert got.entities.shape == (5, 3, HIDDEN) and got.entity_counts.tolist() == [0, 3, 1, 2, 0]
  assert got.entity_ids.tolist() == [[0, 0, 0], [4, 2, 7], [1, 0, 0], [2, 2, 0], [0, 0, 0]]
  for i, (text, spans, titles) in enumerate(zip(TEXTS, SPANS, NAMED, strict=True)):
    n, e = got.lengths[i], len(spans)
    assert got.entity_kept[i].tolist() == [True] * e + [False] * (3 - e)
    assert not got.entities[i, e:].any() and not got.hidden[i, n:].any()
    if len(spans) < 2:
      continue
    want, given = alone(loaded, text, spans, titles)
    assert got.ids[i, :n].tolist() == given.ids.tolist()
    close(got.entities[i, :e], want["entities"])
    close(got.hidden[i, :n], want["hidden"])
    close(got.layers[i, :, :n], want["layers"])
    close(got.pooled[i], want["hidden"].mean(axis=0))


def test_texts_without_spans_are_encoded_as_without_entities(folder):
  loaded = load(folder)
  got, plain = (encode(loaded, TEXTS[:1], **more) for more in ({"spans": [[]]}, {}))
  close(got.hidden, plain.hidden)
  assert got.entities.shape == (1, 0, HIDDEN)
  assert "entities" in got.arrays() and "entities" not in plain.arrays()


def test_mentions_that_are_lost_leave_zeros_in_their_place(folder):
  """The text is cut within 'Los Angeles', and a span of a space has no piece; what stays stands in its own row."""
  loaded = load(folder)
  text, spans = f"Tokyo and {TWO} the cat sat", [(25, 36), (10, 17), (41, 42), (18, 21)]
  columns = len(encode_entities(loaded.tokenizer, loaded.entities, "Tokyo and Beyoncé sat in Los", []))
  got = encode(loaded, [text, PLAIN], max_length=columns, spans=[spans, []])
  assert (got.truncated, got.lengths[0]) == (1, columns)
  assert got.entity_kept[0].tolist() == [False, True, False, True] and got.entity_counts.tolist() == [4, 0]
  assert got.entity_ids[0].tolist() == [0, 2, 0, 2]
  want, _ = alone(loaded, text, spans, max_length=columns)
  close(got.entities[0, [1, 3]], want["entities"])
  assert not got.entities[0, [0, 2]].any() and not got.entities[1].any()
  assert [(r.text, r.span, r.mention, r.lost) for r in got.remarks] == [
    (0, (25, 36), "Los Angeles", True), (0, (41, 42), " ", True),
  ]  # fmt: skip
  assert str(got.remarks[0]) == f"span 25:36 'Los Angeles' is cut off by max_length {columns}"


def test_no_number_of_mentions_is_too_high(folder):
  found = with_mentions(load(folder), ["the cat sat"], [[(4, 7)] * 40])
  batch = entity_batch(Chunk(np.array([0]), 1, 8), found, 0)
  assert batch.segments.tolist() == [[1] * 40 + [0] * 24] and (batch.positions[0, :40, 0] == 2).all()


def test_batches_have_few_shapes(folder):
  """As many mentions as the next power of two, as many pieces as a mention may have."""
  loaded = load(folder)
  found = with_mentions(loaded, TEXTS, SPANS, NAMED)
  shape = lambda *rows: entity_batch(Chunk(np.array(rows), 8, 32), found, 0).positions.shape
  assert [shape(0), shape(2), shape(3), shape(1), shape(0, 1)] == [(8, n, 30) for n in (1, 1, 2, 4, 4)]
  batch = entity_batch(Chunk(np.array([1, 0]), 4, 32), found, 9)
  assert batch.segments.tolist() == [[1, 1, 1, 0], *[[0] * 4] * 3]
  assert batch.ids.tolist() == [[4, 2, 7, 9], *[[9] * 4] * 3]
  assert (batch.positions[0, 1] >= 0).sum() == len(found[1].mentions[1]) and (batch.positions[1:] == -1).all()


def test_what_is_short_enough_is_not_cut(folder):
  loaded = load(folder)
  found = with_mentions(loaded, TEXTS, SPANS, NAMED)
  cut = cut_to(loaded, found, 8, TEXTS, SPANS, NAMED)
  assert [len(each) for each in cut] == [min(8, len(each)) for each in found]
  assert all(new is old for new, old in zip(cut, found, strict=True) if len(old) <= 8)


def test_encode_writes_the_states_of_json_lines(folder, lines, tmp_path, capsys):
  """And tells the first five warnings."""
  output, long = tmp_path / "out.npz", {"text": "cat " * 80 + "Tokyo", "spans": [[320, 325], [0, 2]]}
  source = lines([*objects(), long, {"text": "the cat", "spans": [[4, 6]] * 4}])
  records, summary, err = command(capsys, "encode", f"--model={folder}", f"--input={source}", f"--output={output}")
  with np.load(output) as arrays:
    assert {name: list(arrays[name].shape) for name in arrays} == summary["arrays"]
    assert arrays["entity_counts"].tolist() == [0, 3, 1, 2, 0, 2, 4]
    assert arrays["entity_kept"].sum(axis=1).tolist() == [0, 3, 1, 2, 0, 1, 4]
    texts, spans = [*TEXTS, long["text"], "the cat"], [*SPANS, long["spans"], [(4, 6)] * 4]
    close(arrays["entities"], encode(load(folder), texts, spans=spans, titles=[*NAMED, None, None]).entities)
  assert records == []
  assert {key: summary[key] for key in ("texts", "spans", "lost", "warnings", "truncated")} == {
    "texts": 7, "spans": 12, "lost": 1, "warnings": 6, "truncated": 1,
  }  # fmt: skip
  assert f"warning: text 6: span 320:325 'Tokyo' is cut off by max_length {POSITIONS}" in err
  assert "warning: text 6: span 0:2 'ca' ends inside a word" in err
  assert "warning: text 3: span 2:5 'cat' its title 'no such title' is unknown: [UNK] stands for it" in err
  assert err.count("warning: text") == 5 and "warning: 2 more of these, 7 in all" in err


def test_lines_of_text_and_json_lines_without_spans_have_no_entities(folder, lines, tmp_path, capsys, monkeypatch):
  output = f"--output={tmp_path}/o.npz"
  (tmp_path / "texts.txt").write_text('{"text": "a"}\n')  # a text like any other
  found = []
  for source in (f"{tmp_path}/texts.txt", lines([{"text": "a"}])):
    _, summary, _ = command(capsys, "encode", f"--model={folder}", f"--input={source}", output)
    assert "entities" not in summary["arrays"] and "spans" not in summary
    found.append(summary["tokens"])
  assert found[0] > found[1]
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "a", "spans": [[0, 1]]}\n')))
  _, summary, _ = command(capsys, "encode", f"--model={folder}", "--input=-", "--jsonl", output)
  assert summary["arrays"]["entities"] == [1, 1, HIDDEN]


# --- fill ------------------------------------------------------------------------------------------------------------

FILL = ["Beyoncé lives in Los Angeles", "<mask> met Taro in Tokyo and sat.", "the <mask> sat"]
FILL_SPANS = [[(0, 7), (17, 28)], [(19, 24), (11, 15)], []]
FILL_NAMED = [["Beyoncé", None], None, None]


def test_titles_and_pieces_are_the_softmax_of_the_logits_best_first(folder):
  """Masked mentions see each other masked; masked words are filled in the same run."""
  loaded = load(folder)
  got = fill_entities(loaded, FILL, FILL_SPANS, FILL_NAMED, top=9)
  assert [(len(own.words), len(own.entities)) for own in got] == [(0, 1), (1, 2), (1, 0)]
  for i, slots in ((0, [1]), (1, [0, 1])):
    want, given = alone(loaded, FILL[i], FILL_SPANS[i], FILL_NAMED[i])
    for masked, slot in zip(got[i].entities, slots, strict=True):
      assert (masked.start, masked.end) == FILL_SPANS[i][slot]
      assert masked.mention == FILL[i][masked.start : masked.end]
      close([c.probability for c in masked.candidates], want["titles"][slot, [c.id for c in masked.candidates]])
      shares = [c.probability for c in masked.candidates]
      assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=1e-5)
      assert [c.title for c in masked.candidates] == loaded.entities.titles(c.id for c in masked.candidates)
    for blank in got[i].words:
      assert given.ids[blank.column] == loaded.tokenizer.special.mask
      close([c.probability for c in blank.candidates], want["words"][blank.column, [c.id for c in blank.candidates]])
  assert got[1].words[0].start == 0
  (plain,) = fill(loaded, FILL[2:], top=9)
  assert [c.id for c in got[2].words[0].candidates] == [c.id for c in plain[0].candidates]


def test_masked_is_none_or_its_name(folder):
  loaded = load(folder)
  by_none, by_name = (
    fill_entities(loaded, FILL[:1], FILL_SPANS[:1], [["Beyoncé", name]], top=9) for name in (None, "[MASK]")
  )
  assert by_none == by_name
  (given,) = with_mentions(loaded, FILL[:1], FILL_SPANS[:1])  # without titles all are masked
  assert given.entity_ids.tolist() == [2, 2]


def test_a_title_of_one_mention_changes_the_other(folder):
  loaded = load(folder)
  shares = [
    fill_entities(loaded, FILL[:1], FILL_SPANS[:1], [[title, None]], top=9)[0].entities[0].candidates[0].probability
    for title in ("Beyoncé", "Taro")
  ]
  assert abs(shares[0] - shares[1]) > 1e-4


def test_no_more_titles_are_told_than_there_are(folder):
  (filled,) = fill_entities(load(folder), FILL[:1], FILL_SPANS[:1], top=50)  # of 9
  assert sorted(c.id for c in filled.entities[0].candidates) == list(range(4 + len(TITLES)))


def test_rows_without_a_title_are_no_candidates(folder):
  """Of ids with a gap, as a minimum count leaves them: what is left shares the whole probability."""
  loaded = load(folder)
  ids = {title: i for title, i in loaded.entities.ids.items() if title not in ("Taro", "Tokyo")}
  gap = dataclasses.replace(loaded, entities=EntityVocabulary(ids))
  one, other = (
    fill_entities(each, FILL[:1], FILL_SPANS[:1], FILL_NAMED[:1], top=9)[0].entities[0].candidates
    for each in (loaded, gap)
  )
  left = [candidate for candidate in one if candidate.title in ids]
  assert [candidate.title for candidate in other] == [candidate.title for candidate in left] and len(left) == 7
  close([c.probability for c in other], np.array([c.probability for c in left]) / sum(c.probability for c in left))


def test_titles_of_several_languages_are_english_or_name_theirs(folder):
  loaded = load(folder)
  names = ("[PAD]", "[UNK]", "[MASK]", "en:Tokyo", "de:Berlin", "ja:東京")
  mluke = dataclasses.replace(loaded, entities=EntityVocabulary({name: i for i, name in enumerate(names)}))
  titles = ["tokyo", "en:Tokyo", "ja:東京", "de:berlin", "Berlin"]
  (found,) = with_mentions(mluke, ["Tokyo"], [[(0, 5)] * 5], [titles])
  assert found.entity_ids.tolist() == [3, 3, 5, 4, 1]


def test_fill_prints_titles_for_masked_spans(folder, lines, capsys):
  argv = [f"--model={folder}", f"--text={FILL[0]}", "--spans=0:7, 17:28", "--top=9"]
  (record,), summary, _ = command(capsys, "fill", *argv, "--titles=Beyoncé,[MASK]")
  (want,) = fill_entities(load(folder), FILL[:1], FILL_SPANS[:1], FILL_NAMED[:1], top=9)
  (masked,) = record["entities"]
  assert (masked["start"], masked["end"], masked["mention"]) == (17, 28, "Los Angeles")
  assert [c["title"] for c in masked["candidates"]] == [c.title for c in want.entities[0].candidates]
  assert (summary["entities"], summary["masks"], record["masks"], record["warnings"]) == (1, 0, [], [])
  source = lines(objects(FILL, FILL_SPANS, FILL_NAMED))
  records, summary, _ = command(capsys, "fill", f"--model={folder}", f"--input={source}", "--top=9")
  assert (summary["entities"], summary["masks"], summary["texts"]) == (3, 2, 3)
  assert [c["id"] for c in records[0]["entities"][0]["candidates"]] == [c["id"] for c in masked["candidates"]]
  (record,), _, _ = command(capsys, "fill", *argv)
  assert [entity["mention"] for entity in record["entities"]] == ["Beyoncé", "Los Angeles"]


def test_on_a_terminal_masked_spans_are_rows_of_the_table(folder, monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  monkeypatch.setenv("COLUMNS", "100")
  with contextlib.redirect_stdout(Terminal()) as out:
    assert predict.main(["fill", f"--model={folder}", f"--text={FILL[0]}", "--spans=0:7,17:28", "--top=9"]) == 0
  table = out.getvalue()
  assert table.count("17:28") == 4 + len(TITLES) and all(title in table for title in TITLES)
