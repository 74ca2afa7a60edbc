"""Byte-level BPE as RoBERTa and LUKE use it, on the `tokenizers` library.

Text is taken as it is: no cleaning, no lower-casing. It is cut as GPT-2 cuts it (contractions; letters, digits or other
marks with one space before them; white space), its UTF-8 bytes are written as one printable character each (the space
as "Ġ"), and pairs are merged in the order in which they were learnt. There are pieces of all bytes, so nothing is
unknown; a piece may be a part of a character, and its span is then the whole character's.

A space belongs to the word after it, so a word has other pieces where nothing stands before it: "world" and " world"
differ. RoBERTa's training data has no space at the start of a line, so the first word of each sentence has the form
without it; a corpus that is prepared here is the same, as each sentence is encoded by itself, and so is `encode` of a
text (`prefix_space` puts a space there, which no released model does).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from data.tokenizers import TokenizerError
from data.tokenizers.added import files_of
from data.tokenizers.backend import (
  CONFIG_NAMES,
  LibraryTokenizer,
  begins_with_mark,
  check_list,
  check_text,
  check_words,
  write,
)

_log = logging.getLogger(__name__)

SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")  # pad, unk, cls, sep, mask
FIRST = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3; the mask is the last piece
SPACE = "Ġ"


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything besides the vocabulary and the merges that decides which pieces a text has. Defaults are RoBERTa's."""

  prefix_space: bool = False  # a space is put before a text that has none; one that it has is in the first span
  mask_takes_space: bool = True  # white space before a mask piece in the text is part of it
  # Where words start. pieces: at pieces that begin with a space, and at the first of a text, as in RoBERTa's code for
  # masking whole words; marks and contractions ("!", "'s") so belong to the word before. text: see `wordsegments`.
  # marks: also at pieces whose first character is a punctuation mark ("'s" stands apart from the word before).
  words: str = "pieces"
  specials: tuple[str, ...] = SPECIALS  # pad, unk, cls, sep, mask
  # Pieces that are found whole, and whether they are names, which only a text with special pieces has.
  added: tuple[tuple[str, bool], ...] = ()

  def __post_init__(self) -> None:
    check_words(self.words)


class ByteBPE(LibraryTokenizer):
  """A vocabulary of byte-level BPE with its merges and settings."""

  kind = "bytebpe"

  def __init__(
    self,
    vocabulary: Sequence[str],
    merges: Sequence[tuple[str, str]],
    settings: Settings,
    source: str = "byte-level BPE",
  ):
    marks = settings.words == "marks"
    begins = [piece.startswith(SPACE) or (marks and begins_with_mark(piece)) for piece in vocabulary]
    super().__init__(vocabulary, settings.specials, source, settings.words, begins, settings.added, SPACE)
    self.merges, self.settings = tuple(map(tuple, merges)), settings
    for n, pair in enumerate(self.merges):
      missing = next((piece for piece in (*pair, "".join(pair)) if piece not in self._ids), None)
      if missing is not None:
        raise TokenizerError(
          f"tokenizer {source}: merge {n} of {pair}: got a vocabulary without {missing!r}, want it there; "
          "use the vocabulary and the merges of one model"
        )
    self.plain = self._backend()
    self.plain.post_processor = processors.ByteLevel(trim_offsets=True, add_prefix_space=settings.prefix_space)
    self.published = self._publish(self._backend())

  def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
    return type(self), (self.vocabulary, self.merges, self.settings, self.source)

  def with_added(self, pieces: Sequence[str]) -> ByteBPE:
    vocabulary, added = self._extended(pieces, self.settings.added)
    return ByteBPE(vocabulary, self.merges, dataclasses.replace(self.settings, added=added), self.source)

  def settings_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self.settings) | {"merges": self.merges}

  def _starts(self, ids: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    starts, special = self._begins[ids], np.isin(ids, self._around)
    starts[firsts] = True
    starts[1:] |= special[:-1]
    return starts | special

  def _lead(self, text: str) -> str:
    if not self.settings.prefix_space:
      return ""
    return "." if text[:1].isalnum() else "a"  # GPT-2's cutting parts letters and digits from marks

  def save(self, directory: str | os.PathLike[str], max_length: int | None = None) -> None:
    names = dict(zip(CONFIG_NAMES, self.settings.specials, strict=True))
    mask = {"content": names["mask_token"], "lstrip": self.settings.mask_takes_space, "rstrip": False}
    mask |= {"__type": "AddedToken", "normalized": False, "single_word": False, "special": True}
    config = {
      "tokenizer_class": "RobertaTokenizer",
      "add_prefix_space": self.settings.prefix_space,
      "trim_offsets": True,
      "bos_token": names["cls_token"],
      "eos_token": names["sep_token"],
      **names,
      "mask_token": mask,
    }
    beside, entries = files_of(self.settings.added, self.id_of)
    config |= entries
    if max_length is not None:
      config["model_max_length"] = max_length
    files: dict[str, str | bytes] = {
      "vocab.json": json.dumps(self._ids, ensure_ascii=False) + "\n",
      "merges.txt": "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in self.merges),
      "tokenizer.json": self.published.to_str(pretty=True) + "\n",
      **beside,
    }
    write(directory, files, config, self.settings.words)

  def _backend(self) -> tokenizers.Tokenizer:
    """The library's tokenizer, blind to the names of special pieces."""
    settings = self.settings
    # A byte without a piece is unknown; where unk_token is not set, the library would drop it.
    backend = tokenizers.Tokenizer(models.BPE(self._ids, list(self.merges), unk_token=settings.specials[1]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.prefix_space)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([*self._plain])
    return backend

  def _publish(self, backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Adds what published files add: special pieces are found in the text, and cls and sep put around it."""
    *others, mask = self.settings.specials
    _, _, cls, sep = others
    lstrip = self.settings.mask_takes_space
    mask = tokenizers.AddedToken(mask, lstrip=lstrip, normalized=False, special=True)
    backend.add_special_tokens([*others, mask, *self._named])
    backend.post_processor = processors.RobertaProcessing(
      (sep, self.special.sep), (cls, self.special.cls), trim_offsets=True, add_prefix_space=self.settings.prefix_space
    )
    return backend


@functools.lru_cache(maxsize=1)
def byte_pieces() -> tuple[str, ...]:
  """The character that stands for each byte, 0 to 255: itself where it is printable, else one from U+0100 on."""
  printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
  others = iter(range(0x100, 0x200))
  return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


def train(texts: Iterable[str], vocab_size: int, words: str = "pieces", min_frequency: int = 2) -> ByteBPE:
  """Learns a vocabulary; the same texts in the same order give the same one in every process.

  The special pieces <s>, <pad>, </s>, <unk> stand first, then the 256 bytes, then the merges, then <mask>. Where the
  text is too small for `vocab_size` pieces, madeupwordN fill the rest before <mask>, as in RoBERTa's own vocabulary.

  Args:
    texts: read once. A text is encoded as it is: its first word has no space before it.
    min_frequency: a pair seen less often is not merged.
    words: see `Settings`.
  Raises:
    TokenizerError: where there is no text, or `vocab_size` has no room for the bytes.
  """
  check_list(texts)
  settings, fixed = Settings(words=words), len(SPECIALS) + len(byte_pieces())
  if vocab_size < fixed:
    raise TokenizerError(
      f"byte-level BPE training: got vocab_size {vocab_size}, want at least {fixed}: {len(SPECIALS)} special pieces "
      f"and {len(byte_pieces())} bytes; raise vocab_size"
    )
  count = 0

  def checked() -> Iterator[str]:
    nonlocal count
    for i, text in enumerate(texts):
      check_text(text, i)
      count += len(text)
      yield text

  backend = tokenizers.Tokenizer(models.BPE())
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size - 1,
    min_frequency=min_frequency,
    special_tokens=list(FIRST),
    initial_alphabet=list(byte_pieces()),
    show_progress=False,
  )
  backend.train_from_iterator(checked(), trainer)
  if not count:
    raise TokenizerError("byte-level BPE training: got no text, want at least one word; check the input files")
  model = json.loads(backend.to_str())["model"]
  vocabulary = sorted(model["vocab"], key=model["vocab"].__getitem__)
  missing = vocab_size - 1 - len(vocabulary)
  if missing:
    _log.warning(
      "byte-level BPE training: the text gives %d pieces, want %d: filled with %d madeupwordN pieces; "
      "give more text, or set vocab_size to %d",
      len(vocabulary) + 1, vocab_size, missing, len(vocabulary) + 1,
    )  # fmt: skip
  vocabulary += [*(f"madeupword{i:04d}" for i in range(missing)), SPECIALS[-1]]
  return ByteBPE(vocabulary, model["merges"], settings, f"byte-level BPE trained here ({vocab_size} pieces)")
