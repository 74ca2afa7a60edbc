"""Figures of a yes-or-no decision from one mergeable statistic: histograms of its probability, one per true answer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

BINS = 1024  # of the sigmoid; 0.5 is an edge
_COARSE, _FINE = 32, 32


def histogram(logits: Array, labels: Array, weights: Array) -> Array:
  """float32 [2, BINS]: weight of the decisions that are truly no and yes, by the sigmoid of their logits.

  The count is a product of one-hot rows of the coarse and the fine half of a bin's number: exact (zeros and ones), and
  fast where a scatter into few hot bins is not.
  """
  bins = jnp.clip(jax.nn.sigmoid(logits.astype(jnp.float32)) * BINS, 0, BINS - 1).astype(jnp.int32)
  coarse = jax.nn.one_hot(bins // _FINE + _COARSE * labels.astype(jnp.int32), 2 * _COARSE) * weights[..., None]
  fine = jax.nn.one_hot(bins % _FINE, _FINE)
  counts = jnp.einsum("...C,...F->CF", coarse, fine, preferred_element_type=jnp.float32)
  return counts.reshape(2, BINS)


def detection_figures(statistic: Any) -> dict[str, float]:
  """Accuracy, precision, recall, area under the ROC curve, and share of yes, of a merged `histogram` (host values).

  Yes is said from a probability of 0.5 on. Shares of nothing are 0; the area is 0.5 where only one answer occurs. Ties
  within a bin count half, so the area is exact to the width of a bin.
  """
  no, yes = np.asarray(statistic, np.float64)
  said = slice(BINS // 2, None)
  right, all_yes, all_no = yes[said].sum(), yes.sum(), no.sum()
  below = np.cumsum(no) - no
  area = float((yes * (below + 0.5 * no)).sum() / (all_yes * all_no)) if all_yes and all_no else 0.5
  return {
    "rtd_accuracy": _share(right + no[: BINS // 2].sum(), all_yes + all_no),
    "rtd_precision": _share(right, right + no[said].sum()),
    "rtd_recall": _share(right, all_yes),
    "rtd_auc": area,
    "replaced_share": _share(all_yes, all_yes + all_no),
  }


def _share(part: float, whole: float) -> float:
  return float(part / whole) if whole else 0.0
