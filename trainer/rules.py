"""What the value of a config key may be. Types come from the recipe."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Collection
from typing import Any


class ConfigError(ValueError):
  """A config that cannot run; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Rule:
  """A test of one value, and what to say when it fails."""

  want: str
  holds: Callable[[Any], bool]
  choices: tuple[str, ...] = ()


def nearest(name: str, names: Collection[str]) -> str:
  """The one of `names` that looks most like `name`, as a whole and by its last part, spelled out or shortened."""
  last = name.split(".")[-1]

  def likeness(other: str) -> float:
    end = other.split(".")[-1]
    parts = 0.8 if _shortens(end, last) or _shortens(last, end) else 0.0
    return _ratio(name, other) + max(_ratio(last, end), parts)

  return max(names, key=likeness)


def _ratio(one: str, other: str) -> float:
  return difflib.SequenceMatcher(None, one, other).ratio()


def _shortens(short: str, long: str) -> bool:
  """Whether `short` is the first letters of the words of `long` (lr, wd)."""
  return short == "".join(word[:1] for word in long.split("_")) != ""


def _one_of(*names: str) -> Rule:
  return Rule(f"one of {', '.join(names)}", lambda value: value in names, names)


def _number(low: float, want: str, high: float = math.inf, open_low: bool = False, open_high: bool = False) -> Rule:
  def holds(value: float) -> bool:
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    return math.isfinite(value) and above and below

  return Rule(want, holds)


def _is_regex(pattern: Any) -> bool:
  try:
    re.compile(pattern)
  except (re.error, TypeError):
    return False
  return True


def _is_language(value: str) -> bool:
  return re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]+)*", value) is not None


def _is_loss_scale(value: str) -> bool:
  if value in ("mean", "sum"):
    return True
  try:
    return math.isfinite(float(value)) and float(value) > 0
  except ValueError:
    return False


def _is_pairs(value: tuple) -> bool:
  return all(isinstance(p, tuple) and len(p) == 2 and all(isinstance(end, str) for end in p) for p in value)


def _is_filters(value: tuple) -> bool:
  return value != () and all(
    isinstance(p, tuple) and len(p) == 2 and all(type(n) is int and n > 0 for n in p) for p in value
  )


def _is_mixture(value: str) -> bool:
  return value in ("learned", "equal", "top", "first") or value.isdecimal()


def _is_freeze(value: str) -> bool:
  return value in ("", "embeddings", "encoder") or value.isdecimal() and int(value) > 0


_COUNT = _number(1, "a whole number of at least 1")
_SHARE = _number(0, "a share from 0 to 1", high=1)
_BELOW_ONE = _number(0, "a number from 0 to below 1", high=1, open_high=True)
_POSITIVE = _number(0, "a finite number above 0", open_low=True)
_NOT_NEGATIVE = _number(0, "a finite number of at least 0")
_WHOLE = _number(0, "a whole number of at least 0")
_PATTERNS = Rule("regular expressions", lambda value: all(map(_is_regex, value)))

FORMATS = (
  "segment_pairs", "sentence_pairs", "electra_segments", "full_sentences", "doc_sentences", "entity_sentences",
)  # fmt: skip

ACTIVATIONS = (("gelu", "gelu_tanh", "relu"), ("relu", "tanh"))  # of transformers; of ELMo's convolutions

# Key pattern -> rule, first match; a number without a rule must be finite and not negative.
RULES: tuple[tuple[str, Rule], ...] = (
  (r"seed", _number(0, "a whole number from 0 to 2147483647", high=2**31 - 1)),
  (r"steps|batch_size|micro_batches|(eval|save|log)_every|keep_checkpoints|max_skips", _COUNT),
  (r"dtype", _one_of("float32", "bfloat16")),
  (r"init_map", Rule("pairs of parameter paths, (('there', 'here'),)", _is_pairs)),
  (r"mesh\.data", Rule("-1 (all devices) or a whole number of at least 1", lambda value: value == -1 or value >= 1)),
  (r"mesh\.model", _COUNT),
  (r"mesh\.shard_params", _one_of("none", "optimizer", "all")),
  (r"data\.length|stages\.\d+\.length", _number(8, "a whole number from 8 to 65535", high=65535)),
  (r"data\.pack", _number(1, "a whole number from 1 to 255", high=255)),
  (r"data\.(passes|static_copies|max_predictions|prefetch|max_ngram|max_span)", _COUNT),
  (r"data\.(max_entities|max_mention|min_sentence)", _COUNT),
  (r"data\.(groups|distinct_words)", _COUNT),
  (r"data\.(entity_)?mask_rate", _number(0, "a rate above 0, at most 1", high=1, open_low=True)),
  (r"data\.holdout", _BELOW_ONE),
  (r"data\.\w+_(rate|share)", _SHARE),
  (r"data\.tokenizer_type", _one_of("wordpiece", "bytebpe", "sentencepiece", "words")),
  (r"data\.format", _one_of(*FORMATS)),
  (r"data\.long_sentences", _one_of("split", "skip")),
  (r"data\.short_by", _one_of("document", "example")),
  (r"data\.separators", _one_of("sentence", "document")),
  (r"data\.words", _one_of("pieces", "text", "marks", "space")),
  (r"data\.unknown_entities", _one_of("keep", "drop")),
  (r"data\.entity_pages", _one_of("existing", "linked")),
  (r"data\.source", Rule("the name of a corpus", lambda value: bool(value.strip()))),
  (r"data\.language", Rule("a language code in lower case such as en", _is_language)),
  (r"data\.masking", _one_of("token", "whole_word", "ngram", "span", "entity", "noun_phrase")),
  (r"data\.mask_budget", _one_of("round", "stochastic", "ceil", "text")),
  (r"data\.replace_by", _one_of("piece", "word", "span")),
  (r"data\.random_tokens", _one_of("uniform", "no_specials", "above_pad", "unigram")),
  (r"data\.span_p", _number(0, "a probability above 0, below 1", high=1, open_low=True, open_high=True)),
  (r"model\.vocab_size", _number(8, "a whole number of at least 8")),
  (r"model\.entity_vocab_size", _number(3, "a whole number of at least 3: [PAD], [UNK] and [MASK]")),
  (r"model\.entity_embedding", _COUNT),
  (r"model\.query_kinds", Rule("1 or 4", lambda value: value in (1, 4))),
  (r"model\.attention", _one_of("auto", "dense", "doubled", "merged")),
  (r"model\.types", _WHOLE),
  (r"model\.(generator_)?(layers|hidden|heads|ffn)", _COUNT),
  (r"model\.(max_positions|unroll|embedding|groups|inner|span_positions)", _COUNT),
  (r"model\.(cell|projection|char_embedding)", _COUNT),
  (r"model\.(cell|projection)_clip", _POSITIVE),
  (r"model\.characters", _number(3, "a whole number of at least 3: begin of a word, a character, end")),
  (r"model\.filters", Rule("pairs of whole numbers above 0, ((width, filters),)", _is_filters)),
  (r"model\.input", _one_of("characters", "words")),
  (r"model\.share", _one_of("all", "attention", "ffn", "none")),
  (r"model\.tie", _one_of("embeddings", "all", "none")),
  (r"model\.(\w+_)?dropout", _BELOW_ONE),
  (r"model\.activation", _one_of("gelu", "gelu_tanh", "relu", "tanh")),
  (r"model\.(norm_eps|init_std)", _POSITIVE),
  (r"model\.init", _one_of("truncated_normal", "normal")),
  (r"model\.remat", _one_of("none", "dots", "full")),
  (r"objective\.pair", _one_of("nsp", "sop", "none")),
  (r"objective\.generator", _one_of("mlm", "uniform", "unigram", "electric")),
  (r"objective\.target", _one_of("all_tokens", "masked", "replace_mlm", "all_tokens_mlm")),
  (r"objective\.sample", _one_of("softmax", "argmax")),
  (r"objective\.temperature", _POSITIVE),
  (r"objective\.softmax", _one_of("sampled", "full")),
  (r"objective\.negatives", _COUNT),
  (r"objective\.reset", _one_of("never", "window")),
  (r"objective\.loss_scale", Rule("mean, sum or a number above 0", _is_loss_scale)),
  (r"optimizer\.name", _one_of("adagrad", "adamw", "lamb", "sgd")),
  (r"optimizer\.(lr|eps|accumulator)", _POSITIVE),
  (r"optimizer\.b[12]", _BELOW_ONE),
  (r"optimizer\.schedule", _one_of("bert", "linear", "electra", "constant")),
  (r"optimizer\.decay_exclude|stages\.\d+\.freeze", _PATTERNS),
  (r"stages\.\d+\.(steps|batch_size|max_predictions)", _COUNT),
  (r"stages\.\d+\.lr", _POSITIVE),
)


# The same of keys that recipes for fine-tuning have and others do not.
TASK_RULES: tuple[tuple[str, Rule], ...] = (
  (r"task\.epochs", _COUNT),
  (r"task\.dev_share", _BELOW_ONE),
  (r"task\.warmup", _SHARE),
  (r"task\.queries", Rule("0, 1 or 4", lambda value: value in (0, 1, 4))),
  (r"task\.offsets", _one_of("exact", "nearest")),
  (r"task\.head", Rule("tag, or empty for that of the task", lambda value: value in ("", "tag"))),
  (r"task\.freeze", Rule("empty, embeddings, encoder or a number of layers of at least 1", _is_freeze)),
  (r"optimizer\.layer_decay", _number(0, "a factor above 0, at most 1", high=1, open_low=True)),
  (r"optimizer\.layer_decay_top", _COUNT),
  (r"objective\.(target_)?scale", _POSITIVE),
)

# The same of keys that only recipes of tasks on ELMo have.
WORD_TASK_RULES: tuple[tuple[str, Rule], ...] = (
  (r"task\.bilm", _one_of("frozen", "tuned")),
  (r"task\.word_vectors", _one_of("none", "tuned", "frozen")),
  (r"model\.place", _one_of("none", "input", "output", "both")),
  (r"model\.mixture", Rule("learned, equal, top, first or the number of a layer", _is_mixture)),
  (r"model\.encoder", _one_of("lstm", "none")),
  (r"model\.bilm\.vocab_size", _WHOLE),  # published files have no softmax
)


def check_value(key: str, value: Any) -> None:
  """Holds one value of the right type against its rule; raises ConfigError. A part of a model has the model's rules."""
  rules = (*WORD_TASK_RULES, *RULES, *TASK_RULES)
  known = [rule for name in (key, key.replace("model.bilm.", "model.")) for p, rule in rules if re.fullmatch(p, name)]
  rule = known[0] if known else None
  if rule is None and isinstance(value, int | float):
    rule = _WHOLE if isinstance(value, int) else _NOT_NEGATIVE
  if rule is not None and not rule.holds(value):
    hint = f"; did you mean {nearest(value, rule.choices)}?" if rule.choices else ""
    raise ConfigError(f"config key {key}: got {value!r}, want {rule.want}{hint}")
