"""Published weights in Hugging Face's layout, or AllenNLP's of an ELMo, in and out.

    python -m models.hf export --source=runs/bert --target=bert-hf       a run's newest checkpoint, for transformers
    python -m models.hf import --source=bert-base-uncased --target=runs/bert-base    a workdir to go on from
    python -m models.hf export --source=runs/elmo --target=elmo          an ELMo, for AllenNLP

A folder is config.json, model.safetensors (or its index and parts) and the tokenizer's files; an export carries
SHA256SUMS. LUKE's folders hold an entity_vocab.json too; exports get rows for the markers <ent>, <ent2> and [MASK2].
Unpacked archives of its original code (metadata.json, entity_vocab.tsv) come in with --pytorch_bin. With --tensorflow
the source is a checkpoint of the original BERT, ALBERT or ELECTRA code. An ELMo's folder is AllenNLP's, and comes in
with a vocab.txt beside its files, which lack the softmax: it starts from the seed. Nothing is guessed: tensors that are
missing, extra or of another shape are listed by name. predict.py and `--config.init_from` read folders without an
import. The last line on stdout is a JSON summary; wrong input ends with one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status."""
  from trainer.command import USER_ERROR, OneLineParser

  parser = OneLineParser(
    prog="python -m models.hf", allow_abbrev=False, description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  verbs = parser.add_subparsers(dest="verb", required=True)
  for verb in ("import", "export"):
    own = verbs.add_parser(verb, allow_abbrev=False)
    own.add_argument("--source", required=True, type=Path, metavar="DIR")
    own.add_argument("--target", required=True, type=Path, metavar="DIR", help="a new folder")
  importing = verbs.choices["import"]
  importing.add_argument("--fresh_heads", action="store_true", help="heads that the weights lack start from the seed")
  importing.add_argument("--pytorch_bin", action="store_true", help="read pytorch_model.bin, through a safe loader")
  importing.add_argument("--tensorflow", action="store_true", help="a checkpoint of the original code, or its prefix")
  flags = parser.parse_args(argv)
  from data.tokenizers import TokenizerError
  from models.published.errors import WeightsError
  from trainer import exchange
  from trainer.console import set_up_logging
  from trainer.manifest import CheckpointError
  from trainer.rules import ConfigError
  from trainer.texts import InputError

  set_up_logging(sys.stderr.isatty())
  try:
    if flags.verb == "export":
      summary = exchange.export_run(flags.source, flags.target)
    else:
      summary = exchange.import_weights(
        flags.source, flags.target, flags.fresh_heads, flags.pytorch_bin, flags.tensorflow
      )
  except (InputError, WeightsError, ConfigError, CheckpointError, TokenizerError, OSError) as error:
    print(f"models.hf {flags.verb}: {' '.join(str(error).split())}", file=sys.stderr)
    return USER_ERROR
  print(json.dumps({"command": flags.verb, **summary}))
  return 0


if __name__ == "__main__":
  sys.exit(main())
