"""RoBERTa (Liu et al. 2019): masked tokens alone, in full sentences, with large batches.

    python train.py --config=configs/roberta.py:tiny --workdir=runs/roberta

`tiny` trains on the corpus that comes with the project, on two CPU cores.
`large` took 100,000 steps a day on 1,024 V100s (section 5); `base_2k` is the recipe of the released code's README.

Sizes: tiny, base, base_2k, large. Settings, after the size (table 2 and section 4):

    format=full_sentences | doc_sentences | segment_pairs | sentence_pairs    pairs train next-sentence prediction
    masks=dynamic | static        a new mask at every epoch, or 10 per example
    masking=token | whole_word    whole words are an option of the released code, not of the released models
    batch=256 | 2048 | 8192       table 3's batch sizes with their steps and rates, at equal passes over the data

Batches are as large as published: set micro_batches to what memory needs. batch_size is the same in every format; the
paper grows it where rows are short, until tokens per batch match. Mixtures: data.source='0.1*books/+0.9*news.jsonl'.
"""

from configs import common

SIZES = {  # layers, hidden
  "tiny": (2, 128),
  "base": (12, 768),
  "base_2k": (12, 768),
  "large": (24, 1024),
}
BATCHES = {"256": (1_000_000, 1e-4), "2048": (125_000, 7e-4), "8192": (31_000, 1e-3)}  # table 3: steps, rate
SETTINGS = {
  "format": ("full_sentences", "doc_sentences", "segment_pairs", "sentence_pairs"),
  "masks": ("dynamic", "static"),
  "masking": ("token", "whole_word"),
  "batch": tuple(BATCHES),
}


def get_config(variant="tiny"):
  size, chosen = common.parse_variant(variant, SIZES, SETTINGS)
  layers, hidden = SIZES[size]
  config = common.base()
  config.steps = 500_000  # table 9
  config.batch_size = 8192  # table 9: 8K sequences
  config.data = _data()
  config.model = _model(layers, hidden)
  config.objective = common.objective("masked")
  config.objective.pair = "none"  # section 4.2: without next-sentence prediction
  config.optimizer = _optimizer()
  if size == "large":
    config.optimizer.lr = 4e-4  # table 9
    config.optimizer.warmup_steps = 30_000  # table 9
  if size == "base_2k":
    config.steps, config.batch_size = 125_000, 2048  # README.pretraining.md
    config.optimizer.lr, config.optimizer.warmup_steps = 5e-4, 10_000  # README.pretraining.md
  if size == "tiny":
    common.shrink(config, steps=3000, lr=1.5e-3)
  _apply(config, chosen)
  return config


def _data():
  data = common.text_data()
  data.tokenizer_type = "bytebpe"  # section 4.4
  data.format = "full_sentences"  # section 4.2; full length from the first step
  data.separators = "sentence"  # fairseq: </s> after every sentence, one more between documents
  data.masking = "token"
  data.mask_rate = 0.15
  data.mask_budget = "stochastic"  # mask_tokens_dataset.py: floor(0.15 T + u)
  data.mask_specials = True  # mask_tokens_dataset.py: <s> and </s> are chosen like any token
  data.random_tokens = "no_specials"  # mask_tokens_dataset.py: all but the first four ids
  data.static_masks = False  # section 4.1: dynamic
  data.static_copies = 10  # section 4.1: the static baseline's
  data.max_predictions = 77  # the most that floor(0.15 * 512 + u) gives
  return data


def _model(layers, hidden):
  model = common.transformer("roberta", layers, hidden, heads=hidden // 64)
  model.vocab_size = 50_265  # the released dictionary: GPT-2's bytes and merges, special tokens, padding to 8
  model.types = 0  # the model has none
  model.norm_eps = 1e-5  # PyTorch's layer norm
  model.init = "normal"  # fairseq's init_bert_params: not cut
  return model


def _optimizer():
  optimizer = common.optimizer("adamw")
  optimizer.lr = 6e-4  # table 9, base
  optimizer.b2 = 0.98  # table 9: stability at large batches
  optimizer.eps = 1e-6  # table 9
  optimizer.bias_correction = True  # fairseq's Adam
  optimizer.eps_hat = True  # fairseq's Adam
  optimizer.weight_decay = 0.01  # table 9
  optimizer.decay_exclude = ()  # fairseq decays every parameter
  optimizer.warmup_steps = 24_000  # table 9, base
  optimizer.schedule = "linear"  # table 9; from exactly the peak, no jump
  optimizer.clip = 0.0  # table 9
  return optimizer


def _apply(config, chosen):
  """The settings after the size."""
  if "format" in chosen:
    config.data.format = chosen["format"]
    if chosen["format"].endswith("_pairs"):
      config.objective.pair = "nsp"
      config.model.types = 2  # BERT's, as table 2 compares
  if "masks" in chosen:
    config.data.static_masks = chosen["masks"] == "static"
  if chosen.get("masking") == "whole_word":
    config.data.masking = "whole_word"
    config.data.replace_by = "word"  # mask_tokens_dataset.py: one draw a word
  if "batch" in chosen:
    config.batch_size = int(chosen["batch"])
    config.steps, config.optimizer.lr = BATCHES[chosen["batch"]]
    config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, config.steps // 20)  # not published: 5 %
