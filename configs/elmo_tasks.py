"""ELMo in tasks: a network over words with the vectors of a biLM at its input, at its output, at both, or without.

    python train.py --config=configs/elmo_tasks.py:wnut17 --config.init_from=runs/elmo --config.task.dir=FOLDER \
        --workdir=runs/wnut17 --seeds=0,1,2

`init_from` is a workdir of configs/elmo.py or a folder with options.json and weights.hdf5 as AllenNLP has them; only
place=none needs none. `task.dir` holds the task's official files under their official names (`task.train`, `task.dev`
and `task.test` name others, `task.dev_share` holds out a share of the training file). Every epoch ends with an
evaluation on the dev file, whose figure chooses the epoch; the test file, where there is one, is scored once at the
end with the parameters that were chosen: `test/f1` and the like.

Tasks: named entities (conll2003, wnut17: BiLSTM and CRF), classes of a sentence (sst2, sst5, cola: BiLSTM, maximum and
mean over its words), of a pair of sentences, a number, or which of several sentences goes with another (snli, mnli,
qnli, rte, mrpc, qqp, wnli; stsb; swag, race: aligned by attention, Chen et al. 2017), answers in passages (squad,
squad2: attention between question and passage and of the passage to itself, Clark and Gardner 2018). Settings, after
the task:

    place=input | output | both | none     where ELMo's vectors stand beside what is there
    mixture=learned | equal | top | first | 0 | 1 | 2 ...     of layers, at each place of its own: weights that are
                                           learned; all layers alike; the top layer; the first LSTM's; one layer by its
                                           number, 0 = the words without their context
    lambda=1 | 0.1 | 0.001 | 0             how strongly learned weights are drawn to 0: all layers alike
    vectors=none | tuned | frozen          of words, from the file `task.vectors` (GloVe or word2vec, text or binary);
                                           tuned without a file: from the seed, over the words of the training file
    bilm=frozen | tuned
    network=lstm | linear                  linear: a layer's probe: no word vectors, one layer straight on ELMo's

A table of several settings, each with several seeds, is one command: python -m trainer.ablations.
"""

from configs import common

# Head, batch, rate, epochs, figure of the best epoch, lambda; hidden size and layers of the encoder, dropout of ELMo's
# vectors, where they stand, word vectors, norm of the gradient. AllenNLP's ner_elmo, biattentive_classification_network
# and esim_elmo configurations, without their early stop; two places for SNLI and its lambda, and dropout of ELMo's
# vectors, by Peters et al. 2018. AllenNLP's ESIM stops by itself far before its 75 epochs. Of answers batch, epochs,
# sizes and dropout of the authors' program (90 columns of GRUs there, and Adadelta), rate, b2 and clip of AllenNLP's
# bidaf_elmo, lambda by section 5.1.
NER = ("crf", 64, 1e-3, 75, "f1", 0.1, 200, 2, 0.5, "input", "tuned", 5.0)
SENTENCE = ("classify", 100, 1e-3, 40, "accuracy", 0.001, 300, 1, 0.5, "input", "frozen", 5.0)
PAIR = ("pair", 32, 4e-4, 15, "accuracy", 0.001, 300, 1, 0.5, "both", "frozen", 10.0)
ANSWER = ("answer", 45, 1e-3, 24, "f1", 0.001, 90, 1, 0.5, "both", "frozen", 5.0)
RECIPES = {
  "conll2003": NER,
  "wnut17": NER,
  "sst2": SENTENCE,
  "sst5": SENTENCE,
  "cola": (*SENTENCE[:4], "matthews", *SENTENCE[5:]),
  "snli": PAIR,
  "mnli": PAIR,
  "qnli": PAIR,  # SNLI's, as of all pairs below
  "rte": PAIR,
  "wnli": PAIR,
  "mrpc": PAIR,
  "qqp": PAIR,
  "stsb": ("regress", *PAIR[1:4], "spearman", *PAIR[5:]),
  "swag": ("choose", *PAIR[1:]),
  "race": ("choose", *PAIR[1:]),
  "squad": ANSWER,
  "squad2": (*ANSWER[:4], "best_f1", *ANSWER[5:]),
}
# Words of a sentence at most, or of a window of a passage; RACE's articles are longer.
LENGTH, LENGTHS = 256, {"race": 510, "squad": 382, "squad2": 382}
SETTINGS = {
  "place": ("input", "output", "both", "none"),
  "mixture": ("learned", "equal", "top", "first", *map(str, range(9))),
  "lambda": ("1", "0.1", "0.001", "0"),
  "vectors": ("none", "tuned", "frozen"),
  "bilm": ("frozen", "tuned"),
  "network": ("lstm", "linear"),
}


def get_config(variant="wnut17"):
  name, chosen = common.parse_variant(variant, RECIPES, SETTINGS)
  head, batch_size, rate, epochs, figure, weight, hidden, layers, elmo_dropout, place, vectors, clip = RECIPES[name]
  config = common.base()
  config.batch_size, config.select_by = batch_size, figure
  config.dtype = ""  # that of init_from; float32 for AllenNLP's files and without
  config.eval_every = 0  # 0 = once an epoch
  config.save_every = 0  # 0 = once an epoch
  config.log_every = 0  # 0 = 50, or a tenth of the steps if that is fewer
  answers = head == "answer"
  if answers and chosen.get("network") == "linear":
    raise common.VariantError(f"setting 'network': got linear for {name}, want lstm: a passage has to be read")
  config.task = _task(name, epochs, chosen.get("bilm", "frozen"))
  config.data = common.ConfigDict()
  config.data.length = LENGTHS.get(name, LENGTH)
  config.data.workers = 0  # threads that make batches; 0 = one
  config.data.prefetch = 4  # batches made ahead of the step
  config.model = common.ConfigDict()
  config.model.name = "elmo_task"
  config.model.bilm = common.ConfigDict()  # sizes of init_from; none with place=none
  config.model.place = chosen.get("place", place)
  config.model.mixture = chosen.get("mixture", "learned")
  config.model.layer_norm = False  # of each layer, before the mixture
  config.model.elmo_dropout = elmo_dropout
  config.model.vectors = 0  # rows of the table of words; 0 = as the files say
  config.model.vector_size = 0  # 0 = as the file of vectors says, 100 without
  config.model.encoder = "lstm"
  config.model.hidden = hidden  # of each direction
  config.model.layers = layers
  config.model.dropout = 0.2 if answers else 0.5
  config.objective = common.objective("word_task")
  config.objective.kind = head
  config.objective.labels = ()  # names of its classes, from the training file
  config.objective.l2 = float(chosen.get("lambda", weight))
  config.optimizer = common.optimizer("adamw")
  config.optimizer.lr = rate
  config.optimizer.eps = 1e-8
  config.optimizer.bias_correction = True
  config.optimizer.b2 = 0.9 if answers else 0.999
  config.optimizer.weight_decay = 0.0  # Adam
  config.optimizer.schedule = "constant"
  config.optimizer.clip = clip
  config.task.word_vectors = chosen.get("vectors", vectors)
  if chosen.get("network") == "linear":
    _probe(config, chosen)
  if config.objective.kind == "crf":
    config.objective.loss_scale = "sum"  # over the sentences of a batch, as AllenNLP; clip and lambda see that
  return config


def _task(name, epochs, bilm):
  task = common.ConfigDict()
  task.name = name
  task.dir = ""  # folder of the task's files, or tfds:NAME (data/tasks/tfds_source.py)
  task.train = ""  # file in it; empty = the official name
  task.dev = ""  # file in it; empty = the official name
  task.test = ""  # file in it; empty = the official name, if there is such a file
  task.dev_share = 0.0  # held out of the training file
  task.offsets = "exact"  # squad: exact | nearest, where answers may stand beside the offsets of the file
  task.limit = 0  # first training examples; 0 = all
  task.epochs = epochs
  task.patience = 0  # evaluations without a better select_by that end the run; 0 = all epochs
  task.predictions = True  # write WORKDIR/predictions at the end, of test files without labels too
  task.warmup = 0.0  # share of the steps
  task.eval_first = False  # evaluate before the first step too
  task.fresh = False  # the biLM starts from the seed too, with the sizes of init_from
  task.bilm = bilm
  task.vectors = ""  # file of word vectors: GloVe's text, word2vec's text or binary; also with .gz
  return task


def _probe(config, chosen):
  """What a layer holds, as far as one linear layer can tell: no words of its own, no encoder, no dropout, no CRF."""
  config.objective.kind = {"crf": "tag"}.get(config.objective.kind, config.objective.kind)
  config.model.encoder = "none"
  config.model.dropout = config.model.elmo_dropout = 0.0
  config.model.place = chosen.get("place", "input")
  config.task.word_vectors = chosen.get("vectors", "none")
