"""BERT (Devlin et al. 2019): masked tokens and next-sentence prediction.

    python train.py --config=configs/bert.py:tiny --workdir=runs/bert

`tiny` trains on the corpus that comes with the project, on two CPU cores.
`base` took 4 days on 16 TPU chips and `large` 4 days on 64 (section A.2); GLUE test averages 79.6 and 82.1 (table 1).

Sizes: tiny, mini, small, medium, base, large, base_cased, large_cased, and the 24 compact models of Turc et al. 2019 as
l2_h128 ... l12_h768. Settings, after the size:

    format=segment_pairs | full_sentences | doc_sentences    the last two have no pairs (RoBERTa, table 2)
    masking=token | whole_word    80/10/10 is drawn per piece either way
    masks=static | dynamic        masks drawn with the examples, or anew at every epoch
    pair=nsp | none               with next-sentence prediction or without (table 5)
    length=N                      one length throughout, in place of 128 then 512
"""

from configs import common

COMPACT = {f"l{n}_h{hidden}": (n, hidden) for n in (2, 4, 6, 8, 10, 12) for hidden in (128, 256, 512, 768)}
SIZES = {  # layers, hidden
  "tiny": (2, 128),
  "mini": (4, 256),
  "small": (4, 512),
  "medium": (8, 512),
  "base": (12, 768),
  "large": (24, 1024),
  "base_cased": (12, 768),
  "large_cased": (24, 1024),
  **COMPACT,
}
SETTINGS = {
  "format": ("segment_pairs", "full_sentences", "doc_sentences"),
  "masking": ("token", "whole_word"),
  "masks": ("static", "dynamic"),
  "pair": ("nsp", "none"),
  "length": int,
}


def get_config(variant="tiny"):
  size, chosen = common.parse_variant(variant, SIZES, SETTINGS)
  layers, hidden = SIZES[size]
  config = common.base()
  config.steps = 1_000_000  # section A.2: about 40 epochs of 3.3 billion words
  config.batch_size = 256  # section A.2
  config.stages = (  # section A.2: length 128 for 90 % of the steps, 512 for the rest to learn the late positions
    {"steps": 900_000, "length": 128, "max_predictions": 20},
    {"steps": 100_000, "length": 512, "max_predictions": 77},
  )
  config.data = _data()
  config.model = _model(layers, hidden)
  config.objective = _objective()
  config.optimizer = _optimizer()
  if size.endswith("_cased"):
    config.data.lowercase = False
    config.model.vocab_size = 28_996  # the released cased vocabulary
  if size == "tiny":
    common.shrink(config, steps=7000, lr=1.5e-3)
  _apply(config, chosen)
  return config


def _data():
  data = common.text_data()
  data.lowercase = True  # the uncased models; accents go too
  data.format = "segment_pairs"  # section A.2: two spans of text, of several sentences each
  data.passes = 10  # dupe_factor: times the corpus is cut into examples anew
  data.short_rate = 0.1  # share of documents cut into short examples (short_seq_prob)
  data.short_by = "document"  # as published: a whole document becomes short together
  data.same_document_negatives = True  # as published: after ten tries a random next segment may be of its own document
  data.singles_are_negatives = True  # as published: chunks of one sentence count as random, so more than half do
  data.separators = "sentence"  # formats without pairs: [SEP] after each sentence (RoBERTa's code)
  data.masking = "token"  # section A.1: single pieces
  data.mask_rate = 0.15  # section 3.1
  data.mask_budget = "round"  # create_pretraining_data.py: of all tokens, [CLS] and [SEP] counted
  data.mask_share = 0.8  # section 3.1: [MASK] in 80 % of them
  data.random_share = 0.1  # section 3.1: a random token in 10 %, the token itself in the last 10 %
  data.replace_by = "piece"  # as published, for whole words too
  data.random_tokens = "uniform"  # as published: over the whole vocabulary, special tokens included
  data.join_across_separators = True  # as published
  data.static_masks = True  # as published: masks are drawn with the examples, not anew at every epoch
  data.static_copies = 10  # one mask for each of dupe_factor's passes
  data.max_predictions = 77  # round(0.15 * 512); max_predictions_per_seq
  return data


def _model(layers, hidden):
  model = common.transformer("bert", layers, hidden, heads=hidden // 64)  # heads of 64 in every size
  model.vocab_size = 30_522  # the released uncased vocabulary; section 3 rounds it to 30,000
  model.dropout = 0.1  # section A.2, on all layers
  model.attention_dropout = 0.1  # released bert_config.json
  model.activation = "gelu"  # exact erf form, as first released; the TensorFlow code moved to tanh in February 2019
  model.norm_eps = 1e-12  # TensorFlow's layer norm
  model.init = "truncated_normal"  # modeling.py
  return model


def _objective():
  objective = common.objective("masked")
  objective.pair = "nsp"  # section 3.1, task 2
  return objective


def _optimizer():
  optimizer = common.optimizer("adamw")
  optimizer.lr = 1e-4  # section A.2
  optimizer.b1 = 0.9  # section A.2
  optimizer.b2 = 0.999  # section A.2
  optimizer.eps = 1e-6  # optimization.py
  optimizer.bias_correction = False  # as published; warm-up hides it in pretraining
  optimizer.weight_decay = 0.01  # section A.2
  optimizer.decay_exclude = ("norm/", "bias$")  # optimization.py: LayerNorm, layer_norm, bias
  optimizer.warmup_steps = 10_000  # section A.2
  optimizer.schedule = "bert"  # optimization.py: the decay counts from step 0, so the rate drops by 1 % after warm-up
  optimizer.clip = 1.0  # optimization.py: global norm
  return optimizer


def _apply(config, chosen):
  """The settings after the size."""
  if "length" in chosen:
    config.stages = ()
    config.data.length = chosen["length"]
    config.data.max_predictions = max(1, round(config.data.mask_rate * chosen["length"]))
  if "format" in chosen:
    config.data.format = chosen["format"]
    if chosen["format"] != "segment_pairs":
      config.objective.pair = "none"
  if "masking" in chosen:
    config.data.masking = chosen["masking"]
  if "masks" in chosen:
    config.data.static_masks = chosen["masks"] == "static"
  if "pair" in chosen:
    config.objective.pair = chosen["pair"]
