"""The masking procedures as published, one example and one token at a time, and what the tests of masking share.

Draws come from the same streams as in the vectorised code (counters are restated here, not imported), so results must
be equal draw for draw.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from data import masking, rows
from data.examples import Options, Table, build_table
from data.masking import Masking
from data.tokenizers import Special
from tests import oracles
from tests.oracles import _below, _uniform, _word

SPECIAL, VOCAB = Special(pad=0, unk=1, cls=2, sep=3, mask=4), 60000
TABLES = {
  "pairs": Options("segment_pairs", 64),
  "packed pairs": Options("segment_pairs", 128, packed=4),
  "full sentences": Options("full_sentences", 64),
  "packed document sentences": Options("doc_sentences", 96, packed=3, separators="document"),
  "packed segments, one or two": Options("electra_segments", 64, packed=2),
}
ROBERTA = {"budget": "stochastic", "random_tokens": "no_specials", "max_predictions": 77}
MASKS = {
  "token": Masking(),
  "whole word": Masking("whole_word"),
  "whole word, own words behind a separator": Masking("whole_word", join_across_separators=False),
  "a third of the tokens, many": Masking("whole_word", mask_rate=0.33, max_predictions=50),
  "few predictions": Masking(max_predictions=3),
  "n-grams": Masking("ngram"),
  "n-grams that end at separators": Masking("ngram", join_across_separators=False, max_predictions=40, mask_rate=0.3),
  "long n-grams first": Masking("ngram", max_ngram=5, favor_shorter=False),
  "RoBERTa": Masking(mask_specials=True, **ROBERTA),
  "RoBERTa's whole words": Masking("whole_word", mask_specials=True, replace_by="word", **ROBERTA),
  "RoBERTa's whole words without special ones": Masking("whole_word", budget="stochastic", max_predictions=5),
  "SpanBERT's budget and boundaries on tokens": Masking(
    budget="ceil", mask_rate=0.4, max_predictions=50, replace_by="span", random_tokens="unigram", max_offset=2
  ),
  "runs of tokens, special ones among them": Masking(
    mask_rate=0.6, max_predictions=80, mask_specials=True, replace_by="span"
  ),
  "LUKE": Masking("whole_word", budget="text", replace_by="word", random_tokens="above_pad", max_predictions=19),
  "mLUKE": Masking(budget="text", random_tokens="above_pad", max_predictions=77, mask_rate=0.02),
  "ELECTRA": Masking(mask_share=0.85, random_share=0.0, keep_share=0.15),
}
COUNTS = np.random.default_rng(0).integers(0, 4, VOCAB)
UNIGRAM = masking.Unigram.of(COUNTS)
_CORPUS = np.repeat(np.arange(VOCAB), COUNTS)  # all tokens of a corpus with these counts
_SPANS = {"span": None, "entity": 1, "noun_phrase": 4}  # flag that begins an annotated span; twice that continues it


# --- shared by the tests ---------------------------------------------------------------------------------------------


def annotated(store, seed=0):
  """The store with random flags: spans of every length, touching ones, continuations of nothing."""
  draw = np.random.default_rng(seed)
  flags = sum(flag * (draw.random(len(store.tokens)) < p) for flag, p in ((1, 0.1), (2, 0.4), (4, 0.2), (8, 0.5)))
  return dataclasses.replace(store, annotations=flags.astype(np.uint8))


def assembled(options, documents=40, seed=0, **changes):
  return all_rows(annotated(oracles.random_store(documents, seed, **changes)), options)


def all_rows(store, options):
  table = build_table(store, options, 3, 0)
  return rows.assemble(table, store, SPECIAL, np.arange(len(table.rows)))


def word_row(a, b, continued=True):
  """A row [CLS] A [SEP] B [SEP] with words of the given lengths; B's first word continues A's last one or does not."""
  size, words = sum(a) + sum(b), np.array([*a, *b])
  starts = np.zeros(size, bool)
  starts[np.cumsum(words) - words] = True
  starts[sum(a)] = not continued
  store = oracles.MemoryStore(np.arange(10, 10 + size), starts, np.array([0, size]), np.array([0, 1]))
  card = {"options": dataclasses.asdict(Options("segment_pairs", 64))}
  lengths = np.array([sum(a), sum(b)])
  table = Table(np.array([0, 2]), np.array([0, sum(a)]), lengths, np.zeros(1, int), np.zeros((1, 1), int), card)
  return rows.assemble(table, store, SPECIAL, np.array([0]))


def one_block_rows(documents, length, continuation=0.2):
  """Rows of [CLS] block [SEP], each block a document of one sentence."""
  store = oracles.store_of([[length]] * documents, continuation)
  return all_rows(store, Options("doc_sentences", length + 2, separators="document"))


def masked(batch_rows, options, epoch=0):
  keys = masking.mask_keys(11, 0, batch_rows.examples, epoch)
  return masking.mask(batch_rows, options, keys, SPECIAL.mask, VOCAB, UNIGRAM, SPECIAL.pad)


def predictions(batch, row):
  """[(column, input, label)] of a row."""
  kept = batch.weights[row] == 1
  return list(zip(*(field[row][kept].tolist() for field in (batch.positions, batch.inputs, batch.labels)), strict=True))


def boundaries(batch, row):
  """[(left column, right column, offset)] of a row."""
  kept = batch.weights[row] == 1
  return [(*edges, offset) for edges, offset in zip(batch.edges[row][kept].tolist(), batch.offsets[row][kept].tolist())]


def assert_equals_oracle(got, options, epoch=5):
  """Every row of the masked batch is what the procedure gives for its examples, one by one."""
  batch = masked(got, options, epoch)
  for row in range(len(got.examples)):
    want, edges, start = [], [], 0
    there = got.examples[row] >= 0
    for example, size in zip(got.examples[row][there].tolist(), got.sizes[row][there].tolist(), strict=True):
      own = slice(start, start + size)
      key = int(masking.mask_keys(11, 0, np.array([example]), epoch)[0])
      for position, given, label, sides in mask_example(Example.of(got, row, own), options, key):
        want.append((start + position, given, label))
        edges.append((start + sides[0], start + sides[1], sides[2]) if sides else (-1, -1, 0))
      start += size
    assert predictions(batch, row) == want
    assert (batch.edges is None) == (options.max_offset == 0)
    assert batch.edges is None or boundaries(batch, row) == edges


# --- the procedures --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Example:
  """Lists over the positions of one example, [CLS] first."""

  ids: list
  special: list
  starts_word: list
  types: list
  flags: list

  @classmethod
  def of(cls, got, row, own):
    fields = (got.tokens.ids, ~got.candidates, got.word_starts, got.tokens.types, got.annotations)
    return cls(*(field[row, own].tolist() for field in fields))


def mask_example(example, m, key):
  """[(position, input, label, None or (left, right, offset))] of one example, by position."""
  chosen, out = sorted(_CHOOSE[m.strategy](example, m, key)), []
  lone = m.budget == "text" and not chosen
  if lone:  # where no word fits, one token of any
    able = [position for position, special in enumerate(example.special) if m.mask_specials or not special]
    chosen = [able[_below(key, 2**36, len(able))]]
  for run in _runs(chosen):
    left, right = run[0] - 1, run[-1] + 1
    inner = m.max_offset and not example.special[left] and not example.special[right]
    for offset, position in enumerate(run):
      unit = {"piece": position, "word": _word_start(example, m, position), "span": run[0]}[m.replace_by]
      kind = 0.0 if lone else _uniform(key, 2**32 + unit)
      given = _instead(example.ids[position], m, key, position, kind)
      sides = (left, right, offset) if inner and offset < m.max_offset else None
      out.append((position, given, example.ids[position], sides))
  return out


def _runs(chosen):
  runs = []
  for position in chosen:
    if runs and runs[-1][-1] == position - 1:
      runs[-1].append(position)
    else:
      runs.append([position])
  return runs


def _instead(token, m, key, position, kind):
  if kind < m.mask_share:
    return SPECIAL.mask
  if kind >= m.mask_share + m.random_share:
    return token
  number = 2**33 + position
  if m.random_tokens == "unigram":
    return int(_CORPUS[math.floor(_uniform(key, number) * len(_CORPUS))])
  first = {"uniform": 0, "no_specials": 4, "above_pad": SPECIAL.pad + 1}[m.random_tokens]
  return first + _below(key, number, VOCAB - first)


def _budget(m, key, tokens, special, block=0):
  """Predictions of `tokens` tokens, `special` of them special."""
  if m.budget == "round":
    wanted = max(1, round(m.mask_rate * tokens))
  elif m.budget == "text":
    wanted = max(1, round(m.mask_rate * (tokens - special)))
  elif m.budget == "stochastic":
    wanted = math.floor(m.mask_rate * tokens + _uniform(key, 2**35 + block))
  else:
    wanted = math.ceil(m.mask_rate * (tokens - special))
  return min(m.max_predictions, wanted)


def _words(example, m):
  """Words as lists of positions; under WordPiece "##" pieces join the word before, even across a separator."""
  joins = m.join_across_separators and m.strategy not in _SPANS
  words = []
  for position, special in enumerate(example.special):
    if special and m.mask_specials:
      words.append([position])
    elif not special:
      behind = example.special[position - 1]
      if not words or example.starts_word[position] or (behind and (m.mask_specials or not joins)):
        words.append([position])
      else:
        words[-1].append(position)
  return words


def _word_start(example, m, position):
  return next(word[0] for word in _words(example, m) if position in word)


def _ranked(units, key):
  return sorted(units, key=lambda unit: (_word(key, unit[0]) >> 24, unit[0]))


def _token_or_word(example, m, key):
  """create_masked_lm_predictions: shuffled units, those that do not fit passed over (BERT)."""
  units = _words(example, m)
  words, specials = len(units), sum(example.special)
  if m.strategy == "token":
    units = [[position] for unit in units for position in unit]
  k = _budget(m, key, len(example.ids), specials)
  units = _ranked(units, key)
  if m.strategy == "whole_word" and m.budget == "stochastic":  # so many words (RoBERTa)
    everything = words if m.mask_specials else words + specials
    units, k = units[: _budget(m, key, everything, specials)], m.max_predictions
  chosen = []
  for unit in units:
    if len(chosen) >= k:
      break
    if len(chosen) + len(unit) <= k:
      chosen.extend(unit)
  return chosen


def _ngram(example, m, key):
  """ALBERT's create_masked_lm_predictions."""
  words = _words(example, m)
  weights = [1 / n for n in range(1, m.max_ngram + 1)]
  weights = weights if m.favor_shorter else weights[::-1]
  k, covered = _budget(m, key, len(example.ids), sum(example.special)), set()
  for word in _ranked(words, key):
    if len(covered) >= k:
      break
    n, index = 1 + _pick(weights, _uniform(key, 2**34 + word[0])), words.index(word)
    while n:
      following = words[index : index + n]
      if not m.join_across_separators:
        following = [w for w in following if not any(example.special[word[0] : w[0]])]
      tokens = [position for w in following for position in w]
      if len(covered) + len(tokens) <= k:
        break
      n -= 1
    if n and not covered & set(tokens):
      covered |= set(tokens)
  return covered


def _pick(weights, u):
  total = 0.0
  for index, weight in enumerate(weights[:-1]):
    total += weight / sum(weights)
    if u < total:
      return index
  return len(weights) - 1


def _spans(example, m, key):
  """SpanBERT's geometric span masking of each block, and its variants with annotated spans."""
  chosen, left = set(), m.max_predictions
  for block in range(1 + max(example.types)):
    columns = [p for p, type_ in enumerate(example.types) if type_ == block]
    tokens = [p for p in columns if not example.special[p]]
    k = min(_budget(m, key, len(columns), len(columns) - len(tokens), block), len(tokens), left)
    chosen |= _spans_of_block(example, tokens, k, m, key, 2**36 + block * 2**32)
    left -= k
  return chosen


def _spans_of_block(example, tokens, k, m, key, counter):
  weights = [m.span_p * (1 - m.span_p) ** (length - 1) for length in range(1, m.max_span + 1)]
  phrases, masked_ = _annotated(example, tokens, _SPANS[m.strategy]), set()
  begins = lambda p: example.starts_word[p] or example.special[p - 1]  # noqa: E731
  for attempt in range(10**6):
    if len(masked_) >= k:
      break
    at = counter + 4 * attempt
    length, anchor = 1 + _pick(weights, _uniform(key, at)), tokens[_below(key, at + 1, len(tokens))]
    if phrases and _uniform(key, at + 2) < m.entity_share:
      walk = phrases[_below(key, at + 3, len(phrases))]
    elif anchor in masked_:
      continue
    else:
      while not begins(anchor):
        anchor -= 1
      walk, words = [anchor], 1
      while not example.special[walk[-1] + 1]:
        words += begins(walk[-1] + 1)
        if words > length:
          break
        walk.append(walk[-1] + 1)
    for position in walk:
      if len(masked_) < k:
        masked_.add(position)
  return masked_


def _annotated(example, tokens, flag):
  phrases = []
  for position in tokens if flag else ():
    if example.flags[position] & flag:
      phrases.append([position])
    elif example.flags[position] & 2 * flag and phrases and phrases[-1][-1] == position - 1:
      phrases[-1].append(position)
  return phrases


_CHOOSE = {
  "token": _token_or_word, "whole_word": _token_or_word, "ngram": _ngram,
  "span": _spans, "entity": _spans, "noun_phrase": _spans,
}  # fmt: skip
