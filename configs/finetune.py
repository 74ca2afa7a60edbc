"""Fine-tuning: a task on an encoder that was pretrained, or published.

    python train.py --config=configs/finetune.py:semeval --config.init_from=runs/luke --config.task.dir=FOLDER \
        --workdir=runs/semeval --seeds=0,1,2

`init_from` is a workdir or a folder of published weights; sizes, vocabulary and weights are taken from it. `task.dir`
holds the task's official files under their official names (`task.train` and `task.dev` name others). Steps follow from
`task.epochs`; every epoch ends with an evaluation on the dev file, by the task's official figures.

Tasks and their settings, after the task:

    open_entity, redocred_types                  types of a mention
    tacred, semeval, redocred_relations          the relation between two mentions
    conll2003, wnut17, redocred_mentions         named entities, by classifying every span
    record                                       which of a passage's entities fills a gap
    squad, squad2                                the answer to a question in a passage

    queries=4 | 1        LUKE's entity-aware attention, or ordinary attention
"""

from configs import common

# Batch, rate, epochs, seed, and the figure of the best epoch on the dev file ("" = the last epoch is taken): LUKE's
# programs and released configurations (Yamada et al. 2020, appendix A).
RECIPES = {
  "open_entity": (4, 1e-5, 3, 12, "f1"),
  "redocred_types": (4, 1e-5, 3, 12, "f1"),  # Open Entity's
  "tacred": (32, 1e-5, 5, 42, "f1"),
  "semeval": (32, 1e-5, 5, 42, "f1"),  # TACRED's
  "redocred_relations": (32, 1e-5, 5, 42, "f1"),  # TACRED's
  "conll2003": (8, 1e-5, 5, 35, ""),
  "wnut17": (8, 1e-5, 5, 35, ""),  # CoNLL's
  "redocred_mentions": (8, 1e-5, 5, 35, ""),  # CoNLL's
  "record": (32, 1e-5, 2, 4, "exact_match"),
  "squad": (48, 1.5e-5, 2, 14, ""),
  "squad2": (48, 1.5e-5, 2, 14, ""),  # SQuAD 1.1's
}
SETTINGS = {"queries": ("1", "4")}


def get_config(variant="semeval"):
  name, chosen = common.parse_variant(variant, RECIPES, SETTINGS)
  config = common.base()
  config.batch_size, rate, epochs, config.seed, config.select_by = RECIPES[
    name
  ]  # examples of one update, packed into fewer rows
  config.eval_every = 0  # 0 = once an epoch
  config.save_every = 0  # 0 = once an epoch
  config.log_every = 50
  config.task = common.ConfigDict()
  config.task.name = name
  config.task.dir = ""  # folder of the task's files
  config.task.train = ""  # file in it; empty = the official name
  config.task.dev = ""  # file in it; empty = the official name
  config.task.dev_share = 0.0  # share of the training examples that are held out in place of a dev file
  config.task.limit = 0  # first training examples; 0 = all
  config.task.epochs = epochs
  config.task.warmup = 0.06  # share of the steps
  config.task.fresh = False  # start from the seed, with the sizes and the vocabulary of init_from
  config.data = common.ConfigDict()
  config.data.length = 512  # tokens of an example at most
  config.data.pack = 8  # examples of one row at most
  config.data.workers = 0  # threads that make batches; 0 = one
  config.data.prefetch = 4  # batches made ahead of the step
  config.model = common.ConfigDict({"name": ""})  # that of init_from
  config.task.queries = int(chosen.get("queries", "4"))  # LUKE: 4 = entity-aware attention
  config.objective = common.objective("task")
  config.objective.kind = ""  # the task's head
  config.objective.labels = ()  # names of its classes, from the training file
  config.optimizer = common.optimizer("adamw")
  config.optimizer.lr = rate
  config.optimizer.b2 = 0.98
  config.optimizer.eps = 1e-6
  config.optimizer.bias_correction = False
  config.optimizer.weight_decay = 0.01
  config.optimizer.decay_exclude = ("norm/", "bias$")
  config.optimizer.schedule = "linear"
  config.optimizer.clip = 0.0
  return config
