"""What fine-tuned models say of texts, pairs, words and questions is what they say of each alone."""

import functools
import json

import numpy as np
import pytest

from data.tasks import tags
from data.tasks.answers import AnswerDecoder
from tests.predict_heads import FOLDERS, PASSAGE, POSITIONS, TAGS, folder, head_alone, load
from tests.test_predict import command
from trainer.finetuning.null_threshold import with_threshold
from trainer.inference import answer, choose, classify, tag
from trainer.texts import InputError

TEXTS = ["the cat sat", "it rained in Paris all day", "a dog", "Anna met Taro in Tokyo"]
PAIRS = [("the cat sat", "a dog ran"), ("a mat", "it rained in Paris all day"), ("Anna", "Tokyo")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """A function that gives a model of FOLDERS."""
  base = tmp_path_factory.getbasetemp() / "heads"
  return lambda name: load(folder(base, name))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  return functools.partial(folder, tmp_path_factory.getbasetemp() / "heads")


def softmax(logits):
  powers = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True))
  return powers / powers.sum(axis=-1, keepdims=True)


def row(loaded, *texts):
  """(ids, types) of a text or a pair by BERT's form, or by RoBERTa's with two pieces between."""
  tokenizer = loaded.tokenizer
  sides = [encoding.ids.tolist() for encoding in tokenizer.encode(list(texts))]
  cls, sep = tokenizer.special.cls, tokenizer.special.sep
  first = [cls, *sides[0], sep]
  if len(sides) == 1:
    return first, [0] * len(first)
  roberta = tokenizer.pieces([cls]) == ["<s>"]
  second = [*([sep] if roberta else []), *sides[1], sep]
  return first + second, [0] * len(first) + [0 if roberta else 1] * len(second)


def close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


# --- classes and numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", pytest.param("roberta", marks=pytest.mark.slow)])
def test_classes_are_the_softmax_of_each_text_alone_by_falling_probability(model, name):
  loaded = model(name)
  names = FOLDERS[name][2] or ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")
  texts = [*TEXTS[:2], PAIRS[1]]
  got = classify(loaded, texts, top=4, batch_size=2)
  for text, found in zip(texts, got, strict=True):
    want = softmax(head_alone(loaded, *row(loaded, *([text] if isinstance(text, str) else text)), "classify"))
    order = np.argsort(-want)
    assert [label.label for label in found.labels] == [names[i] for i in order]
    close([label.probability for label in found.labels], want[order])
    assert found.number is None and not found.cut
  assert len({found.labels[0].probability for found in got}) == len(texts)


def test_a_head_of_one_output_gives_a_number(model):
  loaded = model("number")
  (found,) = classify(loaded, PAIRS[:1])
  close(found.number, head_alone(loaded, *row(loaded, *PAIRS[0]), "regress")[0])
  assert found.labels == []


def test_no_answer_depends_on_the_batches(model):
  """Texts of all lengths, in any company and order."""
  texts = [*TEXTS, "cat " * 30, "a " * 17]
  probabilities = lambda found: [each.labels[0].probability for each in found]
  want = [classify(model("bert"), [text])[0] for text in texts]
  got = classify(model("bert"), texts, batch_size=4)
  assert [each.labels[0].label for each in got] == [each.labels[0].label for each in want]
  close(probabilities(got), probabilities(want))
  spans = lambda found: [[(span.start, span.end, span.type) for span in each.spans] for each in found]
  assert spans(tag(model("tags"), texts, batch_size=4)) == spans(tag(model("tags"), texts))
  ask = lambda size: answer(model("answer"), ["who sat?", "where?"], [PASSAGE, PASSAGE[:90]], top=3, batch_size=size)
  for one, other in zip(ask(4), ask(32), strict=True):
    assert [each.text for each in one.answers] == [each.text for each in other.answers]
    close([each.score for each in one.answers], [each.score for each in other.answers])


def test_a_longer_text_is_cut_as_in_training_or_refused(model):
  loaded, long = model("bert"), "cat " * 60
  with pytest.raises(
    InputError, match=f"text 2: got 62 tokens, want at most {POSITIONS}; shorten it, raise max_length"
  ):
    classify(loaded, ["a dog", long])
  got = classify(loaded, ["a dog", long], top=4, cut=True)
  assert [each.cut for each in got] == [False, True]
  ids, types = row(loaded, "cat " * (POSITIONS - 2))
  want = softmax(head_alone(loaded, ids, types, "classify"))
  close([label.probability for label in got[1].labels], np.sort(want)[::-1])


def test_classify_prints_the_class_of_each_line(path, model, tmp_path, capsys):
  (tmp_path / "a.txt").write_text("".join(f"{first}\t{second}\n" for first, second in PAIRS))
  (tmp_path / "a.jsonl").write_text("".join(json.dumps(dict(zip(("text", "second"), each))) + "\n" for each in PAIRS))
  want = classify(model("bert"), PAIRS, top=2)
  for name in ("a.txt", "a.jsonl"):
    argv = ["classify", f"--model={path('bert')}", f"--input={tmp_path / name}", "--top=2"]
    records, summary = command(capsys, *argv)
    for record, pair, found in zip(records, PAIRS, want, strict=True):
      assert (record["text"], record["second"], record["label"]) == (*pair, found.labels[0].label)
      assert [each["label"] for each in record["candidates"]] == [label.label for label in found.labels]
      close(record["probability"], found.labels[0].probability)
    assert summary["texts"] == len(PAIRS) == sum(summary["labels"].values()) and summary["cut"] == 0
    assert summary["tokens"] == sum(len(row(model("bert"), *pair)[0]) for pair in PAIRS)
  (record,), _ = command(
    capsys, "classify", f"--model={path('bert')}", f"--text={PAIRS[0][0]}", f"--second={PAIRS[0][1]}"
  )
  assert record["label"] == want[0].labels[0].label
  (record,), summary = command(capsys, "classify", f"--model={path('number')}", "--text=a dog")
  assert summary["mean"] == record["number"] and "label" not in record


# --- words -----------------------------------------------------------------------------------------------------------


def said_of_words(loaded, words):
  """Logits of each word, on its first piece; pieces word by word, as in training."""
  pieces = [encoding.ids.tolist() for encoding in loaded.tokenizer.encode(words)]
  ids = [loaded.tokenizer.special.cls, *(i for own in pieces for i in own), loaded.tokenizer.special.sep]
  firsts = np.cumsum([1, *map(len, pieces[:-1])])
  return head_alone(loaded, ids, [0] * len(ids), "tag")[firsts]


def test_each_word_has_the_class_of_its_first_piece_and_entities_follow(model):
  loaded, spans = model("tags"), 0
  for text, found in zip(TEXTS, tag(loaded, TEXTS[:3]), strict=False):
    want = said_of_words(loaded, text.split())
    assert found.words == text.split()
    assert found.tags == [TAGS[i] for i in np.argmax(want, axis=-1)]
    best = softmax(want).max(axis=-1)
    assert len(found.spans) == len(tags.spans_of(found.tags))
    for span, (first, end, kind) in zip(found.spans, tags.spans_of(found.tags), strict=True):
      assert span.text == text[span.start : span.end] == " ".join(found.words[first:end])
      assert span.type == kind
      close(span.probability, best[first:end].prod())
      spans += 1
  assert spans > 1


def test_words_may_be_divided_at_marks_too(model):
  (plain,), (marks,) = (tag(model("tags"), ["  Anna, (Taro)!"], split=split) for split in ("space", "marks"))
  assert plain.words == ["Anna,", "(Taro)!"]
  assert marks.words == ["Anna", ",", "(", "Taro", ")", "!"]


def test_a_longer_text_is_tagged_in_parts_between_words(model):
  text = "Anna met Taro in Tokyo and the cat sat on a mat " * 6
  (found,) = tag(model("tags"), [text], max_length=16)
  assert found.words == text.split() and len(found.tags) == len(found.words)
  assert tag(model("tags"), ["", text], max_length=16)[0].words == []


def test_classes_that_are_no_tags_make_no_entities(model, path, capsys):
  loaded = model("parts")
  (found,) = tag(loaded, TEXTS[:1])
  assert found.tags == [FOLDERS["parts"][2][i] for i in np.argmax(said_of_words(loaded, TEXTS[0].split()), axis=-1)]
  assert found.spans == []


def test_tag_prints_words_tags_and_entities(path, model, tmp_path, capsys):
  (tmp_path / "a.txt").write_text("".join(f"{text}\n" for text in TEXTS))
  records, summary = command(capsys, "tag", f"--model={path('tags')}", f"--input={tmp_path}/a.txt")
  for record, text, found in zip(records, TEXTS, tag(model("tags"), TEXTS), strict=True):
    assert (record["text"], record["words"], record["tags"]) == (text, found.words, found.tags)
    assert [tuple(span.values())[:4] for span in record["spans"]] == [
      (span.start, span.end, span.type, span.text) for span in found.spans
    ]
  assert summary["words"] == sum(map(len, map(str.split, TEXTS)))
  assert sum(summary["types"].values()) == sum(len(record["spans"]) for record in records) > 0


# --- answers ---------------------------------------------------------------------------------------------------------


def best_by_hand(loaded, question, passage, longest=30):
  """(score, text) of the best answer of a passage that fits one window, over every pair of its pieces."""
  words, offsets, at = passage.split(), [], 0
  pieces = []
  for word in words:
    at = passage.index(word, at)
    space = loaded.tokenizer.kind == "bytebpe"
    encoding = loaded.tokenizer.encode([" " * space + word])[0]
    pieces += encoding.ids.tolist()
    offsets += [(at + max(a - space, 0), at + b - space) for a, b in encoding.offsets.tolist()]
    at += len(word)
  asked = loaded.tokenizer.encode([" " * (loaded.tokenizer.kind == "bytebpe") + question])[0].ids.tolist()
  cls, sep = loaded.tokenizer.special.cls, loaded.tokenizer.special.sep
  roberta = loaded.tokenizer.pieces([cls]) == ["<s>"]
  first = [cls, *asked, sep, *([sep] if roberta else [])]
  types = [0] * len(first) + [0 if roberta else 1] * (len(pieces) + 1)
  logits = head_alone(loaded, [*first, *pieces, sep], types, "answer").astype(np.float64)
  own = logits[len(first) : -1]
  best = max((own[a, 0] + own[b, 1], -a, -b) for a in range(len(own)) for b in range(a, min(a + longest, len(own))))
  a, b = -best[1], -best[2]
  return best[0], offsets[a][0], offsets[b][1], float(logits[0].sum())


@pytest.mark.parametrize("name", ["answer", "answer_roberta"])
def test_the_answer_is_the_best_of_all_spans_of_the_passage(model, name):
  loaded, passage = model(name), "Taro met\n Anna . Taro met Anna . the cat met Anna"
  for question in ("who met Anna?", "where?"):
    (found,) = answer(loaded, [question], [passage], top=5)
    score, start, end, nothing = best_by_hand(loaded, question, passage)
    first = found.answers[0]
    close(first.score, score)
    assert (first.start, first.end) == (start, len(passage[:end].rstrip()))
    assert found.text == first.text == " ".join(passage[start:end].split()) and found.null_odds is None
    assert [each.score for each in found.answers] == sorted((each.score for each in found.answers), reverse=True)
    (found,) = answer(loaded, [question], [passage], null_threshold=nothing - score + 0.01)
    close(found.null_odds, nothing - score)
    assert found.text == first.text
    assert answer(loaded, [question], [passage], null_threshold=nothing - score - 0.01)[0].text == ""


def test_long_contexts_are_read_in_windows_and_answers_stand_where_they_say(model):
  found = answer(model("answer"), ["who sat?"] * 2, [PASSAGE, "x " * 200 + PASSAGE], top=20)
  assert len(PASSAGE.split()) > 2 * POSITIONS
  for passage, each in zip((PASSAGE, "x " * 200 + PASSAGE), found, strict=True):
    assert len(each.answers) == 20
    for one in each.answers:
      assert one.text == " ".join(passage[one.start : one.end].split())
    close(sum(one.probability for one in each.answers), 1)
  assert max(one.start for one in found[1].answers) > 400  # behind what the first windows show


def test_answer_prints_answers_with_their_characters(path, model, tmp_path, capsys):
  (tmp_path / "a.txt").write_text(PASSAGE)
  (tmp_path / "a.jsonl").write_text(json.dumps({"question": "who sat?", "context": PASSAGE}) + "\n")
  (want,) = answer(model("answer"), ["who sat?"], [PASSAGE], top=2)
  asked = [["--question=who sat?", f"--context={tmp_path}/a.txt"], ["--question=who sat?", f"--passage={PASSAGE}"]]
  for argv in (*asked, [f"--input={tmp_path}/a.jsonl"]):
    (record,), summary = command(capsys, "answer", f"--model={path('answer')}", *argv, "--top=2")
    assert (record["question"], record["answer"]) == ("who sat?", want.text)
    places = [(each["text"], each["start"], each["end"]) for each in record["answers"]]
    assert places == [(each.text, each.start, each.end) for each in want.answers]
    assert (summary["questions"], summary["unanswered"]) == (1, 0) and "null_odds" not in record
  argv = ["answer", f"--model={path('answer')}", *asked[0], "--null_threshold=-1000"]
  (record,), summary = command(capsys, *argv)
  assert record["answer"] == "" and summary["unanswered"] == 1 and record["null_odds"] > -1000


@pytest.mark.parametrize(
  ("step", "unanswerable", "threshold"), [(8, True, -1.5), (4, True, 0.5), (6, True, 0), (8, False, 0)]
)
def test_a_run_leaves_questions_open_by_the_threshold_of_its_own_step(tmp_path, step, unanswerable, threshold):
  figures = {"eval/f1": 0.5, "eval/best_f1_thresh": 0.25, "eval/null_threshold": 0.5}
  lines = [{"step": 4, **figures}, {"step": 6, "train/loss": 1.0}, {"step": 8, **figures, "eval/null_threshold": -1.5}]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  assert with_threshold(AnswerDecoder(unanswerable=unanswerable), tmp_path, step).threshold == threshold


# --- choices ---------------------------------------------------------------------------------------------------------


def test_choices_are_compared_by_their_pairs_with_the_text(path, model, capsys):
  loaded, choices = model("choose"), [["a dog", "the cat", "it rained"], ["the mat", "a dog", "a cat"]]
  found = choose(loaded, [TEXTS[0], TEXTS[0]], choices)
  for own, each in zip(choices, found, strict=True):
    want = softmax([float(head_alone(loaded, *row(loaded, TEXTS[0], choice), "choose")) for choice in own])
    close(each.probabilities, want)
    assert each.number == int(np.argmax(want))
  argv = ["choose", f"--model={path('choose')}", f"--text={TEXTS[0]}", *(f"--choice={each}" for each in choices[0])]
  (record,), _ = command(capsys, *argv)
  assert record["choice"] == choices[0][found[0].number] and record["number"] == found[0].number
