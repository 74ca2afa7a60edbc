"""LUKE (Yamada et al. 2020) and mLUKE (Ri et al. 2022): masked words and masked entities, from RoBERTa or XLM-R.

    python train.py --config=configs/luke.py:tiny --workdir=runs/luke
    python train.py --config=configs/luke.py:base --config.init_from=RUN_OR_WEIGHTS_OF_ROBERTA --workdir=runs/luke

`tiny` trains on the corpus that comes with the project, from scratch, on two CPU cores. The released `large` took 30
days on 16 V100s. The first stage trains what is new, the entities, and leaves RoBERTa alone; the second everything.

Sizes: tiny, base, large, mluke_base, mluke_large. Settings, after the size:

    words=whole | piece      whole words masked together (LUKE), or single pieces (mLUKE)
    entities=keep | drop     links to entities outside the vocabulary are [UNK] (LUKE), or no entities (mLUKE)
    lite=on                  the four special entities alone: all links are mentions of [UNK]
    queries=1 | 4            entity-aware attention in pretraining too; the released models add it in fine-tuning

Numbers without another source are those of the released pretraining_config/*.json and pretraining.md.
"""

from configs import common

SIZES = {  # layers, hidden
  "tiny": (2, 128),
  "base": (12, 768),
  "large": (24, 1024),
  "mluke_base": (12, 768),
  "mluke_large": (24, 1024),
}
SETTINGS = {
  "words": ("whole", "piece"),
  "entities": ("keep", "drop"),
  "lite": ("on",),
  "queries": ("1", "4"),
}
RATES = {"tiny": 5e-4, "base": 1e-5, "large": 1e-5, "mluke_base": 1e-4, "mluke_large": 5e-5}  # of the second stage
NEW = ("entity_embeddings/", "heads/entity/")  # what RoBERTa does not have


def get_config(variant="tiny"):
  size, chosen = common.parse_variant(variant, SIZES, SETTINGS)
  layers, hidden = SIZES[size]
  multilingual = size.startswith("mluke")
  config = common.base()
  config.batch_size = 2048  # sequences of one update
  config.init_map = (*(("", part) for part in (*NEW, "embeddings/type/")), ("pooler/", ""))  # RoBERTa has none of them
  config.data = _data()
  config.model = _model(layers, hidden)
  config.objective = common.objective("entities")
  config.optimizer = _optimizer(RATES[size])
  steps = 540_326 if multilingual else 98_168  # of each stage; LUKE: 20 epochs
  if multilingual:
    _mluke(config)
  if size == "tiny":
    _tiny(config)
  config.stages = config.stages or _stages(steps, steps, RATES[size])
  config.steps = sum(stage["steps"] for stage in config.stages)
  _apply(config, chosen)
  return config


def _stages(first, second, rate):
  """Entities alone, then everything but the word type embedding, with fresh moments and a schedule of its own."""
  return (
    {"steps": first, "lr": 5e-4, "freeze": (f"^(?!{'|'.join(NEW)})",)},
    {"steps": second, "lr": rate, "freeze": ("^embeddings/type/",), "reset_optimizer": True},
  )


def _data():
  data = common.text_data()
  data.tokenizer_type = "bytebpe"  # RoBERTa's
  data.format = "entity_sentences"  # dataset.py: sentences of one page up to the length, if they mention an entity
  data.long_sentences = "skip"  # dataset.py: sentences of more than 510 tokens are left out
  data.min_sentence = 5  # dataset.py: sentences of fewer tokens are left out
  data.max_entities = 128  # max_entity_length: mentions of a row at most
  data.max_mention = 30  # max_mention_length: pieces of a mention whose positions count
  data.entity_vocab = ""  # folder or file of an entity vocabulary, or special; empty = counted in the corpus
  data.entity_pages = "existing"  # pages that a vocabulary is counted from: existing | linked (of a part of a dump)
  data.unknown_entities = "keep"  # include-unk-entities: links outside the vocabulary are [UNK]
  data.words = "marks"  # batch_generator.py: a word ends before a space or a punctuation mark
  data.masking = "whole_word"  # whole-word masking
  data.mask_rate = 0.15  # masked-lm-prob
  data.mask_budget = "text"  # batch_generator.py: round(0.15 n) of the tokens that are no special ones
  data.replace_by = "word"  # batch_generator.py: one draw a word
  data.random_tokens = "above_pad"  # batch_generator.py: from the id behind padding on, special tokens included
  data.max_predictions = 76  # round(0.15 * 510)
  data.entity_mask_rate = 0.15  # masked-entity-prob; all of them show [MASK]
  data.mask_words_in_mentions = False  # mask-words-in-entity-span: off
  return data


def _model(layers, hidden):
  model = common.transformer("luke", layers, hidden, heads=hidden // 64)
  model.vocab_size = 50_265  # RoBERTa's
  model.types = 1  # never more than one; frozen
  model.norm_eps = 1e-5  # released config.json
  model.init = "normal"  # modeling.py: not cut
  model.entity_vocab_size = 500_000  # rows of the table, special entities included
  model.entity_embedding = 256  # entity_emb_size
  model.query_kinds = 1  # pretraining has one query; 4 = entity-aware attention
  model.attention = "auto"  # how four queries are computed: auto | dense | doubled | merged
  return model


def _optimizer(lr):
  optimizer = common.optimizer("adamw")
  optimizer.lr = lr  # of a run without stages; each stage says its own
  optimizer.b1 = 0.9
  optimizer.b2 = 0.999
  optimizer.eps = 1e-6
  optimizer.bias_correction = False
  optimizer.weight_decay = 0.01
  optimizer.decay_exclude = ("bias$", "(?<!heads/mlm/)norm/")  # as released: the norm of the word head does decay
  optimizer.warmup_steps = 2500
  optimizer.schedule = "linear"  # to 0 at the end of each stage
  optimizer.clip = 0.0  # max_grad_norm of 10,000
  return optimizer


def _mluke(config):
  """XLM-R's words, the entities of 24 languages."""
  config.data.tokenizer_type = "sentencepiece"
  config.data.masking = "token"  # subword-masking
  config.data.replace_by = "piece"
  config.data.words = "pieces"
  config.data.unknown_entities = "drop"
  config.model.vocab_size = 250_002  # XLM-R's
  config.model.entity_vocab_size = 1_200_000  # those in three languages at least


def _tiny(config):
  common.shrink(config, steps=4500, lr=RATES["tiny"])
  config.stages = _stages(500, 4000, RATES["tiny"])
  config.optimizer.warmup_steps = 200
  config.data.holdout = 0.1  # a page has few mentions
  config.data.length = 64
  config.data.max_predictions = 9  # round(0.15 * 62)
  config.data.max_entities = 16
  config.model.init_std = 0.05  # at 0.1, and at rates of 1e-3, no entity ever finds the words of its mention
  config.model.dropout = 0.1  # entities are soon known by heart
  config.data.entity_pages = "linked"  # the corpus is a part of a dump, and most of what it links to is not in it
  config.model.entity_vocab_size = 500  # a small corpus names few entities three times
  config.model.entity_embedding = 64


def _apply(config, chosen):
  """The settings after the size."""
  if "words" in chosen:
    whole = chosen["words"] == "whole"
    config.data.masking = "whole_word" if whole else "token"
    config.data.replace_by = "word" if whole else "piece"
    config.data.words = "marks" if whole else "pieces"
  if "lite" in chosen:
    config.data.entity_vocab = "special"
    config.data.unknown_entities = "keep"
    config.model.entity_vocab_size = 4  # luke-*-lite: [MASK], [UNK], [PAD], [MASK2]
  if "entities" in chosen:
    config.data.unknown_entities = chosen["entities"]
  if "queries" in chosen:
    config.model.query_kinds = int(chosen["queries"])
