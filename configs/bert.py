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

from ml_collections import ConfigDict

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
    _shrink(config)
  _apply(config, chosen)
  return config


def _data():
  data = ConfigDict()
  data.source = "demo"  # 106 Wikipedia articles; or a file, a folder, tfds:NAME, a mixture (data/sources.py)
  data.dir = ""  # prepared corpus; empty = WORKDIR/data, prepared there when it is missing
  data.language = "en"  # of the text; picks the rules that split sentences
  data.holdout = 0.01  # share of documents kept for evaluation
  data.tokenizer = ""  # folder or vocabulary file; empty = train WordPiece on the corpus
  data.lowercase = True  # the uncased models; accents go too
  data.words = "pieces"  # words start where ## does not stand, as in create_pretraining_data.py; or "text"
  data.length = 512  # where the stages do not say
  data.format = "segment_pairs"  # section A.2: two spans of text, of several sentences each
  data.pack = 1  # examples of one row at most; 1 = each row holds one, as published
  data.passes = 10  # dupe_factor: times the corpus is cut into examples anew
  data.short_rate = 0.1  # share of documents cut into short examples (short_seq_prob)
  data.short_by = "document"  # as published: a whole document becomes short together; or "example"
  data.same_document_negatives = True  # as published: after ten tries a random next segment may be of its own document
  data.singles_are_negatives = True  # as published: chunks of one sentence count as random, so more than half do
  data.separators = "sentence"  # formats without pairs: [SEP] after each sentence (RoBERTa's code), or "document"
  data.masking = "token"  # section A.1: single pieces
  data.join_across_separators = True  # as published: a word may run on from segment A into a B that begins inside one
  data.static_masks = True  # as published: masks are drawn with the examples, not anew at every epoch
  data.static_copies = 10  # one mask for each of dupe_factor's passes
  data.mask_rate = 0.15  # section 3.1
  data.mask_share = 0.8  # section 3.1: [MASK] in 80 % of them
  data.random_share = 0.1  # section 3.1: a random token in 10 %, the token itself in the last 10 %
  data.max_predictions = 77  # round(0.15 * 512); max_predictions_per_seq
  data.workers = 0  # processes that prepare the corpus, threads that make batches; nothing depends on them; 0 = one
  data.prefetch = 4  # batches made ahead of the step
  return data


def _model(layers, hidden):
  model = ConfigDict()
  model.name = "bert"
  model.vocab_size = 30_522  # the released uncased vocabulary; section 3 rounds it to 30,000
  model.layers = layers
  model.hidden = hidden
  model.heads = hidden // 64  # 64 in every size
  model.ffn = 4 * hidden  # section 3
  model.max_positions = 512
  model.types = 2  # segments A and B
  model.dropout = 0.1  # section A.2, on all layers
  model.attention_dropout = 0.1  # released bert_config.json
  model.activation = "gelu"  # exact erf form, as first released; the TensorFlow code moved to tanh in February 2019
  model.norm_eps = 1e-12  # TensorFlow's layer norm
  model.init = "truncated_normal"  # cut at two sigma, as in modeling.py; or "normal"
  model.init_std = 0.02
  model.remat = "none"  # base and large fit without; none | dots | full
  model.unroll = 1  # layers in one turn of the scan; more compiles longer and runs a little faster
  return model


def _objective():
  objective = ConfigDict()
  objective.name = "masked"
  objective.pair = "nsp"  # section 3.1, task 2
  objective.loss_scale = "mean"  # mean | sum | a number; before the clip
  return objective


def _optimizer():
  optimizer = ConfigDict()
  optimizer.name = "adamw"
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


def _shrink(config):
  """The demo: the smallest compact model, for minutes on two CPU cores."""
  config.dtype = "float32"  # CPUs have no fast bfloat16
  config.steps = 7000
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
  config.optimizer.lr = 1.5e-3  # small models learn faster
  config.optimizer.warmup_steps = 400


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
