"""ELECTRA (Clark et al. 2020): a small generator replaces tokens, the model tells which ones.

    python train.py --config=configs/electra.py:tiny --workdir=runs/electra

`tiny` trains on the corpus that comes with the project, on two CPU cores.
`small` took 4 days on one V100, `base` 4 days on 16 TPUv3 chips (table 8: GLUE dev averages 79.9 and 85.1).

Sizes: tiny, small, small_plus, base, large, large_plus (the released Small is small_plus: generator as wide as the
discriminator, length 512, 4M steps). Settings, after the size (section 3.4 and the released code's switches):

    target=all_tokens | masked | replace_mlm | all_tokens_mlm    what the discriminator learns from (table 5)
    tie=embeddings | all | none                what the networks share (section 3.2)
    generator=mlm | uniform | unigram | electric    what replaces tokens; electric is Clark et al. 2020b
    training=joint | two_stage | adversarial   section 3.2 and appendix F
    sample=softmax | argmax                    how it chooses
"""

from configs import common

SIZES = {  # layers, hidden, width of the tables, width of the generator
  "tiny": (2, 128, 128, 64),
  "small": (12, 256, 128, 64),  # table 6: a quarter
  "small_plus": (12, 256, 128, 256),  # released: all of it
  "base": (12, 768, 768, 256),  # table 6: a third
  "large": (24, 1024, 1024, 256),  # table 6: a quarter
  "large_plus": (24, 1024, 1024, 256),
}
SETTINGS = {
  "target": ("all_tokens", "masked", "replace_mlm", "all_tokens_mlm"),
  "tie": ("embeddings", "all", "none"),
  "generator": ("mlm", "uniform", "unigram", "electric"),
  "training": ("joint", "two_stage", "adversarial"),
  "sample": ("softmax", "argmax"),
}
PUBLISHED = {  # table 6: steps, batch, length, mask rate, rate
  "tiny": (3000, 16, 128, 0.15, 1.5e-3),
  "small": (1_000_000, 128, 128, 0.15, 5e-4),
  "small_plus": (4_000_000, 128, 512, 0.15, 5e-4),
  "base": (766_000, 256, 512, 0.15, 2e-4),
  "large": (400_000, 2048, 512, 0.25, 2e-4),
  "large_plus": (1_750_000, 2048, 512, 0.25, 2e-4),
}


def get_config(variant="tiny"):
  size, chosen = common.parse_variant(variant, SIZES, SETTINGS)
  config = common.base()
  config.steps, config.batch_size, length, mask_rate, rate = PUBLISHED[size]
  config.data = _data(length, mask_rate)
  config.model = _model(*SIZES[size])
  config.objective = _objective()
  config.optimizer = _optimizer(rate)
  if size == "tiny":
    common.shrink(config, config.steps, rate)
  _apply(config, chosen)
  return config


def _data(length, mask_rate):
  data = common.text_data()
  data.lowercase = True  # BERT's uncased vocabulary
  data.format = "electra_segments"  # build_pretraining_dataset.py
  data.length = length
  data.passes = 10  # segments are drawn anew; the original draws them once
  data.mask_rate = mask_rate
  data.mask_share = 0.85  # pretrain_helpers.py: 15 % of the predictions show the token itself
  data.random_share = 0.0  # pretrain_helpers.py: no random tokens
  data.static_masks = False  # pretrain_helpers.py: masks are drawn in the step
  data.max_predictions = int((mask_rate + 0.005) * length)  # configure_pretraining.py
  return data


def _model(layers, hidden, embedding, generator):
  model = common.transformer("electra", layers, hidden, heads=hidden // 64)
  model.vocab_size = 30_522  # BERT's uncased vocabulary
  model.embedding = embedding
  model.generator_layers = layers  # table 6: the depth is not scaled
  model.generator_hidden = generator
  model.generator_heads = max(1, generator // 64)
  model.generator_ffn = 4 * generator
  model.tie = "embeddings"  # section 3.2: word, position and type tables and their layer norm
  return model


def _objective():
  objective = common.objective("electra")
  objective.generator = "mlm"  # section 2
  objective.sample = "softmax"  # section 2: never the likeliest word
  objective.temperature = 1.0  # configure_pretraining.py
  objective.disallow_correct = False  # configure_pretraining.py: a correct sample counts as original
  objective.target = "all_tokens"  # section 2
  objective.adversarial = False  # section 2: the generator learns by maximum likelihood
  objective.mlm_weight = 1.0
  objective.rtd_weight = 50.0  # table 6
  return objective


def _optimizer(rate):
  optimizer = common.optimizer("adamw")
  optimizer.lr = rate
  optimizer.eps = 1e-6  # table 6
  optimizer.weight_decay = 0.01  # table 6
  optimizer.warmup_steps = 10_000  # table 6
  optimizer.schedule = "electra"  # optimization.py: the decay acts during warm-up too
  return optimizer


def _apply(config, chosen):
  """The settings after the size."""
  training = chosen.get("training", "joint")
  config.model.tie = chosen.get("tie", "none" if training == "two_stage" else "embeddings")
  if config.model.tie == "all" or training == "two_stage":
    for name in ("layers", "hidden", "heads", "ffn"):
      config.model[f"generator_{name}"] = config.model[name]
  for name in ("target", "generator", "sample"):
    if name in chosen:
      config.objective[name] = chosen[name]
  if config.objective.target.endswith("mlm"):
    config.objective.rtd_weight = 1.0  # the second network's term is then a cross entropy over words, as the first's
  if training == "adversarial":
    config.objective.adversarial = True
    config.objective.mlm_weight = 0.0  # reported, not trained: the generator learns from the discriminator alone
  if training == "two_stage":
    config.stages = _two_stages(config)


def _two_stages(config):
  """Section 3.2: n steps of the generator; its weights to the discriminator; n steps of that, the generator frozen.

  The networks share nothing, so that what is frozen gets no gradient from the other one.
  """
  parts = ("embeddings", "layers", *(("projection",) if config.model.embedding != config.model.hidden else ()))
  own = {"embeddings": "embeddings", "layers": "discriminator/layers", "projection": "discriminator/projection"}
  half = config.steps // 2
  return (
    {"steps": half, "freeze": ("^(embeddings|discriminator|heads/rtd)/",)},
    {
      "steps": config.steps - half,
      "freeze": ("^generator/", "^heads/mlm/"),
      "copy": {f"generator/{part}": own[part] for part in parts},
      "reset_optimizer": True,
    },
  )
