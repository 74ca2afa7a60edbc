"""Fine-tuning: a task on an encoder that was pretrained, or published.

    python train.py --config=configs/finetune.py:sst2,model=bert --config.init_from=runs/bert \
        --config.task.dir=FOLDER --workdir=runs/sst2 --seeds=0,1,2

`init_from` is a workdir or a folder of published weights; sizes, vocabulary and weights are taken from it. `task.dir`
holds the task's official files under their official names (`task.train`, `task.dev` and `task.test` name others), or is
a prepared data set of TFDS, as tfds:glue/sst2 (the three keys then name splits or slices, as train[:10%]). Steps follow
from `task.epochs`; every epoch ends with an evaluation on the dev file, by the task's official figures, which choose
the epoch for tasks that select one. The test file, where there is one, is scored once at the end, with the parameters
that were chosen: `test/f1` and the like.

Where there is no dev file, `task.dev_share` holds out a share of the training file, whole documents or passages at a
time. SemEval has no dev file. A data set that is one file needs both keys, as in
`--config.task.train=xquad.en.json --config.task.dev_share=0.1` (squad) or `--config.task.train=dev_revised.json
--config.task.dev_share=0.1` (redocred_*). Where answers of a file in SQuAD's form stand beside the offsets that it
says, `task.offsets=nearest` finds them.

SQuAD's questions and passages have entities, for a LUKE, if `task.links` names a file of the links of the articles that
they are from, a line each: {"title": ARTICLE, "links": [[TEXT, TITLE, LINKS, DOCUMENTS], ...]}, where of DOCUMENTS that
have the text LINKS have it as a link to TITLE. Then the model keeps its whole entity table, which does not train.

Tasks and their settings, after the task:

    sst2, sst5, cola                             classes of a text
    mnli, snli, qnli, rte, mrpc, qqp, wnli       classes of a pair of texts
    stsb                                         how alike two texts are, a number
    swag, race                                   multiple choice
    conll2003, wnut17, redocred_mentions         named entities: a tag a word; LUKE classifies every span
    squad, squad2                                the answer to a question in a passage
    embed                                        sentence embeddings, from pairs of texts that belong together
    open_entity, redocred_types                  types of a mention
    tacred, semeval, redocred_relations          the relation between two mentions
    record                                       which of a passage's entities fills a gap

  Mentions are a LUKE's entities; other encoders read the state of the marker before each.

    model=bert | roberta | albert | electra_small | electra | electra_large | spanbert | luke | elmo
                         the numbers that were published with this encoder, and only such a one to start from; without:
                         LUKE's for entities and answers, BERT's for other tasks. elmo: configs/elmo_tasks.py, with
                         its settings instead of those below
    init=DIR             init_from
    head=tag             a tag a word for LUKE too
    queries=4 | 1        entity-aware attention, or ordinary attention. By default LUKE has 4 and mLUKE 1
"""

from configs import common, elmo_tasks

# Numbers are (batch, rate, epochs, length) and keys of the config that differ for the task. A batch is so many
# examples, packed into fewer rows; length is tokens of an example at most, 0 where nobody published one. "" stands for
# tasks without a line of their own.

MENTIONS = ("open_entity", "tacred", "semeval", "redocred_types", "redocred_relations")

# Where nobody published numbers for sentence embeddings: rate, epoch and warm-up of Reimers and Gurevych 2019 (section
# 3.1). Their 16 pairs are classified; here the other pairs of a batch are the negatives, so there are more.
EMBED = (64, 2e-5, 1, 0, {"task.warmup": 0.1})

# Devlin et al. 2019 (section 4, appendix A.3: batch 16 or 32, 5e-5 to 2e-5, 2 to 4 epochs) and the released programs'
# optimiser, lengths and command lines; SWAG by section 4.4, SQuAD by 4.2 and 4.3. Nobody ran RACE: SWAG's.
BERT = {"optimizer.schedule": "bert", "optimizer.clip": 1.0, "task.warmup": 0.1}
BERT_TASKS = {
  "": (32, 2e-5, 3, 128, {}),
  **dict.fromkeys(MENTIONS, (32, 2e-5, 3, 0, {})),
  "conll2003": (32, 5e-5, 3, 0, {}),
  "wnut17": (32, 5e-5, 3, 0, {}),
  "redocred_mentions": (32, 5e-5, 3, 0, {}),  # CoNLL's
  "record": (32, 2e-5, 3, 0, {}),
  "squad": (32, 5e-5, 3, 384, {}),
  "squad2": (48, 5e-5, 2, 384, {}),
  "swag": (16, 2e-5, 3, 0, {}),
  "race": (16, 2e-5, 3, 0, {}),
  "embed": EMBED,
}

# Liu et al. 2019 (appendix B, table 10) and fairseq's configurations of each task. Everything decays, layer norms and
# biases too; eps stands outside the correction of the moments. Heads of texts have no dropout.
ROBERTA = {
  "optimizer.b2": 0.98, "optimizer.bias_correction": True, "optimizer.eps_hat": True, "optimizer.weight_decay": 0.1,
  "optimizer.decay_exclude": (), "optimizer.schedule": "linear", "optimizer.clip": 0.0, "task.warmup": 0.06,
}  # fmt: skip
ROBERTA_TASKS = {
  "": (32, 1e-5, 10, 512, {}),
  "qqp": (32, 1e-5, 10, 512, {"task.warmup": 0.25}),
  "rte": (16, 2e-5, 10, 512, {}),
  "mrpc": (16, 1e-5, 10, 512, {}),
  "cola": (16, 1e-5, 10, 512, {}),
  "stsb": (16, 2e-5, 10, 512, {}),
  "squad": (48, 1.5e-5, 2, 384, {"optimizer.weight_decay": 0.01}),  # its length is BERT's
  "squad2": (48, 1.5e-5, 2, 384, {"optimizer.weight_decay": 0.01}),
  "swag": (16, 1e-5, 4, 512, {}),  # RACE's
  "race": (16, 1e-5, 4, 512, {}),
  "embed": EMBED,
}

# Lan et al. 2020 (appendix A.4, table 14), with BERT's optimiser. Its steps are epochs here, rounded; heads have
# dropout 0.1 whatever the encoder has. Version 2 diverges on RACE so: it wants 1e-5 and no dropout.
DROPS = {"model.dropout": 0.1, "model.attention_dropout": 0.1}
ALBERT = BERT | {"model.dropout": 0.0, "model.attention_dropout": 0.0}
ALBERT_TASKS = {
  "": (32, 1e-5, 10, 512, {"task.warmup": 0.06}),  # SST-2's
  "cola": (16, 1e-5, 10, 512, {"task.warmup": 0.06}),
  "stsb": (16, 2e-5, 10, 512, {"task.warmup": 0.06}),
  "mnli": (128, 3e-5, 3, 512, {"task.warmup": 0.1}),
  "snli": (128, 3e-5, 3, 512, {"task.warmup": 0.1}),  # MNLI's
  "qnli": (32, 1e-5, 10, 512, {"task.warmup": 0.06}),
  "qqp": (128, 5e-5, 5, 512, {"task.warmup": 0.07, **DROPS}),
  "rte": (32, 3e-5, 10, 512, {"task.warmup": 0.25, **DROPS}),
  "mrpc": (32, 2e-5, 7, 512, {"task.warmup": 0.25}),
  "wnli": (16, 2e-5, 50, 512, {"task.warmup": 0.125, **DROPS}),
  "squad": (48, 5e-5, 2, 384, {"task.warmup": 0.1}),
  "squad2": (48, 3e-5, 3, 512, {"task.warmup": 0.1}),
  "swag": (32, 2e-5, 4, 512, {"task.warmup": 0.08, **DROPS}),  # RACE's
  "race": (32, 2e-5, 4, 512, {"task.warmup": 0.08, **DROPS}),
  "embed": EMBED,
}


def _electra(rate, layer_decay):
  """Clark et al. 2020 (appendix B, table 7): epochs by task, rate and layer decay by size; losses are added up.

  Lengths, both orders of MRPC's and STS-B's pairs, and STS-B's targets, a fifth of the numbers, are their code's.
  """
  keys = {
    "optimizer.schedule": "electra", "optimizer.clip": 1.0, "optimizer.weight_decay": 0.0,
    "optimizer.layer_decay": layer_decay, "optimizer.layer_decay_top": 2,  # once more than meant, as in their code
    "objective.loss_scale": "sum", "task.warmup": 0.1,
  }  # fmt: skip
  two, others, twice = (32, rate, 2, 512, {}), (32, rate, 3, 0, {}), {"task.both_orders": True}
  number = twice | {"objective.target_scale": 5.0}
  return keys, {
    "": (32, rate, 3, 128, {}), "mrpc": (32, rate, 3, 128, twice), "rte": (32, rate, 10, 128, {}),
    "stsb": (32, rate, 10, 128, number), "squad": two, "squad2": two,
    "conll2003": others, "wnut17": others, "redocred_mentions": others, "record": others, "swag": others,
    "race": others, "embed": EMBED, **dict.fromkeys(MENTIONS, others),
  }  # fmt: skip


# Joshi et al. 2020 (appendix B: batch 16 or 32, 5e-6 to 5e-5), the released command lines' 2e-5 and optimiser.
SPANBERT = {"optimizer.schedule": "linear", "optimizer.clip": 1.0, "task.warmup": 0.1}
SPANBERT_TASKS = {
  "": (32, 2e-5, 10, 128, {}),
  **dict.fromkeys(MENTIONS, (32, 2e-5, 10, 0, {})),
  "tacred": (32, 2e-5, 10, 128, {}),  # their program replaces mentions by their types; here they stay
  "cola": (32, 2e-5, 4, 128, {}),
  "conll2003": (32, 2e-5, 10, 0, {}),
  "wnut17": (32, 2e-5, 10, 0, {}),
  "redocred_mentions": (32, 2e-5, 10, 0, {}),
  "record": (32, 2e-5, 10, 0, {}),
  "swag": (32, 2e-5, 10, 0, {}),
  "race": (32, 2e-5, 10, 0, {}),
  "squad": (32, 2e-5, 4, 512, {}),
  "squad2": (32, 2e-5, 4, 512, {}),
  "embed": EMBED,
}

# LUKE's programs and released configurations (Yamada et al. 2020, appendix A).
LUKE = {"optimizer.b2": 0.98, "optimizer.schedule": "linear", "optimizer.clip": 0.0, "task.warmup": 0.06}
LUKE_TASKS = {
  "": (32, 1e-5, 5, 0, {}),  # TACRED's, whose sentences are not cut
  "open_entity": (4, 1e-5, 3, 0, {}),
  "redocred_types": (4, 1e-5, 3, 0, {}),  # Open Entity's
  "conll2003": (8, 1e-5, 5, 512, {}),
  "wnut17": (8, 1e-5, 5, 512, {}),  # CoNLL's
  "redocred_mentions": (8, 1e-5, 5, 512, {}),  # CoNLL's
  "record": (32, 1e-5, 2, 512, {}),
  "squad": (48, 1.5e-5, 2, 512, {}),
  "squad2": (48, 1.5e-5, 2, 512, {}),  # SQuAD 1.1's
  "embed": EMBED,
}

# What papers searched on the dev files of tasks, where the numbers below are one pick: BERT's appendix A.3, on GLUE
# section 4.1 (32 examples, 3 epochs); RoBERTa's table 10; SpanBERT's appendix B. The others' numbers are fixed.
GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")
_GLUE_GRID = {"bert": {"optimizer.lr": (5e-5, 4e-5, 3e-5, 2e-5)},
              "roberta": {"optimizer.lr": (1e-5, 2e-5, 3e-5), "batch_size": (16, 32)}}  # fmt: skip
_GRID = {
  "bert": {"optimizer.lr": (5e-5, 3e-5, 2e-5), "batch_size": (16, 32), "task.epochs": (2, 3, 4)},
  "spanbert": {"optimizer.lr": (5e-6, 1e-5, 2e-5, 3e-5, 5e-5), "batch_size": (16, 32)},
}
_FIXED = ("squad", "squad2", "swag", "race", "embed")  # of BERT; SpanBERT searched for questions too

# What model= names -> the family of what a run starts from, keys of all its tasks, numbers of each.
PUBLISHED = {
  "bert": ("bert", BERT, BERT_TASKS),
  "roberta": ("roberta", ROBERTA, ROBERTA_TASKS),
  "albert": ("albert", ALBERT, ALBERT_TASKS),
  "electra_small": ("electra", *_electra(3e-4, 0.8)),
  "electra": ("electra", *_electra(1e-4, 0.8)),
  "electra_large": ("electra", *_electra(5e-5, 0.9)),
  "spanbert": ("spanbert", SPANBERT, SPANBERT_TASKS),
  "luke": ("luke", LUKE, LUKE_TASKS),
}

# Task -> seed, and the figure of the best epoch on the dev file ("" = the last epoch is taken): LUKE's, whose numbers
# these tasks have where no model is named.
ENTITIES = {
  "open_entity": (12, "f1"),
  "redocred_types": (12, "f1"),
  "tacred": (42, "f1"),
  "semeval": (42, "f1"),
  "redocred_relations": (42, "f1"),
  "conll2003": (35, ""),
  "wnut17": (35, ""),
  "redocred_mentions": (35, ""),
  "record": (4, "exact_match"),
  "squad": (14, ""),
  "squad2": (14, ""),
}
# The same figure for other models and other tasks; of squad2 with the threshold that its answers are given by later.
FIGURES = {
  "open_entity": "f1", "redocred_types": "f1", "tacred": "f1", "semeval": "f1", "redocred_relations": "f1",
  "redocred_mentions": "f1", "record": "exact_match",
  "conll2003": "f1", "wnut17": "f1", "squad": "f1", "squad2": "best_f1", "swag": "accuracy", "race": "accuracy",
  "sst2": "accuracy", "sst5": "accuracy", "cola": "matthews", "mnli": "accuracy", "snli": "accuracy",
  "qnli": "accuracy", "rte": "accuracy", "mrpc": "accuracy", "qqp": "accuracy", "wnli": "accuracy",
  "stsb": "spearman", "embed": "spearman",
}  # fmt: skip
TASKS = tuple(dict.fromkeys((*ENTITIES, *FIGURES)))
DEV_SHARES = {"semeval": 0.1}  # SemEval-2010 has a training and a test file, no dev file
SETTINGS = {"queries": ("1", "4"), "model": (*PUBLISHED, "elmo"), "head": ("tag",)}


def get_config(variant="semeval"):
  parts = [part.strip() for part in variant.split(",")]
  source = [part.removeprefix("init=") for part in parts if part.startswith("init=")]
  if len(source) > 1:
    raise common.VariantError(f"variant {variant!r}: setting 'init' is given twice")
  parts = [part for part in parts if not part.startswith("init=")]
  if "model=elmo" in parts[1:]:
    config = _words([part for part in parts if part != "model=elmo"])
  else:
    config = _pieces(*common.parse_variant(",".join(parts), TASKS, SETTINGS))
  config.init_from = source[0] if source else ""
  return config


def get_grid(variant="sst2,model=bert"):
  """{key: values} that the family's paper searched together on the task; what a run has otherwise is its recipe's."""
  config = get_config(variant)
  name, family = config.task.name, config.model.name
  found = (_GLUE_GRID.get(family) if name in GLUE else None) or _GRID.get(family)
  if not found or name == "embed" or (family == "bert" and name in _FIXED):
    known = "bert, roberta and spanbert on GLUE, bert on tags and classes, spanbert on other tasks"
    raise common.VariantError(f"variant {variant!r}: no search is published, want model= of {known}; say what varies")
  return found


def _words(parts):
  """The recipe of networks on ELMo, with the settings that these have."""
  if parts[0] in TASKS and parts[0] not in elmo_tasks.RECIPES:
    known = ", ".join(elmo_tasks.RECIPES)
    raise common.VariantError(f"task {parts[0]}: model=elmo has no network for it, want one of {known}")
  return elmo_tasks.get_config(",".join(parts))


def _pieces(name, chosen):
  """The recipe of encoders of pieces."""
  named = chosen.get("model", "")
  family, keys, numbers = PUBLISHED[named or ("luke" if name in ENTITIES else "bert")]
  own = name in ENTITIES and family == "luke"
  config = common.base()
  config.batch_size, rate, epochs, length, changes = numbers.get(name, numbers[""])
  config.seed, config.select_by = ENTITIES[name] if own else (0, FIGURES.get(name, ""))
  config.dtype = ""  # that of init_from; bfloat16 for published weights
  config.eval_every = 0  # 0 = once an epoch
  config.save_every = 0  # 0 = once an epoch
  config.log_every = 0  # 0 = 50, or a tenth of the steps if that is fewer
  config.task = common.ConfigDict()
  config.task.name = name
  config.task.dir = ""  # folder of the task's files, or tfds:NAME (data/tasks/tfds_source.py)
  config.task.train = ""  # file in it; empty = the official name
  config.task.dev = ""  # file in it; empty = the official name
  config.task.test = ""  # file in it; empty = the official name, if there is such a file
  config.task.dev_share = DEV_SHARES.get(name, 0.0)  # held out of the training file
  config.task.offsets = "exact"  # squad: exact | nearest, where answers may stand beside the offsets of the file
  config.task.links = ""  # squad: file in it, links of the articles; empty = no entities
  config.task.limit = 0  # first training examples; 0 = all
  config.task.both_orders = False  # train on labelled pairs of texts with the second text first too
  config.task.epochs = epochs
  config.task.patience = 0  # evaluations without a better select_by that end the run; 0 = all epochs
  config.task.predictions = True  # write WORKDIR/predictions at the end, of test files without labels too
  config.task.warmup = 0.0  # share of the steps
  config.task.eval_first = name == "embed"  # evaluate before the first step too
  config.task.fresh = False  # start from the seed, with the sizes and the vocabulary of init_from
  # What does not train: embeddings; encoder = all but the head and the pooler below it; a number of layers from the
  # bottom, and the embeddings. What is frozen whole has no gradient and no moments. A number of layers is a part of
  # each stacked parameter: its rows stay bit for bit, but they have moments, and count in the norm that is clipped.
  config.task.freeze = ""
  config.task.head = chosen.get("head", "")  # tag = also where a LUKE would classify spans; empty = as the model has it
  config.task.queries = int(chosen.get("queries", "0"))  # LUKE: 4 = entity-aware attention, 1 = none; 0 = as its kind
  config.data = common.ConfigDict()
  config.data.length = length  # tokens of an example at most; 0 = 512; the model's positions if those are fewer
  config.data.pack = 8  # examples of one row at most
  config.data.workers = 0  # threads that make batches; 0 = one
  config.data.prefetch = 4  # batches made ahead of the step
  config.model = common.ConfigDict({"name": family if named else ""})  # "" = that of init_from
  config.objective = _objective(name)
  config.optimizer = common.optimizer("adamw")
  config.optimizer.lr = rate
  config.optimizer.layer_decay = 1.0  # of the rate, from each layer to the one below; 1 = all alike
  config.optimizer.layer_decay_top = 1  # how often the top layer has it, below the head
  if named:
    config.model.update({"dropout": 0.1, "attention_dropout": 0.1})
  else:
    keys = {key: value for key, value in keys.items() if not key.startswith("model.")}
  config.update_from_flattened_dict(keys | changes)
  return config


def _objective(name):
  """Labelled examples, or pairs of texts."""
  config = common.objective("pairs" if name == "embed" else "task")
  config.kind = ""  # the task's head
  config.labels = ()  # names of its classes, from the training file
  if name == "embed":
    config.scale = 20.0  # of the cosines, 1 / temperature: sentence-transformers' default
    config.symmetric = False  # second texts rank the first ones too
  else:
    config.target_scale = 1.0  # stsb: the head learns the numbers over this
  return config
