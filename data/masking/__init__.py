"""Masking: which tokens of a row are predicted and what stands in their place.

A mask belongs to an example, not to a place in a batch: its stream is keyed by (seed, "mask", pass, example id, epoch),
and every draw is a counter of that stream made from positions in the example or from the number of an attempt. So a
packed example has the mask that it has alone, and rows of a batch of 256 equal 256 batches of one. `counters` lists
the counters.
"""

from data.masking.apply import mask, mask_keys
from data.masking.budgets import budgets, predictions_per_row
from data.masking.mentions import EntitySettings, choose_mentions, covered, masked_entities, masked_per_row
from data.masking.options import STRATEGIES, MaskError, Masking
from data.masking.replacement import Unigram

__all__ = [
  "STRATEGIES", "EntitySettings", "MaskError", "Masking", "Unigram", "budgets", "choose_mentions", "covered", "mask",
  "mask_keys", "masked_entities", "masked_per_row", "predictions_per_row",
]  # fmt: skip
