"""A task's network on an ELMo classifies and tags as its run does; LUKE finds entities among all spans of words."""

import functools
import itertools

import jax
import numpy as np
import pytest

from data.batch import Entities, Tokens
from data.characters import Spellings
from data.tasks.named_entities import SpanRows, TaggedDocument
from models.crf import allowed_paths
from tests.predict_lukes import load as load_luke
from tests.predict_lukes import luke
from tests.test_predict import command
from tests.test_predict_errors import refused
from tests.word_task_runs import NUMBERS, config_of, elmo_run, task_folder
from trainer.checkpoints import Checkpoints
from trainer.config import to_json
from trainer.exchange import export_run
from trainer.finetuning.feed import TaskFeed
from trainer.inference import answer, choose, classify, encode, load_model, tag
from trainer.programs import Program, Setup
from trainer.texts import InputError

TEXTS = ["the cat saw anna", "new rome near paris and bert", "the", "anna in rome saw the cat near new paris"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
  """A function that gives the workdir of a task's network as a run begins with it, far from its answers."""
  base = tmp_path_factory.mktemp("networks")
  run = elmo_run(base / "elmo")
  task_folder(base / "task")

  @functools.cache
  def make(variant):
    folder = base / variant.partition(",")[0]
    config = config_of(run, variant, **(NUMBERS if folder.name == "stsb" else {}))
    feed, setup = TaskFeed(config, folder), Setup.of(config, jax.devices()[:1])
    state = Program(setup, setup.stages[0], feed.example(setup.stages[0])).fresh_state()
    with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
      checkpoints.save(state, {}, scheduled=True, wait=True)
    (folder / "config.json").write_text(to_json(config))
    feed.save_tokenizer(folder)
    return folder

  return make


def logits_alone(loaded, *sentences):
  """What a network says of one sentence or of two, without padding: [classes], or [words, classes] of tags."""
  words = list(dict.fromkeys(["<S>", "</S>", *(word for own in sentences for word in own)]))
  spelled = Spellings(words, loaded.model.config.bilm.characters, boundaries=True)[np.arange(len(words))]
  lengths = np.array([[len(own) + 2 for own in sentences]], np.int32)
  index = np.zeros((1, len(sentences), lengths.max()), np.int32)
  ids = np.zeros_like(index)
  for side, own in enumerate(sentences):
    index[0, side, : len(own) + 2] = [0, *(words.index(word) for word in own), 1]
    ids[0, side, 1 : len(own) + 1] = [loaded.words.vocabulary.id_of(word) for word in own]
  said = jax.jit(loaded.model.apply)({"params": loaded.params}, spelled[None], index, lengths, ids)[0]
  return np.asarray(said[0] if loaded.model.config.head in ("classify", "pair", "regress") else said, np.float64)


def close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def softmax(logits):
  powers = np.exp(logits - np.max(logits))
  return powers / powers.sum()


# --- networks on an ELMo ---------------------------------------------------------------------------------------------


def test_a_sentence_has_the_classes_of_its_network_alone(network, capsys):
  folder = network("sst2,vectors=tuned")
  loaded = load_model(folder)
  got = classify(loaded, TEXTS, top=2, batch_size=3)
  for text, found in list(zip(TEXTS, got, strict=True))[:2]:
    want = softmax(logits_alone(loaded, text.split()))
    assert found.labels[0].label == ("negative", "positive")[int(np.argmax(want))]
    close([label.probability for label in found.labels], np.sort(want)[::-1])
  (record,), summary = command(capsys, "classify", f"--model={folder}", f"--text={TEXTS[0]}")
  assert record["label"] == got[0].labels[0].label and summary["texts"] == 1
  close(record["probability"], got[0].labels[0].probability)
  assert classify(loaded, ["the cat,"], split="marks") == classify(loaded, ["the cat ,"])
  with pytest.raises(InputError, match="text 1: got a pair, want one text, as sst2 has"):
    classify(loaded, [("a", "b")])
  with pytest.raises(InputError, match="text 2: got 4 words, want at most 3; shorten it"):
    classify(loaded, ["the", TEXTS[0]], max_length=3)
  assert classify(loaded, [TEXTS[0]], max_length=3, cut=True)[0].cut


def test_a_pair_is_read_by_a_network_of_pairs(network):
  loaded = load_model(network("snli,vectors=tuned"))
  (found,) = classify(loaded, [("the cat saw anna", "a cat")])
  want = softmax(logits_alone(loaded, ["the", "cat", "saw", "anna"], ["a", "cat"]))
  close(found.labels[0].probability, want.max())
  with pytest.raises(InputError, match="text 1: got one text, want a pair, as snli has: .*; give the second text too"):
    classify(loaded, ["the cat"])


def test_a_network_goes_into_no_published_layout(network, tmp_path):
  with pytest.raises(
    InputError, match="is a task's network on an ELMo, which no published layout has; predict.py takes"
  ):
    export_run(network("sst2,vectors=tuned"), tmp_path / "out")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("call, line", [
  (lambda sst2, swag: classify(sst2, "A film."), "texts: got the text 'A film.', want a list of texts"),
  (lambda sst2, swag: classify(sst2, [None]), "texts: got None in the list, want texts"),
  (lambda sst2, swag: choose(swag, ["a"], ["bc"]), "choices of text 1: got the text 'bc', want a list of texts"),
  (lambda sst2, swag: choose(swag, "a", [["b", "c"]]), "texts: got the text 'a', want a list of texts"),
])  # fmt: skip
def test_a_text_is_no_list_of_its_characters(network, call, line):
  with pytest.raises(InputError) as caught:
    call(*(load_model(network(f"{task},vectors=tuned")) for task in ("sst2", "swag")))
  assert str(caught.value) == line


def test_a_number_is_that_of_its_network(network):
  loaded = load_model(network("stsb,vectors=tuned"))
  (found,) = classify(loaded, [("the cat saw anna", "a cat")])
  close(found.number, logits_alone(loaded, ["the", "cat", "saw", "anna"], ["a", "cat"])[0])
  assert found.labels == []
  with pytest.raises(InputError, match="text 1: got one text, want a pair, as stsb has"):
    classify(loaded, ["the cat"])


def test_an_answer_is_between_the_best_columns_of_its_network(network, capsys, tmp_path):
  """A long context in windows, which are read alike in any batch."""
  folder = network("squad,vectors=tuned")
  loaded, context = load_model(folder), "the cat saw anna in rome near paris"
  (found,) = answer(loaded, ["saw anna in"], [context], top=3)
  words, said = context.split(), logits_alone(loaded, context.split(), ["saw", "anna", "in"])
  sums = {
    " ".join(words[a : b + 1]): said[a + 1, 0] + said[b + 1, 1] for a in range(8) for b in range(a, 8)
  }  # of different texts
  best = sorted(sums, key=sums.get, reverse=True)[:3]
  assert [each.text for each in found.answers] == best and found.text == best[0]
  close([each.score for each in found.answers], [sums[text] for text in best])
  assert context[found.answers[0].start : found.answers[0].end] == best[0]
  long = " and ".join([context] * 40)
  alone = answer(loaded, ["saw anna in"], [long], batch_size=1)[0]
  close(answer(loaded, ["saw anna in"] * 3, [long] * 3)[2].answers[0].score, alone.answers[0].score)
  (tmp_path / "story.txt").write_text(context)
  argv = [f"--model={folder}", "--question=saw anna in", f"--context={tmp_path / 'story.txt'}"]
  (record,), _ = command(capsys, "answer", *argv)
  assert record["answer"] == best[0]


def test_choices_are_compared_by_their_network(network):
  loaded = load_model(network("swag,vectors=tuned"))
  (found, fewer) = choose(loaded, ["the cat", "the cat saw"], [["a cat", "anna", "in rome"], ["rome", "paris"]])
  want = softmax(logits_alone(loaded, ["the", "cat"], ["a", "cat"], ["anna"], ["in", "rome"]))
  close(found.probabilities, want)
  assert found.number == int(np.argmax(want)) and len(fewer.probabilities) == 2


def test_tags_are_the_best_sequence_that_the_scheme_allows(network, capsys):
  """By every sequence of tags of a short sentence."""
  folder = network("wnut17")
  loaded = load_model(folder)
  got = tag(loaded, TEXTS, batch_size=2)
  labels = loaded.model.config.labels
  chain = jax.device_get(loaded.model.apply({"params": loaded.params}, method="chain"))
  allowed = allowed_paths(labels)
  emissions, best = logits_alone(loaded, TEXTS[0].split()), (-np.inf, ())
  for path in itertools.product(range(len(labels)), repeat=len(emissions)):
    steps = all(allowed.transitions[a, b] for a, b in itertools.pairwise(path))
    if steps and allowed.start[path[0]] and allowed.end[path[-1]]:
      score = emissions[range(len(path)), path].sum() + chain.start[path[0]] + chain.end[path[-1]]
      best = max(best, (score + sum(chain.transitions[a, b] for a, b in itertools.pairwise(path)), path))
  assert got[0].tags == [labels[i] for i in best[1]]
  assert [each.tags for each in got] == [tag(loaded, [text])[0].tags for text in TEXTS]
  assert all(span.probability is None for each in got for span in each.spans)
  (record,), _ = command(capsys, "tag", f"--model={folder}", f"--text={TEXTS[0]}")
  assert record["tags"] == got[0].tags and record["words"] == TEXTS[0].split()


@pytest.mark.parametrize(
  "argv", [["encode", "--input={tmp}/a.txt", "--output={tmp}/o.npz"], ["fill", "--text=a [MASK]"]]
)
def test_the_network_has_none_of_the_other_answers(network, tmp_path, capsys, argv):
  (tmp_path / "a.txt").write_text("the cat\n")
  argv = [argument.replace("{tmp}", str(tmp_path)) for argument in argv]
  line = f"has no {argv[0]}, want classify, tag, answer or choose of it"
  refused(capsys, [argv[0], f"--model={network('wnut17')}", *argv[1:]], line)
  with pytest.raises(InputError, match="want a model with a head that answers questions.*its heads: crf"):
    answer(load_model(network("wnut17")), ["a"], ["b"])
  with pytest.raises(InputError, match="which has no encode"):
    encode(load_model(network("wnut17")), ["a"])


# --- LUKE ------------------------------------------------------------------------------------------------------------

WORDS = ("Taro", "met", "Beyoncé", "in", "Tokyo")


def test_luke_takes_spans_by_falling_logit_where_they_overlap_none(tmp_path_factory):
  loaded = load_luke(luke(tmp_path_factory.getbasetemp(), "spans"))
  (row,) = SpanRows()([TaggedDocument(WORDS, (0, len(WORDS)), None)], loaded.tokenizer, ("NIL",))
  assert len(row.window) == 15  # all spans of five words
  ids = row.ids[None]
  tokens = Tokens(ids, ids * 0, ids * 0 + 1, np.arange(ids.shape[1], dtype=np.int32)[None])
  columns = np.full((1, 15, max(map(len, row.mentions))), -1, np.int32)
  for own, mention in zip(columns[0], row.mentions, strict=True):
    own[: len(mention)] = mention
  mask = np.full((1, 15), loaded.entities.special.mask, np.int32)
  slots = np.arange(15)[None, :, None]

  @jax.jit
  def said(params):
    apply = functools.partial(loaded.model.apply, {"params": params})
    encoded = apply(ids, tokens, entities=Entities(mask, columns, np.ones_like(mask)))
    return apply(encoded.hidden, encoded.entities, row.spans[None], slots, method="span_logits")[0]

  logits = np.asarray(said(loaded.params))
  want, taken = [], set()
  for n in np.argsort(-logits.max(axis=-1)):
    words = set(range(*row.window[n]))
    if np.argmax(logits[n]) and not words & taken:
      taken |= words
      want.append((*row.window[n].tolist(), ("NIL", "LOC", "PER")[np.argmax(logits[n])], softmax(logits[n]).max()))
  text = " ".join(WORDS)
  found = tag(loaded, [text, "a cat sat on the mat", "Tokyo"], batch_size=2)
  assert len(found[0].spans) == len(want) > 0
  for span, (first, end, kind, probability) in zip(found[0].spans, sorted(want), strict=True):
    assert (span.text, span.type) == (" ".join(WORDS[first:end]), kind) and text[span.start : span.end] == span.text
    close(span.probability, probability)
  assert found[2].tags == tag(loaded, ["Tokyo"])[0].tags  # it ran beside a longer one


def test_luke_answers_questions_without_entities(tmp_path_factory):
  loaded = load_luke(luke(tmp_path_factory.getbasetemp(), "answer"))
  text = "Taro met Beyoncé in Tokyo"
  questions = ["who?", "who met Taro in Tokyo, and where?"]
  for question, found in zip(questions, answer(loaded, questions, [text] * 2), strict=True):
    (want,) = answer(loaded, [question], [text])
    assert found.text == want.text == text[found.answers[0].start : found.answers[0].end] != ""
    close(found.answers[0].score, want.answers[0].score)
