"""The options of masking and what they refuse."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

STRATEGIES = ("token", "whole_word", "ngram", "span", "entity", "noun_phrase")
ANNOTATION_BITS = {"entity": 0, "noun_phrase": 2}  # of `Rows.annotations`: this bit begins one, the next continues it
_CHOICES = {
  "strategy": STRATEGIES,
  "budget": ("round", "stochastic", "ceil", "text"),
  "replace_by": ("piece", "word", "span"),
  "random_tokens": ("uniform", "no_specials", "unigram", "above_pad"),
}
WITHOUT_SPECIALS = ("ceil", "text")  # budgets that are a share of the tokens that are no special ones


class MaskError(ValueError):
  """A masking option that cannot be, or data that it cannot be applied to."""


@dataclasses.dataclass(frozen=True)
class Masking:
  """How tokens are masked; the defaults are BERT's for rows of 128 tokens.

  Attributes:
    strategy: one of STRATEGIES. "token" and "whole_word": BERT; "ngram": ALBERT, runs of 1 to `max_ngram` words;
      "span": SpanBERT, runs of words of geometric length; "entity" and "noun_phrase": its ablations, annotated spans
      with probability `entity_share`, else random ones.
    mask_rate: share of an example's tokens to predict, [CLS] and [SEP] counted.
    max_predictions: the most predictions an example has.
    mask_share, random_share, keep_share: what a predicted token becomes; drawn once for each unit of `replace_by`.
    static_copies: masks an example has over all epochs; 0 = a new one every epoch (RoBERTa's dynamic masking).
    join_across_separators: a continuation piece that begins the second segment joins the last word of the first one,
      and n-grams run on across separators (original); False: neither does. Spans never do.
    budget: how many predictions. "round": round(rate * tokens), at least 1 (BERT, ALBERT, ELECTRA); "stochastic":
      floor(rate * tokens + u) with u uniform in [0, 1), which may be 0 (RoBERTa; with whole_word it counts words, so
      the tokens predicted vary and `max_predictions` cuts them off); "ceil": ceil(rate * tokens), special tokens not
      counted (SpanBERT); "text": round(rate * tokens), special tokens not counted, at least 1, and where no word fits
      that, one token of any word, always replaced by [MASK] (LUKE). Strategies of spans give each of two segments a
      budget of its own.
    mask_specials: special tokens are candidates too, as words of their own (RoBERTa's code); token, whole_word only.
    replace_by: unit of the draw of shares. "piece": BERT; "word": RoBERTa's whole-word option; "span": SpanBERT, a
      run of neighbouring predicted tokens, so spans that touch are one. Random tokens are always drawn one by one.
    random_tokens: "uniform": the whole vocabulary, special tokens included (BERT); "no_specials": all ids but the
      first 4 (RoBERTa); "above_pad": all ids above that of [PAD] (LUKE); "unigram": as often as in the corpus
      (SpanBERT), by the `Unigram` that `mask` is given.
    max_ngram: longest n-gram, in words.
    favor_shorter: n words with probability proportional to 1/n (original); False: the same list reversed.
    span_p, max_span: words of a span: geometric, p(l) proportional to (1 - span_p)^(l - 1) for l up to `max_span`.
    entity_share: probability that an attempt takes an annotated span, if there is one.
    max_offset: tokens of a span, from its left, that are predicted from its boundaries too: 15 in SpanBERT's command;
      0 = none, and batches have no edges and offsets.
  """

  strategy: str = "token"
  mask_rate: float = 0.15
  max_predictions: int = 20
  mask_share: float = 0.8
  random_share: float = 0.1
  keep_share: float = 0.1
  static_copies: int = 0
  join_across_separators: bool = True
  budget: str = "round"
  mask_specials: bool = False
  replace_by: str = "piece"
  random_tokens: str = "uniform"
  max_ngram: int = 3
  favor_shorter: bool = True
  span_p: float = 0.2
  max_span: int = 10
  entity_share: float = 0.5
  max_offset: int = 0

  def __post_init__(self):
    for name, allowed in _CHOICES.items():
      if getattr(self, name) not in allowed:
        raise MaskError(f"masking option {name}: got {getattr(self, name)!r}, want one of {', '.join(allowed)}")
    shares = (self.mask_share, self.random_share, self.keep_share)
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
      raise MaskError(f"masking options mask_share, random_share, keep_share: got {shares}, want shares that sum to 1")
    for name in ("mask_rate", "span_p"):
      if not 0 < getattr(self, name) <= 1:
        raise MaskError(f"masking option {name}: got {getattr(self, name)}, want a share above 0 and up to 1")
    if not 0 <= self.entity_share < 1:
      raise MaskError(f"masking option entity_share: got {self.entity_share}, want a share from 0 to below 1")
    for name in ("max_predictions", "max_ngram", "max_span"):
      if getattr(self, name) < 1:
        raise MaskError(f"masking option {name}: got {getattr(self, name)}, want at least 1")
    if self.static_copies < 0:
      raise MaskError(f"masking option static_copies: got {self.static_copies}, want 0 (dynamic) or more")
    if self.max_offset < 0:
      raise MaskError(f"masking option max_offset: got {self.max_offset}, want 0 (no span boundaries) or more")
    if self.mask_specials and (self.strategy not in ("token", "whole_word") or self.max_offset):
      raise MaskError(
        f"masking option mask_specials: got strategy={self.strategy!r}, max_offset={self.max_offset}, want token or "
        "whole_word without span boundaries; set mask_specials=False"
      )

  @property
  def by_block(self) -> bool:
    """Whether each of two segments has a budget of its own."""
    return self.strategy in ("span", *ANNOTATION_BITS)

  @property
  def joins(self) -> bool:
    """Whether words and n-grams run on across separators."""
    return self.join_across_separators and not self.by_block

  def copy_of(self, epoch: int) -> int:
    """The epoch whose masks epoch `epoch` shows (BERT: 10 copies over 40 epochs, so each mask is seen 4 times)."""
    return epoch % self.static_copies if self.static_copies else epoch

  def check(self, annotations: np.ndarray | None, unigram: Any, vocab_size: int) -> None:
    """Holds what the options need against what there is.

    Raises:
      MaskError: the strategy needs annotations, or random tokens a table, that is not there or has other ids.
    """
    if self.strategy in ANNOTATION_BITS and annotations is None:
      raise MaskError(
        f"masking option strategy: got {self.strategy!r} and a store without annotations, want one with them; "
        "use span masking or a store that has them"
      )
    if self.random_tokens == "unigram" and (unigram is None or unigram.last >= vocab_size):
      got = "no table" if unigram is None else f"one with id {unigram.last}"
      raise MaskError(
        f"masking option random_tokens: got 'unigram' and {got}, want counts of ids below {vocab_size}; count the "
        "tokens of the corpus (Unigram.of)"
      )
