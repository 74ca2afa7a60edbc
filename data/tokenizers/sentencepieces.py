"""SentencePiece unigram as ALBERT uses it, on the `sentencepiece` library.

Text is cleaned as in ALBERT's released code (`cleaning`), then the library normalises it (by its tables of NFKC, which
put Hangul syllables together again), puts "▁" before every word and takes the most likely pieces. A piece that ends in
a comma after a digit is taken apart (`SentencePiece.encode`). With the accents, kana lose their voicing marks: for
Japanese, train with `keep_accents`.

The `tokenizers` library, for which tokenizer.json is written, comes close to that and not quite: it lowers the score of
pieces with such commas instead (the released code leaves <unk> where a number has no piece without "▁"), leaves Hangul
in letters, drops marks by category instead of by combining class (which touches Indic vowel signs), and lower-cases a
final sigma otherwise.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import logging
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import sentencepiece
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as LibraryBackend

from data.tokenizers import TokenizerError
from data.tokenizers.added import new_pieces
from data.tokenizers.backend import CONFIG_NAMES, begins_with_mark, check_list, check_text, check_words, write
from data.tokenizers.cleaning import clean, in_source
from data.tokenizers.unigram import SPACE, ModelProto, Piece, Unigram, parse

SPECIALS = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
USER_DEFINED = ("(", ")", '"', "-", ".", "–", "£", "€")  # always pieces of their own
# Scores in tokenizer.json, which has no other place for it; those of learnt pieces lie between -100 and 0.
COMMA_PENALTY = 100.0  # off the score of pieces such as "5,"
UNUSED_SCORE = -1e6  # of pieces that no text gives
_RESERVED = str.maketrans("▁▅", "  ")  # the trainer leaves texts with U+2585 out; "▁" is white space to it
_THREADS = 16  # the pieces learnt depend on it; this is the trainer's own default

_log = logging.getLogger(__name__)
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
_MARKS = frozenset('!"#$%&()*+,-./:;?@[\\]^_`{|}~€£')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything besides the model that decides which pieces a text has. Defaults are ALBERT's."""

  lowercase: bool = True
  keep_accents: bool = False  # and what else NFKD changes
  # Where words start. pieces: as in ALBERT's create_pretraining_data.py, see `begins_word`; text: see `wordsegments`.
  words: str = "pieces"
  specials: tuple[str, ...] = SPECIALS  # pad, unk, cls, sep, mask

  def __post_init__(self) -> None:
    check_words(self.words)


class SentencePiece(Unigram):
  """A unigram model with its settings. Pieces added to it are control symbols of the model, behind all others.

  A piece that ends in a comma after a digit ("▁1,") is encoded again without its comma, which becomes a piece of its
  own, as in ALBERT's tokenization.py.
  """

  kind = "sentencepiece"

  def __init__(self, model: bytes, settings: Settings, source: str = "SentencePiece"):
    self.settings = settings
    parsed = parse(model, source)
    vocabulary = [piece.piece for piece in parsed.proto.pieces]
    controls = [piece.piece for piece in parsed.proto.pieces if piece.type == Piece.CONTROL]
    added = [name for name in controls if name not in settings.specials]
    first = marked_word if settings.words == "marks" else begins_word
    begins = [*map(first, vocabulary)]
    super().__init__(parsed, vocabulary, settings.specials, added, source, settings.words, begins)
    for i in (self.special.pad, self.special.cls, self.special.sep, self.special.mask):
      if self.vocabulary[i] not in controls:
        raise TokenizerError(
          f"tokenizer {source}: got an ordinary piece {self.vocabulary[i]!r}, want it as a control symbol, which no "
          "text gives; name the model's own special pieces in tokenizer_config.json"
        )

  def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
    return type(self), (self.model, self.settings, self.source)

  def with_added(self, pieces: Sequence[str]) -> SentencePiece:
    proto = ModelProto.FromString(self.model)
    for piece in new_pieces(self, pieces, self._names.fullmatch):
      proto.pieces.add(piece=piece, score=0.0, type=Piece.CONTROL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return SentencePiece(proto.SerializeToString(deterministic=True), self.settings, self.source)

  def settings_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self.settings) | self.model_dict()

  def _pieces(self, text: str, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    cleaned, source = clean(text[first:end], self.settings.lowercase, self.settings.keep_accents)
    found = self._processor.encode_as_offset_mapping(cleaned)
    ids, pieces, spans = found["ids"], found["pieces"], found["offsets"]
    commas = [i for i, piece in enumerate(pieces) if digit_comma(piece)]
    for i in reversed(commas):
      ids[i : i + 1], spans[i : i + 1] = self._without_comma(cleaned, pieces[i], spans[i])
    flat = np.fromiter(itertools.chain.from_iterable(spans), np.int64, 2 * len(spans)).reshape(-1, 2)
    return np.array(ids, np.int32), (in_source(cleaned, flat, source) + first).astype(np.int32)

  def _without_comma(self, text: str, piece: str, span: tuple[int, int]) -> tuple[list[int], list[tuple[int, int]]]:
    """The ids and spans of a piece whose last character is a comma that stands apart."""
    rest = piece[:-1].replace(SPACE, "")
    found = self._processor.encode_as_offset_mapping(rest)
    ids, pieces, spans = found["ids"], found["pieces"], found["offsets"]
    if piece[0] != SPACE and pieces[0][0] == SPACE:
      if pieces[0] == SPACE:
        ids, spans = ids[1:], spans[1:]
      else:
        ids[0] = self._processor.piece_to_id(pieces[0][1:])
    end = span[1] - 1
    first = end - len(rest)
    same = text[first:end] == rest  # else the library's normalisation changed it: no finer span is known
    spans = [(first + a, first + b) if same else (span[0], end) for a, b in spans]
    return [*ids, self._processor.piece_to_id(",")], [*spans, (end, span[1])]

  def save(self, directory: str | os.PathLike[str], max_length: int | None = None) -> None:
    settings, names = self.settings, dict(zip(CONFIG_NAMES, self.settings.specials, strict=True))
    config = {
      "tokenizer_class": "AlbertTokenizer",
      "do_lower_case": settings.lowercase,
      "keep_accents": settings.keep_accents,
      "remove_space": True,
      "bos_token": names["cls_token"],
      "eos_token": names["sep_token"],
      **names,
    }
    if max_length is not None:
      config["model_max_length"] = max_length
    files: dict[str, str | bytes] = {
      "spiece.model": self.model,
      "tokenizer.json": self._published().to_str(pretty=True) + "\n",
    }
    write(directory, files, config, settings.words)

  def _published(self) -> LibraryBackend:
    """The nearest that the `tokenizers` library has, as published files hold it."""
    settings, charsmap = self.settings, self._proto.normalizer_spec.precompiled_charsmap
    scores = [(each.piece, _library_score(each)) for each in self._proto.pieces]
    backend = LibraryBackend(models.Unigram(scores, unk_id=self.special.unk, byte_fallback=False))
    steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    steps += [] if settings.keep_accents else [normalizers.NFKD(), normalizers.StripAccents()]
    steps += [normalizers.Lowercase()] if settings.lowercase else []
    steps += [normalizers.Precompiled(charsmap)] if charsmap else []
    backend.normalizer = normalizers.Sequence(steps)
    spaces = {"replacement": SPACE, "prepend_scheme": "always"}
    backend.pre_tokenizer = pre_tokenizers.Sequence(
      [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**spaces)]
    )
    backend.decoder = decoders.Metaspace(**spaces)
    *others, mask = settings.specials
    backend.add_special_tokens([*others, AddedToken(mask, lstrip=True, normalized=False, special=True)])
    _, _, cls, sep = others
    ids = [(cls, self.special.cls), (sep, self.special.sep)]
    backend.post_processor = processors.TemplateProcessing(
      single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=ids
    )
    return backend


def _library_score(piece: Piece) -> float:
  return UNUSED_SCORE if piece.type == Piece.UNUSED else piece.score - COMMA_PENALTY * digit_comma(piece.piece)


def begins_word(piece: str) -> bool:
  """Whether a piece begins a word, as in ALBERT's create_pretraining_data.py.

  It does with a "▁" or a "<" in front, if it is one of a set of punctuation marks, or if it holds anything besides
  these marks and the letters a to z: each piece with a digit, an apostrophe or a letter of another script is a word.
  """
  return (
    piece.startswith((SPACE, "<")) or piece in _MARKS or not all(c.lower() in _LETTERS or c in _MARKS for c in piece)
  )


def marked_word(piece: str) -> bool:
  """Whether a piece begins with a space or a punctuation mark."""
  return piece.startswith(SPACE) or begins_with_mark(piece)


def digit_comma(piece: str) -> bool:
  """Whether a piece ends in a comma after a digit."""
  return piece[-1:] == "," and piece[-2:-1].isdigit()


def train(
  texts: Iterable[str],
  vocab_size: int,
  lowercase: bool = True,
  words: str = "pieces",
  keep_accents: bool = False,
  character_coverage: float = 0.99995,
  sentences: int = 10_000_000,
) -> SentencePiece:
  """Learns a unigram model from cleaned texts; the same texts in the same order give the same one in every process.

  The special pieces stand first, then `USER_DEFINED`, then the learnt pieces, the most likely first. Where the text is
  too small for `vocab_size` pieces, [unusedN] fill the rest. Defaults are ALBERT's, whose vocabulary has 30,000 pieces.

  Args:
    texts: read once, and held in memory, `sentences` of them at most, which are drawn from all with a fixed seed.
    character_coverage: share of the text's characters that get a piece; the rarest ones are unknown.
    lowercase, words, keep_accents: see `Settings`.
  Raises:
    TokenizerError: where there is no text, or the characters alone exceed `vocab_size`.
  """
  check_list(texts)
  settings, written = Settings(lowercase=lowercase, keep_accents=keep_accents, words=words), io.BytesIO()
  kept = _sample(_cleaned(texts, settings), sentences)
  if not kept:
    raise TokenizerError("SentencePiece training: got no text, want at least one word; check the input files")
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(kept),
      model_writer=written,
      vocab_size=vocab_size,
      hard_vocab_limit=False,  # a small text gives less
      model_type="unigram",
      character_coverage=character_coverage,
      pad_id=0,
      unk_id=1,
      bos_id=-1,
      eos_id=-1,
      pad_piece=SPECIALS[0],
      unk_piece=SPECIALS[1],
      control_symbols=list(SPECIALS[2:]),
      user_defined_symbols=list(USER_DEFINED),
      max_sentence_length=1 << 30,  # bytes; the default leaves long texts out
      shuffle_input_sentence=False,
      num_threads=_THREADS,
      minloglevel=2,
    )
  except RuntimeError as error:
    reason = " ".join(str(error).rpartition("] ")[2].split()) or str(error)
    raise TokenizerError(
      f"SentencePiece training: got vocab_size {vocab_size}, want one with room for the characters and "
      f"{len(SPECIALS) + len(USER_DEFINED)} fixed pieces: {reason}"
    ) from None
  model = _fill(written.getvalue(), vocab_size)
  return SentencePiece(model, settings, f"SentencePiece trained here ({vocab_size} pieces)")


def _cleaned(texts: Iterable[str], settings: Settings) -> Iterator[str]:
  for i, text in enumerate(texts):
    check_text(text, i)
    cleaned, _ = clean(text, settings.lowercase, settings.keep_accents)
    if plain := cleaned.translate(_RESERVED).strip():
      yield plain


def _sample(texts: Iterable[str], n: int) -> list[str]:
  """n texts, each with the same chance, or all where there are no more."""
  dice, kept = random.Random(0), []
  for i, text in enumerate(texts):
    if i < n:
      kept.append(text)
    elif (place := dice.randrange(i + 1)) < n:
      kept[place] = text
  return kept


def _fill(model: bytes, vocab_size: int) -> bytes:
  """The model with pieces [unusedN] up to `vocab_size`."""
  proto = ModelProto.FromString(model)
  missing = vocab_size - len(proto.pieces)
  if not missing:
    return model
  _log.warning(
    "SentencePiece training: the text gives %d pieces, want %d: filled with %d [unusedN] pieces; "
    "give more text, or set vocab_size to %d",
    len(proto.pieces), vocab_size, missing, len(proto.pieces),
  )  # fmt: skip
  proto.trainer_spec.vocab_size = vocab_size
  for i in range(missing):
    proto.pieces.add(piece=f"[unused{i}]", score=0.0, type=Piece.UNUSED)
  return proto.SerializeToString(deterministic=True)
