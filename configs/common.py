"""The keys that every recipe has, and the variant after the colon of `--config=configs/bert.py:base,length=512`."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from ml_collections import ConfigDict


class VariantError(ValueError):
  """A variant that the recipe does not have."""


def base() -> ConfigDict:
  """Keys of every recipe. Zeros and empty strings that a recipe must fill are marked so."""
  config = ConfigDict()
  config.recipe = ""  # the file and variant this came from; the loader fills it
  config.seed = 0
  config.steps = 0  # applied updates; the recipe fills it
  config.batch_size = 0  # rows of one update on all devices together; the recipe fills it
  config.micro_batches = 1  # parts a batch is cut into to save memory; the update stays the same
  config.dtype = "bfloat16"  # of matrix products; parameters, softmax, norms and losses are float32 always
  config.stages = ()  # dicts with steps, and what differs (trainer/config.py): length, freeze, lr and the like

  config.init_from = ""  # run or directory of published weights whose parameters this run starts from
  config.init_map = ()  # pairs (path there, path here) for parameters under another name
  config.resume_from = ""  # run to carry on from in a new workdir: parameters, optimiser and position

  config.eval_every = 10_000
  config.save_every = 10_000
  config.log_every = 100
  config.keep_checkpoints = 3  # newest ones
  config.select_by = ""  # held-out figure whose best checkpoint stays and is what predict.py takes; empty = the newest
  config.max_skips = 10  # updates skipped in a row (something not finite) before the run rolls back
  config.max_rollbacks = 3  # roll-backs before the run gives up

  config.mesh = ConfigDict()
  config.mesh.data = -1  # devices that split the batch; -1 = all that mesh.model leaves
  config.mesh.model = 1  # devices that split heads, feed-forward and vocabulary
  config.mesh.shard_params = "none"  # over mesh.data as well: none | optimizer | all
  return config


def text_data() -> ConfigDict:
  """Keys of every recipe that masks text. Values are the plain choice; recipes set what their model does otherwise."""
  data = ConfigDict()
  data.source = "demo"  # 106 Wikipedia articles; or a file, a folder, tfds:NAME, a mixture (data/sources.py)
  data.dir = ""  # prepared corpus; empty = WORKDIR/data, prepared there when it is missing
  data.language = "en"  # of the text; picks the rules that split sentences
  data.holdout = 0.01  # share of documents kept for evaluation
  data.workers = 0  # processes that prepare the corpus, threads that make batches; nothing depends on them; 0 = one
  data.prefetch = 4  # batches made ahead of the step

  data.tokenizer = ""  # folder or vocabulary file; empty = train one on the corpus
  data.tokenizer_type = "wordpiece"  # what is trained: wordpiece | bytebpe | sentencepiece
  data.lowercase = False
  data.words = "pieces"  # where words start: by the vocabulary's marks, or "text" (Korean, Japanese)

  data.format = "full_sentences"  # data/examples.py
  data.length = 512  # where the stages do not say
  data.pack = 1  # examples of one row at most; 1 = each row holds one
  data.passes = 1  # times the corpus is cut into examples anew
  data.long_sentences = "split"  # sentences that no row can hold: split | skip
  data.separators = "document"  # sentence formats: separator after each "sentence" or between documents
  data.short_rate = 0.0  # segment_pairs: share of documents cut into short examples
  data.short_by = "document"  # a whole document becomes short together; or "example"
  data.same_document_negatives = False  # segment_pairs: a random segment may be of its own document
  data.singles_are_negatives = True  # segment_pairs: chunks of one sentence count as random

  data.masking = "token"  # token | whole_word | ngram | span | entity | noun_phrase
  data.mask_rate = 0.15
  data.max_predictions = 77  # prediction slots of a row of `length`
  data.mask_budget = "round"  # predictions of an example: round | stochastic | ceil (data/masking)
  data.mask_specials = False  # whether separators may be masked
  data.mask_share = 0.8  # of the predictions that show the mask
  data.random_share = 0.1  # that show a random token; the rest shows the token itself
  data.replace_by = "piece"  # what one draw of these shares covers: piece | word | span
  data.random_tokens = "uniform"  # uniform | no_specials | unigram
  data.join_across_separators = True  # a word may run on from segment A into a B that begins inside one
  data.static_masks = False  # masks drawn with the examples, not anew at every epoch
  data.static_copies = 10  # masks of one example, where they are static
  data.max_ngram = 3  # ngram: words masked together
  data.favor_shorter = True  # ngram: p(n) ~ 1 / n; False: the other way round
  data.span_p = 0.2  # span: of the geometric distribution over words
  data.max_span = 10  # span: words
  data.entity_share = 0.5  # entity, noun_phrase: share of spans that are annotated ones
  return data


def transformer(name: str, layers: int, hidden: int, heads: int) -> ConfigDict:
  """Keys of every transformer encoder. Feed-forward 4 D, and everything else as BERT has it."""
  model = ConfigDict()
  model.name = name
  model.vocab_size = 0  # the recipe fills it
  model.layers = layers
  model.hidden = hidden
  model.heads = heads
  model.ffn = 4 * hidden
  model.max_positions = 512
  model.types = 2  # segments A and B
  model.dropout = 0.1
  model.attention_dropout = 0.1
  model.activation = "gelu"  # the exact erf form; or gelu_tanh, relu
  model.norm_eps = 1e-12
  model.init = "truncated_normal"  # cut at two sigma; or "normal"
  model.init_std = 0.02
  model.remat = "none"  # what the backward pass computes again: none | dots | full
  model.unroll = 1  # layers in one turn of the scan; more compiles longer and runs a little faster
  return model


def objective(name: str) -> ConfigDict:
  """Keys of every objective."""
  config = ConfigDict()
  config.name = name
  config.loss_scale = "mean"  # mean | sum | a number; before the clip
  return config


def optimizer(name: str) -> ConfigDict:
  """Keys of every optimiser."""
  config = ConfigDict()
  config.name = name
  config.lr = 0.0  # peak; the recipe fills it
  config.b1 = 0.9
  config.b2 = 0.999
  config.eps = 1e-6
  config.bias_correction = False  # of the moments
  config.eps_hat = False  # eps added before the correction of the moments (with bias_correction)
  config.weight_decay = 0.01
  config.decay_exclude = ("norm/", "bias$")  # layer norms and biases do not decay
  config.warmup_steps = 0  # the recipe fills it
  config.schedule = "bert"  # bert | linear | electra | constant
  config.clip = 1.0  # global norm; 0 = off
  return config


def shrink(config: ConfigDict, steps: int, lr: float) -> None:
  """The demo of a recipe: a small model on the corpus that comes with the project, for minutes on two CPU cores."""
  config.dtype = "float32"  # CPUs have no fast bfloat16
  config.steps = steps
  config.batch_size = 16  # many small updates leave the unigram plateau sooner than few large ones
  config.stages = ()
  config.eval_every = 500
  config.save_every = 500
  config.log_every = 50
  config.data.holdout = 0.05  # the corpus has few documents
  config.data.length = 128
  config.data.max_predictions = 20
  config.model.vocab_size = 8192  # a small corpus fills no more
  config.model.init_std = 0.1  # 128 wide; at 0.02 attention stays uniform for thousands of steps
  config.model.dropout = 0.0  # a model this small does not overfit in minutes
  config.model.attention_dropout = 0.0
  config.model.unroll = 2  # both layers
  config.optimizer.lr = lr  # small models learn faster
  config.optimizer.warmup_steps = 400


def parse_variant(
  text: str, sizes: Collection[str], settings: Mapping[str, tuple[str, ...] | type[int]]
) -> tuple[str, dict[str, str | int]]:
  """Splits `size,name=value,...`.

  Args:
    text: the variant; the size stands first.
    sizes: sizes of the recipe.
    settings: per ablation setting its values, or int for any positive whole number.
  Returns:
    The size, and the settings that were named.
  Raises:
    VariantError: naming what is unknown or given twice, and the nearest that exists.
  """
  size, *pairs = (part.strip() for part in text.split(","))
  if size not in sizes:
    raise VariantError(f"variant {text!r}: unknown size {size!r}; {_nearest(size, sizes)}")
  chosen: dict[str, str | int] = {}
  for pair in pairs:
    name, _, value = pair.partition("=")
    if name not in settings:
      raise VariantError(f"variant {text!r}: unknown setting {name!r}; {_nearest(name, settings)}")
    if name in chosen:
      raise VariantError(f"variant {text!r}: setting {name!r} is given twice")
    values = settings[name]
    if values is int:
      if not value.isdecimal() or int(value) < 1:
        raise VariantError(f"variant {text!r}: {name}={value!r}, want a positive whole number")
      chosen[name] = int(value)
    elif value not in values:
      raise VariantError(f"variant {text!r}: {name}={value!r}; {_nearest(value, values)}")
    else:
      chosen[name] = value
  return size, chosen


def _nearest(name: str, names: Collection[str]) -> str:
  close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
  if close:
    return f"did you mean {' or '.join(close)}?"
  first = [*names][:10]
  return f"want one of {', '.join(first)}{', ...' if len(names) > 10 else ''}"
