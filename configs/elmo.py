"""ELMo (Peters et al. 2018): a forward and a backward language model over words that are read by their characters.

    python train.py --config=configs/elmo.py:tiny --workdir=runs/elmo

`tiny` trains on the corpus that comes with the project, on two CPU cores. The released `original` took two weeks on
three GTX 1080: 10 epochs of the 1 Billion Word Benchmark, whose held-out perplexity is 39.7, the mean of both
directions. That corpus is divided into words already, a sentence a line: `--config.data.words=space`.

Another run goes on with text of a domain by `--config.init_from=RUN --config.data.source=FILE`: the words that it
predicts stay the same, and new words are read by their characters. AllenNLP's released files will do as well, whose
softmax is not among them and starts afresh.

Sizes: tiny, small, medium, original (the released models of these names). Settings, after the size:

    softmax=sampled | full       of training; held-out text is always judged by the full one
    input=characters | words     words as characters, or a table of words
    state=carried | reset        the state goes on from window to window, or each starts from zeros

Numbers without another source are those of the released options.json and bilm-tf's train_elmo.py.
"""

from configs import common

SIZES = {  # cell, projection, highway layers
  "tiny": (256, 64, 1),
  "small": (1024, 128, 1),
  "medium": (2048, 256, 1),
  "original": (4096, 512, 2),
}
SETTINGS = {
  "softmax": ("sampled", "full"),
  "input": ("characters", "words"),
  "state": ("carried", "reset"),
}
FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))  # width, number
UNROLL = 20  # unroll_steps
TOKENS = 768_648_884  # n_train_tokens of the 1 Billion Word Benchmark


def get_config(variant="tiny"):
  size, chosen = common.parse_variant(variant, SIZES, SETTINGS)
  config = common.base()
  config.batch_size = 384  # streams: 128 on each of 3 GPUs
  config.steps = 10 * (TOKENS // (config.batch_size * UNROLL))  # 10 epochs
  config.data = _data()
  config.model = _model(*SIZES[size])
  config.objective = _objective()
  config.optimizer = _optimizer()
  if size == "tiny":
    _tiny(config)
  config.objective.softmax = chosen.get("softmax", "sampled")
  config.model.input = chosen.get("input", "characters")
  config.objective.reset = "window" if chosen.get("state") == "reset" else "never"
  return config


def _data():
  data = common.ConfigDict()
  data.source = "demo"  # 106 Wikipedia articles; or a file, a folder, tfds:NAME, a mixture (data/sources.py)
  data.dir = ""  # prepared corpus; empty = WORKDIR/data, prepared there when it is missing
  data.language = "en"  # of the text; picks the rules that split sentences
  data.holdout = 0.01  # share of documents kept for evaluation
  data.workers = 0  # processes that prepare the corpus, threads that make batches; nothing depends on them; 0 = one
  data.prefetch = 4  # batches made ahead of the step
  data.tokenizer = ""  # folder or vocabulary file of the words that are predicted, by descending count; empty = counted
  data.tokenizer_type = "words"
  data.lowercase = False
  data.words = "marks"  # what divides text into words: marks and spaces, or "space" where only spaces do
  data.length = UNROLL  # steps that gradients flow through
  data.groups = 4  # parts of a batch whose distinct words are spelled once; a multiple of mesh.data shares them out
  data.distinct_words = 2048  # room of a group: 96 rows of 2 x 20 words of Wikipedia hold 1700 different ones at most
  return data


def _model(cell, projection, highway):
  model = common.ConfigDict()
  model.name = "elmo"
  model.vocab_size = 793_471  # words that are predicted: those seen three times, <S>, </S> and <UNK>
  model.input = "characters"
  model.characters = 50  # of a word, with its begin and end
  model.char_embedding = 16
  model.filters = FILTERS
  model.activation = "relu"
  model.highway = highway
  model.layers = 2
  model.cell = cell
  model.projection = projection
  model.cell_clip = 3.0
  model.projection_clip = 3.0
  model.skip = True
  model.dropout = 0.1
  model.recompute_gates = False  # for the backward pass, which saves 4 x cell numbers a step and row
  model.unroll = 1  # steps in one turn of the scan
  return model


def _objective():
  objective = common.objective("language")
  objective.loss_scale = str(UNROLL)  # training.py: gradients are those of the loss times the steps; the clip sees that
  objective.softmax = "sampled"
  objective.negatives = 8192  # words drawn for each direction and step
  objective.reset = "never"
  return objective


def _optimizer():
  optimizer = common.ConfigDict()
  optimizer.name = "adagrad"
  optimizer.lr = 0.2
  optimizer.accumulator = 1.0  # what the sums of squares begin at
  optimizer.warmup_steps = 0
  optimizer.schedule = "constant"
  optimizer.clip = 10.0  # all_clip_norm_val
  return optimizer


def _tiny(config):
  """Minutes on two cores: two epochs of the demo corpus."""
  config.dtype = "float32"  # CPUs have no fast bfloat16
  config.steps = 3000
  config.batch_size = 16
  config.eval_every = 500
  config.save_every = 500
  config.log_every = 50
  config.data.holdout = 0.05  # the corpus has few documents
  config.data.groups = 1
  config.data.distinct_words = 512  # 640 words of the corpus hold 390 different ones at most
  config.model.vocab_size = 8192  # words seen 5 times
  config.model.filters = ((1, 16), (2, 16), (3, 32), (4, 64), (5, 64))
  config.model.dropout = 0.0  # a model this small does not overfit in minutes
  config.objective.negatives = 1024
