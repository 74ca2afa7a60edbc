"""SpanBERT (Joshi et al. 2020): spans of whole words are masked, and predicted from their boundaries as well.

    python train.py --config=configs/spanbert.py:tiny --workdir=runs/spanbert

`tiny` trains on the corpus that comes with the project, on two CPU cores.
`large` took 15 days on 32 V100s (section 4.3).

Sizes: tiny, base, large. Settings, after the size (section 6):

    masking=span | token | whole_word | entity | noun_phrase    the last two read annotations of the corpus (table 6)
    sequence=single | pairs    one block of a document, or two segments with next-sentence prediction (table 7)
    sbo=on | off               the span boundary objective (table 7)
"""

from configs import common

SIZES = {  # layers, hidden
  "tiny": (2, 128),
  "base": (12, 768),
  "large": (24, 1024),
}
SETTINGS = {
  "masking": ("span", "token", "whole_word", "entity", "noun_phrase"),
  "sequence": ("single", "pairs"),
  "sbo": ("on", "off"),
}


def get_config(variant="tiny"):
  size, chosen = common.parse_variant(variant, SIZES, SETTINGS)
  layers, hidden = SIZES[size]
  config = common.base()
  config.steps = 2_400_000  # section 4.2
  config.batch_size = 256  # section 4.2
  config.data = _data()
  config.model = _model(layers, hidden)
  config.objective = common.objective("spans")
  config.objective.pair = "none"  # section 3.3: one sequence
  config.objective.sbo = 1.0  # section 3.2: equal weights; the code's default of 0 trains none
  config.optimizer = _optimizer()
  if size == "tiny":
    common.shrink(config, steps=3000, lr=1.5e-3)
  _apply(config, chosen)
  return config


def _data():
  data = common.text_data()
  data.lowercase = False  # section 4.2: the cased vocabulary
  data.format = "doc_sentences"  # section 3.3: whole sentences of one document, up to 512
  data.separators = "document"  # one [SEP] at the end
  data.long_sentences = "skip"  # released code
  data.masking = "span"  # section 3.1
  data.mask_rate = 0.15  # section 3.1
  data.mask_budget = "ceil"  # released code: of the block without [CLS] and [SEP]
  data.replace_by = "span"  # section 3.1: a span is masked, random or kept as a whole
  data.random_tokens = "unigram"  # released code: tokens of the corpus
  data.static_masks = False  # section 4.2: new masks at every epoch
  data.max_predictions = 77  # ceil(0.15 * 510)
  data.span_p = 0.2  # section 3.1
  data.max_span = 10  # section 3.1: mean 3.8 words
  return data


def _model(layers, hidden):
  model = common.transformer("spanbert", layers, hidden, heads=hidden // 64)
  model.vocab_size = 28_996  # BERT's cased vocabulary
  model.init = "normal"  # released code: not cut
  model.span_positions = 15  # the released command; the code's default is 20
  return model


def _optimizer():
  optimizer = common.optimizer("adamw")
  optimizer.lr = 1e-4  # section 4.2
  optimizer.eps = 1e-8  # section 4.2
  optimizer.bias_correction = True  # fairseq's Adam
  optimizer.eps_hat = True  # fairseq's Adam
  optimizer.weight_decay = 0.1  # section 4.2; the released command says 0.01
  optimizer.decay_exclude = ()  # released code decays every parameter
  optimizer.warmup_steps = 10_000  # section 4.2
  optimizer.schedule = "bert"  # released code: the decay does not know of the warm-up
  return optimizer


def _apply(config, chosen):
  """The settings after the size."""
  if chosen.get("sequence") == "pairs":
    config.data.format = "segment_pairs"
    config.data.short_rate = 0.1  # BERT's, as the baseline has
    config.objective.pair = "nsp"
  masking = chosen.get("masking", "span")
  if masking != "span":
    config.data.masking = masking
    if masking in ("token", "whole_word"):  # no spans: BERT's masks, without the boundary term
      config.data.replace_by = "piece"
      config.data.mask_budget = "round"
  if chosen.get("sbo") == "off" or masking in ("token", "whole_word"):
    config.objective.sbo = 0.0
