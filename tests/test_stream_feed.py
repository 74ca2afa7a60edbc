"""What a language model over streams is fed: whole words, by their characters, under the ids of its softmax."""

import itertools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data import bench
from data.characters import Spellings
from data.streams import StreamError
from data.tokenizers import TokenizerError, wordpiece
from data.tokenizers.words import SPECIALS, Words
from models.elmo import Elmo
from models.paths import named_leaves
from models.published import allennlp
from tests import streams_corpus
from tests.streams_corpus import WORDS, config_of
from tests.trained import SENTENCES
from trainer.checkpoints import Checkpoints
from trainer.config import FREE_ON_RESUME, difference, to_json
from trainer.evaluation import evaluate
from trainer.programs import Program, Setup
from trainer.rules import ConfigError
from trainer.start import initial_params
from trainer.stream_feed import StreamFeed

V = streams_corpus.SMALL["model.vocab_size"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def source(base):
  return streams_corpus.write(base / "words.txt")


@pytest.fixture(scope="module")
def feed(base, source):
  return StreamFeed(config_of(source), base / "run")


def feed_of(base, source, **changes):
  """A feed of the corpus that is prepared already."""
  return StreamFeed(config_of(source, data__dir=str(base / "run" / "data"), **changes), base / "other")


def sentences_of(source):
  return [line.split() for line in source.read_text().splitlines() if line]


def inputs_of(batch, vocabulary):
  """Words [B, 2, L] of a batch, read back from their characters; None where there is none."""
  spellings = Spellings(vocabulary, batch.words.shape[-1], boundaries=True)
  known = {spellings[np.array(i)].tobytes(): word for i, word in enumerate(vocabulary)}
  groups = np.arange(len(batch.index)) // (len(batch.index) // len(batch.words))
  rows = batch.words[groups[:, None, None], batch.index]
  return [[[known.get(word.tobytes()) for word in line] for line in row] for row in rows]


# --- words ----------------------------------------------------------------------------------------------------------


def test_the_vocabulary_is_every_word_of_the_corpus_by_falling_count(feed, source):
  counts = Counter(word for sentence in sentences_of(source) for word in sentence)
  assert feed.tokenizer.vocabulary == (*SPECIALS, *sorted(counts, key=lambda word: (-counts[word], word)))
  assert feed.tokenizer.vocab_size > V and feed.tokenizer.split == "space"


def test_a_rare_word_is_read_by_its_characters_and_predicted_as_unknown(feed):
  """Forward, the target of a word is the next one's id; a word that is no target is still an input."""
  stage = Setup.of(feed._config, jax.devices()[:1]).stages[0]
  vocabulary, rare = feed.tokenizer.vocabulary, 0
  for _, batch in itertools.islice(feed.batches(stage, 0), 4):
    words = inputs_of(batch, vocabulary)
    for row, targets in zip(words, batch.targets, strict=True):
      for place, word in enumerate(row[0][1:]):
        if word not in SPECIALS[:2]:
          number = vocabulary.index(word)
          rare += number >= V
          assert targets[0][place] == (number if number < V else 2)
  assert rare > 5


def test_words_of_a_table_are_their_ids(base, source):
  feed = feed_of(base, source, model__input="words")
  stage = Setup.of(feed._config, jax.devices()[:1]).stages[0]
  (_, batch) = next(feed.batches(stage, 0))
  assert batch.words.shape[-1] == 1 and batch.words.max() < V


def test_a_vocabulary_file_keeps_its_ids_and_other_words_stand_behind_it(base, source):
  """Whatever the file lacks is a word of its own as an input, and unknown as a target."""
  listed = (*SPECIALS, *reversed(WORDS[: V - 3]))
  (base / "listed").mkdir()
  (base / "listed" / "vocab.txt").write_text("".join(word + "\n" for word in (*listed, "xyz")))
  feed = StreamFeed(config_of(source, data__tokenizer=str(base / "listed" / "vocab.txt")), base / "with_list")
  vocabulary = feed.tokenizer.vocabulary
  assert vocabulary[:V] == listed and set(vocabulary[V:]) == {w for s in sentences_of(source) for w in s} - set(listed)


def test_raw_text_is_divided_at_marks(base):
  """Without data.words=space, a comma is a word of its own."""
  path = base / "raw.txt"
  path.write_text("\n\n".join(f"The cat, no. {i}, sat. It didn't run." for i in range(30)))
  keys = {"data__source": f"lines:{path}", "data__words": "marks", "model__vocab_size": 12, "objective__negatives": 4}
  feed = StreamFeed(config_of(path, **keys), base / "raw")
  assert {",", ".", "cat", "'", "didn"} <= set(feed.tokenizer.vocabulary) and "cat," not in feed.tokenizer.vocabulary


# --- held-out text --------------------------------------------------------------------------------------------------


def test_held_out_text_is_read_whole_in_both_directions(feed):
  setup = Setup.of(feed._config, jax.devices()[:1])
  store, batches = feed.stores["validation"], list(feed.held_out(setup.stages[0]))
  pairs = store.n_tokens + store.n_sentences
  assert sum(batch.weights[:, 0].sum() for batch in batches) == sum(b.weights[:, 1].sum() for b in batches) == pairs


def test_the_baseline_is_the_cost_of_words_by_their_count(feed, source):
  """Counts of targets in the training split with one added to each; <S> is only a target backward, </S> forward."""
  train, held = feed.stores["train"], feed.stores["validation"]
  known = lambda ids: [i if i < V else 2 for i in np.asarray(ids).tolist()]
  counts = Counter(known(train.tokens)) + Counter({1: train.n_sentences})
  cost = lambda word: -math.log((counts[word] + 1) / (counts.total() + V))
  costs = [*map(cost, known(held.tokens)), *[cost(1)] * held.n_sentences]
  setup = Setup.of(feed._config, jax.devices()[:1])
  found = [feed.baseline(batch)["unigram_loss"] for batch in feed.held_out(setup.stages[0])]
  assert sum(total for total, _ in found) / sum(n for _, n in found) == pytest.approx(np.mean(costs), rel=1e-6)


@pytest.fixture(scope="module")
def program(feed):
  return program_of(feed, 1, 1)


def program_of(feed, data, model, **changes):
  config = config_of(feed._config.data.source.removeprefix("lines:"), **changes)
  with config.unlocked():
    config.mesh.data, config.mesh.model = data, model
  setup = Setup.of(config, jax.devices()[: data * model])
  return Program(setup, setup.stages[0], feed.example(setup.stages[0]))


def test_held_out_figures_stand_beside_a_baseline(feed, program):
  """Fresh from the seed, every word is about as likely as any other; counts alone do better."""
  figures = evaluate(program, feed, program.fresh_state().params)
  assert figures["perplexity"] == pytest.approx(math.exp((figures["forward_loss"] + figures["backward_loss"]) / 2))
  assert figures["unigram_perplexity"] == pytest.approx(math.exp(figures["unigram_loss"]))
  assert figures["unigram_perplexity"] < V < 1.2 * figures["perplexity"]


def test_held_out_figures_do_not_depend_on_the_window(feed, program):
  """The state goes on from window to window in both directions: windows of 2T and two of T see the same."""
  params = program.fresh_state().params
  double = program_of(feed, 1, 1, data__length=16, data__distinct_words=100)
  wide = StreamFeed(
    config_of(feed._config.data.source.removeprefix("lines:"), data__dir=str(feed.directory), data__length=16,
              data__distinct_words=100), feed.directory,
  )  # fmt: skip
  got, want = evaluate(double, wide, params), evaluate(program, feed, params)
  for name in ("forward_loss", "backward_loss"):
    assert got[name] == pytest.approx(want[name], rel=1e-5)


# --- meshes and micro-batches ---------------------------------------------------------------------------------------


def trained(feed, data, model, **changes):
  """(parameters, carry, reports) after three steps."""
  program = program_of(feed, data, model, **changes)
  state, reports = program.fresh_state(), []
  for _, batch in itertools.islice(feed.batches(program.stage, 0), 3):
    state, report = program.step(state, program.place(batch))
    reports.append(jax.device_get(report))
  return named_leaves(jax.device_get(state.params)), jax.device_get(state.carry), reports


@pytest.fixture(scope="module")
def one_device(feed):
  return trained(feed, 1, 1)


@pytest.mark.parametrize("data, model, micro_batches", [(2, 1, 1), (4, 2, 2)], ids=["2x1", "4x2 in two parts"])
def test_meshes_and_micro_batches_change_nothing(feed, one_device, data, model, micro_batches):
  """Sampled softmax: its negatives are those of the step, on every device and in every micro-batch."""
  params, carry, reports = trained(feed, data, model, micro_batches=micro_batches)
  np.testing.assert_allclose(carry, one_device[1], atol=1e-5)
  for path, leaf in params.items():
    np.testing.assert_allclose(leaf, one_device[0][path], atol=2e-5, err_msg=path)
  for mine, theirs in zip(reports, one_device[2], strict=True):
    assert mine.applied
    np.testing.assert_allclose(mine.sums["backward"], theirs.sums["backward"], rtol=1e-5)


def test_a_state_that_is_reset_is_not_carried(feed):
  program = program_of(feed, 1, 1, objective__reset="window")
  after, _ = jax.eval_shape(program.step, program.shapes, program.example)
  assert program.shapes.carry is None and after.carry is None


def test_the_speed_of_streams_is_measured():
  """Of 16 rows in 4 groups: at most 160 words of a group are different, and a text of words by Zipf repeats some."""
  found = bench.stream_words_per_second(20_000, 16, 3, 0)
  assert 20 < found["distinct_words"] < 160 and found["words"] > 0 and found["shuffling_seconds"] > 0


# --- what a run starts from -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(program):
  """Parameters from the seed."""
  return program.fresh_state().params


@pytest.fixture(scope="module")
def run(base, feed, program):
  """A workdir as a run leaves it, fresh from its seed."""
  with Checkpoints(base / "run" / "checkpoints", keep=1) as checkpoints:
    checkpoints.save(program.fresh_state(), {}, scheduled=True, wait=True)
  (base / "run" / "config.json").write_text(to_json(program.setup.config))
  feed.save_tokenizer(base / "run")
  return base / "run"


def test_other_text_goes_on_under_the_words_of_the_run(base, run, feed, fresh):
  """The words that it predicts keep their ids, in a text that hardly has them; its other words are read, not lost."""
  new = tuple(f"z{word}" for word in WORDS)
  other = streams_corpus.write(base / "new.txt", seed=1, words=(*new, *WORDS[:20]))
  config = config_of(other, init_from=str(run))
  tuned = StreamFeed(config, base / "tuned")
  vocabulary = tuned.tokenizer.vocabulary
  assert vocabulary[:V] == feed.tokenizer.vocabulary[:V]
  assert {w for w in vocabulary[V:] if w in new} == {w for s in sentences_of(other) for w in s if w in new}
  params = initial_params(config, jax.tree.map(jnp.zeros_like, fresh))
  for path, leaf in named_leaves(params).items():
    np.testing.assert_array_equal(leaf, named_leaves(fresh)[path], err_msg=path)


def test_another_vocabulary_than_the_runs_is_refused(base, run, source):
  other = (*SPECIALS, *WORDS[:V])
  Words(other).save(base / "another")
  with pytest.raises(TokenizerError, match="its first 60 words are others than those of .*run, whose softmax is taken"):
    StreamFeed(config_of(source, init_from=str(run), data__tokenizer=str(base / "another")), base / "none")


def test_a_run_without_words_is_refused(base, source):
  wordpiece.train(SENTENCES * 2, vocab_size=90).save(base / "pieces" / "tokenizer")
  (base / "pieces" / "config.json").write_text("{}")
  with pytest.raises(TokenizerError, match="got one of kind wordpiece, want a list of words"):
    StreamFeed(config_of(source, init_from=str(base / "pieces")), base / "none")


def test_published_weights_start_with_a_softmax_of_the_seed(base, source, program, fresh, caplog):
  """AllenNLP's files have no softmax; everything else is theirs, and the log says so."""
  theirs = jax.tree.map(lambda leaf: 2 * leaf, fresh)
  config = program.setup.objective.model.config
  allennlp.write(base / "files", Elmo(config), {name: theirs[name] for name in ("char", "layers")})
  caplog.set_level("INFO")
  params = initial_params(config_of(source, init_from=str(base / "files")), fresh)
  assert f"weights {base / 'files'}: the files have no softmax; one that trains starts from the seed" in caplog.text
  for path, leaf in named_leaves(params).items():
    origin = fresh if path.startswith("heads/") else theirs
    np.testing.assert_array_equal(leaf, named_leaves(origin)[path], err_msg=path)


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_fewer_words_than_are_predicted_are_refused(base, source, feed):
  with pytest.raises(TokenizerError, match=rf"got {feed.tokenizer.vocab_size} words, want at least 500, model.vocab_s"):
    feed_of(base, source, model__vocab_size=500)


def test_words_out_of_order_are_refused_where_negatives_are_drawn_by_it(base, source):
  words, counts = (*SPECIALS, *WORDS[: V - 3]), np.arange(V)
  Words(words, counts).save(base / "rising")
  keys = {"data__tokenizer": str(base / "rising")}
  with pytest.raises(TokenizerError, match="want descending counts, which sampled negatives are drawn by"):
    StreamFeed(config_of(source, **keys), base / "rises")
  assert StreamFeed(config_of(source, variant="tiny,softmax=full", objective__softmax="full", **keys), base / "rises")


def test_a_group_without_room_for_its_words_says_how_much_it_needs(base, source):
  feed = feed_of(base, source, data__distinct_words=20)
  stage = Setup.of(feed._config, jax.devices()[:1]).stages[0]
  with pytest.raises(StreamError, match=r"got (\d+) distinct words, want at most distinct_words=20; set it to \1 or"):
    feed.example(stage)


def test_room_and_groups_may_change_on_resume(source):
  """Neither alters an update, and a run that found no room goes on with more."""
  one, other = config_of(source), config_of(source, data__distinct_words=99, data__groups=1)
  assert difference(one, other, ignore=FREE_ON_RESUME) == []
  more = config_of(source, batch_size=16)
  assert difference(one, more, ignore=FREE_ON_RESUME) == ["batch_size: 8 -> 16"]


@pytest.mark.parametrize(
  "keys, line",
  [
    ({"data__groups": 3}, "batch_size is 8, want a multiple of data.groups x micro_batches = 3 x 1"),
    ({"data__groups": 4, "micro_batches": 4}, "want a multiple of data.groups x micro_batches = 4 x 4"),
    ({"mesh__data": 3}, "batch_size is 8, want a multiple of micro_batches x mesh.data = 1 x 3"),
    ({"objective__negatives": V}, f"objective.negatives is {V}, want below model.vocab_size = {V}"),
    ({"data__words": "text"}, "data.words text, want words, and marks or space: streams are of whole words"),
    ({"data__tokenizer_type": "bytebpe"}, "data.tokenizer_type is bytebpe and data.words space, want words"),
    ({"data__lowercase": True}, "data.lowercase is True, but data.tokenizer_type is words"),
    ({"model__characters": 3, "model__filters": ((4, 2),)}, "want widths of at most model.characters = 3"),
    ({"stages": ({"steps": 3}, {"steps": 3, "batch_size": 16})}, "stages: want one batch_size and one length"),
    ({"stages": ({"steps": 3}, {"steps": 3, "length": 16})}, "stages: want one batch_size and one length"),
  ],
)
def test_settings_that_streams_cannot_have_are_one_line(source, keys, line):
  with pytest.raises(ConfigError) as error:
    config_of(source, **keys)
  assert line in str(error.value) and "\n" not in str(error.value)
