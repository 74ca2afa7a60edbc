"""Fine-tuning: a task on an encoder that was pretrained, or published.

    python train.py --config=configs/finetune.py:semeval --config.init_from=runs/luke --config.task.dir=FOLDER \
        --workdir=runs/semeval --seeds=0,1,2

`init_from` is a workdir or a folder of published weights; sizes, vocabulary and weights are taken from it. `task.dir`
holds the task's official files under their official names (`task.train`, `task.dev` and `task.test` name others). Steps
follow from `task.epochs`; every epoch ends with an evaluation on the dev file, by the task's official figures, which
choose the epoch for tasks that select one. The test file, where there is one, is scored once at the end, with the
parameters that were chosen: `test/f1` and the like.

Where there is no dev file, `task.dev_share` holds out a share of the training file, whole documents or passages at a
time. SemEval has no dev file. A data set that is one file needs both keys, as in
`--config.task.train=xquad.en.json --config.task.dev_share=0.1` (squad) or `--config.task.train=dev_revised.json
--config.task.dev_share=0.1` (redocred_*). Where answers of a file in SQuAD's form stand beside the offsets that it
says, `task.offsets=nearest` finds them.

SQuAD's questions and passages have entities if `task.links` names a file of the links of the articles that they are
from, a line each: {"title": ARTICLE, "links": [[TEXT, TITLE, LINKS, DOCUMENTS], ...]}, where of DOCUMENTS that have the
text LINKS have it as a link to TITLE. Then the model keeps its whole entity table, which does not train.

Tasks and their settings, after the task:

    open_entity, redocred_types                  types of a mention
    tacred, semeval, redocred_relations          the relation between two mentions
    conll2003, wnut17, redocred_mentions         named entities, by classifying every span
    record                                       which of a passage's entities fills a gap
    squad, squad2                                the answer to a question in a passage

    queries=4 | 1        entity-aware attention, or ordinary attention. By default LUKE has 4 and mLUKE 1
"""

from configs import common

# Batch (examples of one update, packed into fewer rows), rate, epochs, seed, and the figure of the best epoch on the
# dev file ("" = the last epoch is taken): LUKE's programs and released configurations (Yamada et al. 2020, appendix A).
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
DEV_SHARES = {"semeval": 0.1}  # SemEval-2010 has a training and a test file, no dev file
SETTINGS = {"queries": ("1", "4")}


def get_config(variant="semeval"):
  name, chosen = common.parse_variant(variant, RECIPES, SETTINGS)
  config = common.base()
  config.batch_size, rate, epochs, config.seed, config.select_by = RECIPES[name]
  config.dtype = ""  # that of init_from; bfloat16 for published weights
  config.eval_every = 0  # 0 = once an epoch
  config.save_every = 0  # 0 = once an epoch
  config.log_every = 50
  config.task = common.ConfigDict()
  config.task.name = name
  config.task.dir = ""  # folder of the task's files
  config.task.train = ""  # file in it; empty = the official name
  config.task.dev = ""  # file in it; empty = the official name
  config.task.test = ""  # file in it; empty = the official name, if there is such a file
  config.task.dev_share = DEV_SHARES.get(name, 0.0)  # held out of the training file
  config.task.offsets = "exact"  # squad: exact | nearest, where answers may stand beside the offsets of the file
  config.task.links = ""  # squad: file in it, links of the articles; empty = no entities
  config.task.limit = 0  # first training examples; 0 = all
  config.task.epochs = epochs
  config.task.warmup = 0.06  # share of the steps
  config.task.fresh = False  # start from the seed, with the sizes and the vocabulary of init_from
  config.data = common.ConfigDict()
  config.data.length = 0  # tokens of an example at most; 0 = 512, or the positions of the model if those are fewer
  config.data.pack = 8  # examples of one row at most
  config.data.workers = 0  # threads that make batches; 0 = one
  config.data.prefetch = 4  # batches made ahead of the step
  config.model = common.ConfigDict({"name": ""})  # that of init_from
  config.task.queries = int(chosen.get("queries", "0"))  # 4 = entity-aware attention, 1 = none; 0 = as its family
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
