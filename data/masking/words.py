"""Tokens, whole words and n-grams of words, in order of rank.

Every strategy is a function of rows, their candidates and the options that returns bool[n]: which candidates are
predicted.
"""

from __future__ import annotations

import numpy as np

from data import draws
from data.masking.budgets import drawn_budgets
from data.masking.counters import ATTEMPT, NGRAM
from data.masking.options import Masking
from data.masking.units import Candidates, Ranked, cut_words, drawn_lengths, length_table, rank
from data.rows import Rows, ragged

_LOOK = 8  # words looked at together when little of a budget is left


def token(rows: Rows, found: Candidates, options: Masking) -> np.ndarray:
  """BERT: the k candidates of lowest rank."""
  counts = found.counts.reshape(-1)
  ranked = rank(found.keys, found.positions, found.counts)
  taken = np.minimum(_budgets(rows, found, options), counts)
  chosen = np.zeros(len(found.flat), bool)
  chosen[ranked.units(ragged(ranked.starts, taken), np.repeat(ranked.firsts, taken))] = True
  return chosen


def whole_word(rows: Rows, found: Candidates, options: Masking) -> np.ndarray:
  """BERT's whole-word masking: words by rank; one that does not fit what is left of k is passed over.

  With the "stochastic" budget, RoBERTa's: so many words by rank, as far as they fit `max_predictions`.
  """
  words = cut_words(rows, found, options)
  counts, specials = words.counts.reshape(-1), (rows.sizes - rows.pieces).reshape(-1)
  if options.budget == "stochastic":
    everything = counts if options.mask_specials else counts + specials
    counts = np.minimum(drawn_budgets(everything, specials, options, found.keys), counts)
    budget = np.full(len(counts), options.max_predictions)
  else:
    budget = _budgets(rows, found, options)
  chosen = np.zeros(len(words.firsts), bool)
  ranked = rank(found.keys, found.positions[words.firsts], words.counts)
  chosen[_fill(ranked, words.sizes, counts, budget)] = True
  return np.repeat(chosen, words.sizes)


def lone(found: Candidates, chosen: np.ndarray) -> np.ndarray:
  """int64: for each example that has candidates and nothing to predict the number of one candidate, any with the same
  probability (LUKE: where no word fits its budget)."""
  before = np.append(0, np.cumsum(chosen))[found.bounds]
  bare = np.flatnonzero((np.diff(before) == 0) & (found.counts.reshape(-1) > 0) & (found.taken == 0))
  return found.bounds[bare] + draws.below(found.keys[bare], ATTEMPT, found.counts.reshape(-1)[bare])


def ngram(rows: Rows, found: Candidates, options: Masking) -> np.ndarray:
  """ALBERT's n-grams: start words by rank; from each n words, or fewer if only fewer fit what is left of k.

  A start is passed over if not even its own word fits, or if the n-gram touches one that was taken before.
  """
  words = cut_words(rows, found, options)
  covered = np.zeros(len(words.firsts), bool)
  ranked = rank(found.keys, found.positions[words.firsts], words.counts)
  reaches, counts = words.reaches(options.joins, found), words.counts.reshape(-1)
  left = _budgets(rows, found, options)
  steps = np.arange(1, options.max_ngram + 1)
  lengths = length_table(1 / steps if options.favor_shorter else 1 / steps[::-1])
  open_, number = np.flatnonzero((left > 0) & (counts > 0)), 0
  while open_.size:
    word = ranked.units(ranked.starts[open_] + number, ranked.firsts[open_])
    first = words.firsts[word]
    drawn = drawn_lengths(lengths, found.keys[open_], NGRAM + found.positions[first].astype(np.uint64))
    behind = np.minimum(word[:, None] + steps, reaches[word][:, None])  # the word behind each n-gram
    pieces = words.bounds[behind] - first[:, None]
    taken = (pieces <= left[open_][:, None]) & (steps <= drawn[:, None])
    taken &= ~(covered[behind - 1] & taken).any(axis=1)[:, None]
    covered[(behind - 1)[taken]] = True
    left[open_] -= np.where(taken, pieces, 0).max(axis=1)
    number += 1
    open_ = open_[(left[open_] > 0) & (number < counts[open_])]
  return np.repeat(covered, words.sizes)


def _budgets(rows: Rows, found: Candidates, options: Masking) -> np.ndarray:
  sizes, specials = rows.sizes.reshape(-1), (rows.sizes - rows.pieces).reshape(-1)
  return np.maximum(drawn_budgets(sizes, specials, options, found.keys) - found.taken, 0)


def _fill(ranked: Ranked, sizes: np.ndarray, words: np.ndarray, budget: np.ndarray) -> np.ndarray:
  """Numbers of the words that fill each example's budget, its first `words` words looked at in order of rank.

  Words are taken while they fit; from the first that does not, the little that is left (less than a word) is filled by
  searching on, for all examples at once.
  """
  looked = np.minimum(budget, words)  # a word has a piece or more, so no more words than that can fit
  owner, first = np.repeat(np.arange(len(looked)), looked), np.cumsum(looked) - looked
  units = ranked.units(ragged(ranked.starts, looked), ranked.firsts[owner])
  total = np.append(0, np.cumsum(sizes[units]))
  fits = total[1:] - total[first][owner] <= budget[owner]
  count = np.bincount(owner[fits], minlength=len(looked))
  left = budget - (total[first + count] - total[first])
  open_ = np.flatnonzero((left > 0) & (count < words))
  parts, at, left = [units[fits]], count[open_] + 1, left[open_]  # the word at `count` did not fit
  while open_.size:
    found, at = _next_fit(ranked, sizes, words, open_, at, left)
    open_, at, left = open_[found], at[found], left[found]
    taken = ranked.units(ranked.starts[open_] + at, ranked.firsts[open_])
    parts.append(taken)
    at, left = at + 1, left - sizes[taken]
    open_, at, left = open_[left > 0], at[left > 0], left[left > 0]
  return np.concatenate(parts)


def _next_fit(ranked, sizes, words, open_, at, left):
  """For each open example the next word of `left` pieces or fewer from rank `at` on: (is there one, its rank)."""
  found, answer = np.zeros(len(open_), bool), at.copy()
  waiting = np.arange(len(open_))
  while (waiting := waiting[answer[waiting] < words[open_[waiting]]]).size:
    slot = open_[waiting][:, None]
    place = answer[waiting][:, None] + np.arange(_LOOK)
    inside = place < words[slot]
    units = ranked.units(ranked.starts[slot] + np.where(inside, place, 0), ranked.firsts[slot])
    fits = inside & (sizes[units] <= left[waiting][:, None])
    here = fits.any(axis=1)
    answer[waiting] += np.where(here, fits.argmax(axis=1), _LOOK)
    found[waiting[here]] = True
    waiting = waiting[~here]
  return found, answer
