"""Figures of detection: exact counts that merge, and the area under the curve to the width of a bin."""

import numpy as np
import pytest

from objectives.detection import BINS, detection_figures, histogram


def test_histograms_merge_and_give_the_area_under_the_curve():
  rng = np.random.default_rng(1)
  labels = rng.random((20, 30)) < 0.1
  logits, weights = np.float32(rng.normal(size=labels.shape) + 1.5 * labels), np.float32(rng.random(labels.shape) < 0.8)
  whole = histogram(logits, labels, weights)
  np.testing.assert_array_equal(whole, sum(histogram(*part) for part in zip(logits, labels, weights, strict=True)))
  assert whole.shape == (2, BINS) and whole.sum() == weights.sum()
  yes, no = (logits[(labels == truth) & (weights > 0)][:, None] for truth in (True, False))
  pairwise = ((yes > no.T) + 0.5 * (yes == no.T)).mean()
  assert detection_figures(whole)["rtd_auc"] == pytest.approx(pairwise, abs=2e-3)


def test_figures_of_perfect_and_of_one_sided_decisions():
  logits, ones = np.array([-9.0, -1.0, 2.0, 90.0], np.float32), np.ones(4, np.float32)
  perfect = detection_figures(histogram(logits, logits > 0, ones))
  assert perfect == {"rtd_accuracy": 1, "rtd_precision": 1, "rtd_recall": 1, "rtd_auc": 1, "replaced_share": 0.5}
  empty = detection_figures(histogram(logits, logits > 100, ones))
  assert empty == {"rtd_accuracy": 0.5, "rtd_precision": 0, "rtd_recall": 0, "rtd_auc": 0.5, "replaced_share": 0}
