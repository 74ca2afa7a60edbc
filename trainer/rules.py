"""What the value of a config key may be, and which values contradict each other. Types come from the recipe."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from ml_collections import ConfigDict


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
)


def check_value(key: str, value: Any) -> None:
  """Holds one value of the right type against its rule; raises ConfigError."""
  rule = next((rule for pattern, rule in (*RULES, *TASK_RULES) if re.fullmatch(pattern, key)), None)
  if rule is None and isinstance(value, int | float):
    rule = _WHOLE if isinstance(value, int) else _NOT_NEGATIVE
  if rule is not None and not rule.holds(value):
    hint = f"; did you mean {nearest(value, rule.choices)}?" if rule.choices else ""
    raise ConfigError(f"config key {key}: got {value!r}, want {rule.want}{hint}")


def contradictions(config: ConfigDict, stages: tuple) -> Iterator[str]:
  """One line for each pair of keys that cannot both stand. Keys that a recipe does not have contradict nothing."""
  yield from _model_contradictions(config)
  yield from _electra_contradictions(config)
  yield from _data_contradictions(config)
  yield from _stream_contradictions(config, stages)
  for number, stage in enumerate(stages):
    where = f"stages.{number}." if config.stages else ""
    yield from _stage_contradictions(config, stage, where)
  total = sum(stage.steps for stage in stages)
  if total != config.steps:
    yield (
      f"steps is {config.steps}, but stages add up to {total}; set --config.steps={total}, "
      "--config.stages.0.steps=N or --config.stages='()'"
    )
  if config.optimizer.warmup_steps > config.steps:
    yield (
      f"optimizer.warmup_steps is {config.optimizer.warmup_steps}, want at most steps = {config.steps}; "
      "set --config.optimizer.warmup_steps=N"
    )


def _model_contradictions(config: ConfigDict) -> Iterator[str]:
  model = config.model
  if "activation" in model and model.activation not in (known := ACTIVATIONS[model.name == "elmo"]):
    yield f"model.activation is {model.activation}, want {' or '.join(known)} of model.name {model.name}"
  for prefix in ("", "generator_"):
    heads, hidden = f"{prefix}heads", f"{prefix}hidden"
    if heads in model and model[hidden] % model[heads]:
      yield f"model.{hidden} is {model[hidden]}, want a multiple of model.{heads} = {model[heads]}"
  if "groups" in model and model.groups > model.layers:
    yield f"model.groups is {model.groups}, want at most model.layers = {model.layers}"


def _electra_contradictions(config: ConfigDict) -> Iterator[str]:
  model, objective = config.model, config.objective
  if "tie" not in model:
    return
  kind = objective.generator
  towers, learns = kind == "electric", kind in ("mlm", "electric")
  sizes = [name for name in ("layers", "hidden", "heads", "ffn") if model[f"generator_{name}"] != model[name]]
  if learns and model.tie == "all" and sizes:
    name = sizes[0]
    yield (
      f"model.generator_{name} is {model[f'generator_{name}']}, want model.{name} = {model[name]} with model.tie=all: "
      "one network has one size"
    )
  problems = (
    (towers and model.tie == "all", "model.tie is all, want embeddings or none"),
    (towers and objective.target != "all_tokens", f"objective.target is {objective.target}, want all_tokens"),
    (objective.adversarial and kind != "mlm", "objective.adversarial is True, want False"),
    (objective.sample == "argmax" and not learns, "objective.sample is argmax, want softmax"),
  )
  for wrong, text in problems:
    if wrong:
      yield f"{text} with objective.generator={kind}"
  if objective.adversarial and objective.target not in ("all_tokens", "masked"):
    yield f"objective.target is {objective.target}, want all_tokens or masked with objective.adversarial=True"


def _data_contradictions(config: ConfigDict) -> Iterator[str]:
  data = config.data
  if "tokenizer_type" in data and data.tokenizer_type in ("bytebpe", "words") and data.lowercase:
    yield f"data.lowercase is True, but data.tokenizer_type is {data.tokenizer_type}; set --config.data.lowercase=False"
  if config.objective.name == "entities" and data.format != "entity_sentences":
    yield f"data.format is {data.format}, want entity_sentences: others have no entities to predict"
  if "entity_mask_rate" not in data and "format" in data and data.format == "entity_sentences":
    yield f"data.format is entity_sentences, but objective.name {config.objective.name} predicts no entities"
  if "mask_share" in data and data.mask_share + data.random_share > 1 + 1e-9:
    yield f"data.mask_share + data.random_share is {data.mask_share + data.random_share:g}, want at most 1"
  if "sbo" in config.objective and config.objective.sbo > 0 and data.masking in ("token", "whole_word", "ngram"):
    yield (
      f"objective.sbo is {config.objective.sbo:g}, but data.masking {data.masking} has no spans; "
      "set --config.objective.sbo=0 or --config.data.masking=span"
    )
  if "pair" in config.objective and config.objective.pair != "none":
    if not data.format.endswith("_pairs"):
      yield (
        f"objective.pair is {config.objective.pair}, but data.format {data.format} has no pairs; "
        "set --config.objective.pair=none"
      )
    if config.objective.pair == "sop" and data.format != "segment_pairs":
      yield f"objective.pair is sop, but data.format is {data.format}; set --config.data.format=segment_pairs"
    if config.model.types < 2:
      yield f"model.types is {config.model.types}, want at least 2 with objective.pair = {config.objective.pair}"


def _stream_contradictions(config: ConfigDict, stages: tuple) -> Iterator[str]:
  data, model, objective = config.data, config.model, config.objective
  if objective.name != "language":
    return
  if data.tokenizer_type != "words" or data.words not in ("marks", "space"):
    yield (
      f"data.tokenizer_type is {data.tokenizer_type} and data.words {data.words}, want words, and marks or space: "
      "streams are of whole words"
    )
  if objective.softmax == "sampled" and objective.negatives >= model.vocab_size:
    yield (
      f"objective.negatives is {objective.negatives}, want below model.vocab_size = {model.vocab_size}; "
      "or set --config.objective.softmax=full"
    )
  if model.input == "characters" and max(width for width, _ in model.filters) > model.characters:
    yield f"model.filters is {model.filters}, want widths of at most model.characters = {model.characters}"
  if len({stage.batch_size for stage in stages}) > 1:
    yield "stages: want one batch_size: a row goes on from batch to batch"
  for rows in {stage.batch_size for stage in stages}:
    if rows % (data.groups * config.micro_batches):
      yield (
        f"batch_size is {rows}, want a multiple of data.groups x micro_batches = {data.groups} x {config.micro_batches}"
      )


def _stage_contradictions(config: ConfigDict, stage: Any, where: str) -> Iterator[str]:
  parts = config.micro_batches
  rows = 0 if "task" in config else stage.batch_size  # batches of tasks are filled up with rows of padding
  if stage.lr and stage.warmup_steps > stage.steps:
    yield f"{where}warmup_steps is {stage.warmup_steps}, want at most {where}steps = {stage.steps}"
  length = f"{where}length" if where else "data.length"
  if rows % parts:
    yield f"{where}batch_size is {rows}, want a multiple of micro_batches = {parts}"
  elif config.mesh.data > 1 and rows // parts % config.mesh.data:
    yield f"{where}batch_size is {rows}, want a multiple of micro_batches x mesh.data = {parts} x {config.mesh.data}"
  if "max_positions" in config.model and stage.length > config.model.max_positions:
    yield f"{length} is {stage.length}, want at most model.max_positions = {config.model.max_positions}"
  if stage.max_predictions > stage.length:
    key = f"{where}max_predictions" if where else "data.max_predictions"
    yield f"{key} is {stage.max_predictions}, want at most {length} = {stage.length}"
