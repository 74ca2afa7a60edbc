"""ALBERT (Lan et al. 2020): factorised embeddings, shared layers, sentence order, n-gram masks, LAMB.

    python train.py --config=configs/albert.py:tiny --workdir=runs/albert

`tiny` trains on the corpus that comes with the project, on two CPU cores.

Sizes: tiny, base, large, xlarge, xxlarge. Settings, after the size:

    share=all | attention | ffn | none    which sublayers are one for all layers (table 4)
    groups=N                  groups of layers that share; 1 = all (num_hidden_groups)
    inner=N                   blocks that every layer runs in order (inner_group_num)
    embedding=N               width of the tables (table 3: 64, 128, 256, 768)
    pair=sop | nsp | none     sentence order, next sentence, or neither (table 5)
    masking=ngram | whole_word | token
    optimizer=lamb | adamw
    release=v1 | v2           v2 has no dropout; its data and steps are in the released code's README
"""

from configs import common

SIZES = {  # layers, hidden, heads
  "tiny": (2, 128, 2),
  "base": (12, 768, 12),
  "large": (24, 1024, 16),
  "xlarge": (24, 2048, 16),  # the hub's; the downloaded config.json says 32, the rule of 64 a head too
  "xxlarge": (12, 4096, 64),
}
SETTINGS = {
  "share": ("all", "attention", "ffn", "none"),
  "groups": int,
  "inner": int,
  "embedding": int,
  "pair": ("sop", "nsp", "none"),
  "masking": ("ngram", "whole_word", "token"),
  "optimizer": ("lamb", "adamw"),
  "release": ("v1", "v2"),
}


def get_config(variant="tiny"):
  size, chosen = common.parse_variant(variant, SIZES, SETTINGS)
  config = common.base()
  config.steps = 125_000  # section 4.1
  config.batch_size = 4096  # section 4.1
  config.data = _data()
  config.model = _model(*SIZES[size])
  config.objective = common.objective("masked")
  config.objective.pair = "sop"  # section 3.1
  config.optimizer = _optimizer()
  if size == "xxlarge":
    config.model.dropout = config.model.attention_dropout = 0.0  # section 4.9
  if size == "tiny":
    common.shrink(config, steps=3000, lr=1e-2)
    config.model.embedding = 64  # half of its 128
  _apply(config, chosen)
  return config


def _data():
  data = common.text_data()
  data.tokenizer_type = "sentencepiece"  # section 4.1, as in XLNet
  data.lowercase = True  # the released models
  data.format = "segment_pairs"  # as BERT's
  data.passes = 40  # dupe_factor
  data.short_rate = 0.1  # section 4.1: shorter than the most with probability 10 %
  data.short_by = "document"  # create_pretraining_data.py
  data.same_document_negatives = True  # create_pretraining_data.py
  data.masking = "ngram"  # section 4.1
  data.mask_rate = 0.15  # create_pretraining_data.py
  data.static_masks = True  # masks are drawn with the examples
  data.static_copies = 40  # dupe_factor
  data.max_ngram = 3  # section 4.1: p(n) = (1/n) / sum of 1/k
  data.max_predictions = 77  # 15 % of 512; the script's default of 20 would mask 4 %
  return data


def _model(layers, hidden, heads):
  model = common.transformer("albert", layers, hidden, heads)
  model.vocab_size = 30_000  # section 4.1
  model.embedding = 128  # section 3.1
  model.activation = "gelu_tanh"  # modeling.py; released albert_config.json
  model.share = "all"  # table 1
  model.groups = 1  # released albert_config.json
  model.inner = 1  # released albert_config.json
  return model


def _optimizer():
  optimizer = common.optimizer("lamb")
  optimizer.lr = 0.00176  # section 4.1
  optimizer.eps = 1e-6  # lamb_optimizer.py
  optimizer.weight_decay = 0.01  # optimization.py
  optimizer.warmup_steps = 3125  # released code's README
  optimizer.schedule = "bert"  # optimization.py
  return optimizer


def _apply(config, chosen):
  """The settings after the size."""
  for name in ("share", "groups", "inner", "embedding"):
    if name in chosen:
      config.model[name] = chosen[name]
  if "pair" in chosen:
    config.objective.pair = chosen["pair"]
  if "masking" in chosen:
    config.data.masking = chosen["masking"]
  if chosen.get("optimizer") == "adamw":
    config.optimizer.name = "adamw"
    config.optimizer.lr = 1e-4  # BERT's
  if chosen.get("release") == "v2":
    config.model.dropout = config.model.attention_dropout = 0.0
    config.steps = 3_000_000 if config.model.hidden > 768 else 10_000_000  # README: v2 without dropout, longer
