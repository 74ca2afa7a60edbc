"""Official figures against independent implementations: seqeval's spans, scikit-learn's classes. Random answers."""

import numpy as np
import pytest

from data.tasks import metrics, tags, texts

pytestmark = pytest.mark.parity

TYPES = ("PER", "LOC")
SCHEMES = {"iob": "BI", "bioes": "BIES"}


@pytest.fixture(scope="module")
def seqeval():
  return pytest.importorskip("seqeval.metrics")


@pytest.fixture(scope="module")
def sklearn():
  return pytest.importorskip("sklearn.metrics")


def answers(rng, labels, size, alike=0.6):
  """(what is true, what is said), the same at about `alike` of the places."""
  gold = rng.choice(labels, size)
  return gold, np.where(rng.random(size) < alike, gold, rng.choice(labels, size))


def close(figures, **wanted):
  assert {name: figures[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(8))
def test_spans_of_any_tags_are_seqevals(seqeval, scheme, seed):
  """Tags in any order, also where no scheme allows it: what predictions look like."""
  rng, labels = np.random.default_rng(seed), ["O", *(f"{mark}-{kind}" for mark in SCHEMES[scheme] for kind in TYPES)]
  sentences = [answers(rng, labels, size) for size in rng.integers(1, 12, 40)]
  gold, said = ([list(map(str, pair[side])) for pair in sentences] for side in (0, 1))
  mine = metrics.micro(*([set(tags.spans_of(own)) for own in side] for side in (gold, said)))
  theirs = [getattr(seqeval, f"{name}_score")(gold, said) for name in ("precision", "recall", "f1")]
  assert theirs[2] > 0
  close(mine, precision=theirs[0], recall=theirs[1], f1=theirs[2])


@pytest.mark.parametrize("labels", [("no", "yes"), ("a", "b", "c", "d")])
@pytest.mark.parametrize("seed", range(4))
def test_classes_are_scikit_learns(sklearn, labels, seed):
  gold, said = (list(map(str, side)) for side in answers(np.random.default_rng(seed), labels, 60))
  close(metrics.accuracy(gold, said), accuracy=sklearn.accuracy_score(gold, said))
  close(metrics.matthews(gold, said), matthews=sklearn.matthews_corrcoef(gold, said))
  if len(labels) == 2:
    close(texts.class_f1(gold, said, "yes"), f1=sklearn.f1_score(gold, said, pos_label="yes"))
    close(texts.class_matthews(gold, said, "yes"), matthews=sklearn.matthews_corrcoef(gold, said))
    return
  wanted = {"labels": labels[1:], "average": "micro"}  # TACRED's, the first being no relation
  precision, recall, f1, _ = sklearn.precision_recall_fscore_support(gold, said, **wanted)
  close(metrics.relation_micro(gold, said, none="a"), precision=precision, recall=recall, f1=f1)


@pytest.mark.parametrize("seed", range(4))
def test_relations_in_the_right_direction_are_scikit_learns(sklearn, seed):
  """SemEval's macro figures, which want the direction: where none is said the wrong way they are those of the names."""
  gold, said = (list(map(str, side)) for side in answers(np.random.default_rng(seed), ("Other", "A", "B", "C"), 60))
  wanted = {"labels": ("A", "B", "C"), "average": None, "zero_division": 0}
  each = sklearn.precision_recall_fscore_support(gold, said, **wanted)
  directed = [[name if name == "Other" else f"{name}(e1,e2)" for name in side] for side in (gold, said)]
  precision, recall, f1 = (float(np.mean(values)) for values in each[:3])
  close(metrics.relation_macro(*directed), precision=precision, recall=recall, f1=f1)


@pytest.mark.parametrize("seed", range(4))
def test_sets_of_types_are_scikit_learns(sklearn, seed):
  """Loose micro figures of entity typing: each type of each mention is a decision."""
  rng = np.random.default_rng(seed)
  gold, said = rng.random((40, 5)) < 0.4, rng.random((40, 5)) < 0.4
  precision, recall, f1, _ = sklearn.precision_recall_fscore_support(gold, said, average="micro")
  mine = metrics.micro(*([set(np.flatnonzero(row).tolist()) for row in side] for side in (gold, said)))
  close(mine, precision=precision, recall=recall, f1=f1)
