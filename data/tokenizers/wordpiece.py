"""WordPiece as BERT, ELECTRA and SpanBERT use it, on the `tokenizers` library.

Text is cleaned, split at white space, punctuation and CJK ideographs, lower-cased and stripped of accents where the
model is uncased; then each word is cut greedily into the longest pieces, or is [UNK] as a whole.

The library departs from BERT's released Python code in corners: its tables are of an older Unicode, so younger
punctuation marks and accents are treated as letters; it drops private-use characters; ideographs U+2B820 to U+2B91F are
not split; a capital sigma at the end of a word becomes a plain small sigma. The published tokenizer.json files have the
same corners.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from data.tokenizers import TokenizerError
from data.tokenizers.added import files_of
from data.tokenizers.backend import CONFIG_NAMES, LibraryTokenizer, check_list, check_text, check_words, write

_log = logging.getLogger(__name__)

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything besides the vocabulary that decides which pieces a text has. Defaults are the library's, and BERT's."""

  lowercase: bool
  strip_accents: bool | None = None  # None: as `lowercase`
  chinese_chars: bool = True  # each CJK ideograph is a word
  clean_text: bool = True
  prefix: str = "##"  # of pieces that continue a word; "" for vocabularies that do not mark them
  longest_word: int = 100  # characters; a longer word is [UNK]. BERT's released code: 200
  words: str = "pieces"  # where words start. pieces: where no prefix stands. text: in the text, see `wordsegments`
  specials: tuple[str, ...] = SPECIALS  # pad, unk, cls, sep, mask
  # Pieces that are found whole, and whether they are names, which only a text with special pieces has.
  added: tuple[tuple[str, bool], ...] = ()

  def __post_init__(self) -> None:
    check_words(self.words)
    if self.strip_accents == self.lowercase:
      object.__setattr__(self, "strip_accents", None)  # one form of equal settings, for the digest


class WordPiece(LibraryTokenizer):
  """A WordPiece vocabulary with its settings."""

  kind = "wordpiece"

  def __init__(self, vocabulary: Sequence[str], settings: Settings, source: str = "WordPiece"):
    continues = settings.prefix or None
    begins = [continues is None or not piece.startswith(continues) for piece in vocabulary]
    super().__init__(vocabulary, settings.specials, source, settings.words, begins, settings.added)
    self.settings = settings
    self.plain = _backend(self._ids, settings)
    self.published = _publish(_backend(self._ids, settings), self._ids, settings.specials, self._named)

  def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
    return type(self), (self.vocabulary, self.settings, self.source)

  @property
  def unused(self) -> int:
    """How many [unusedN] pieces the vocabulary holds."""
    return sum(piece.startswith("[unused") for piece in self.vocabulary)

  def with_added(self, pieces: Sequence[str]) -> WordPiece:
    vocabulary, added = self._extended(pieces, self.settings.added)
    return WordPiece(vocabulary, dataclasses.replace(self.settings, added=added), self.source)

  def settings_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self.settings)

  def save(self, directory: str | os.PathLike[str], max_length: int | None = None) -> None:
    settings = self.settings
    config = {
      "tokenizer_class": "BertTokenizer",
      "do_lower_case": settings.lowercase,
      "strip_accents": settings.strip_accents,
      "tokenize_chinese_chars": settings.chinese_chars,
      **dict(zip(CONFIG_NAMES, settings.specials, strict=True)),
    }
    beside, entries = files_of(settings.added, self.id_of)
    config |= entries
    if max_length is not None:
      config["model_max_length"] = max_length
    files: dict[str, str | bytes] = {
      "vocab.txt": "".join(piece + "\n" for piece in self.vocabulary),
      "tokenizer.json": self.published.to_str(pretty=True) + "\n",
      **beside,
    }
    write(directory, files, config, settings.words)


def _backend(ids: dict[str, int], settings: Settings) -> tokenizers.Tokenizer:
  """The library's tokenizer, blind to the names of special pieces."""
  backend = tokenizers.Tokenizer(
    models.WordPiece(
      ids,
      unk_token=settings.specials[1],
      continuing_subword_prefix=settings.prefix,
      max_input_chars_per_word=settings.longest_word,
    )
  )
  backend.normalizer = normalizers.BertNormalizer(
    clean_text=settings.clean_text,
    handle_chinese_chars=settings.chinese_chars,
    strip_accents=settings.strip_accents,
    lowercase=settings.lowercase,
  )
  backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  backend.decoder = decoders.WordPiece(prefix=settings.prefix)
  backend.add_tokens([piece for piece, is_name in settings.added if not is_name])
  return backend


def _publish(
  backend: tokenizers.Tokenizer, ids: dict[str, int], names: Sequence[str], added: Sequence[str]
) -> tokenizers.Tokenizer:
  """Adds what published files add: special pieces are found in the text, and cls and sep put around it."""
  _, _, cls, sep, _ = names
  backend.add_special_tokens([*names, *added])
  backend.post_processor = processors.TemplateProcessing(
    single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=[(cls, ids[cls]), (sep, ids[sep])]
  )
  return backend


def train(
  texts: Iterable[str],
  vocab_size: int,
  lowercase: bool = True,
  words: str = "pieces",
  alphabet: int = 1000,
  min_frequency: int = 2,
  longest_word: int = 100,
) -> WordPiece:
  """Learns a vocabulary; the same texts in the same order give the same one in every process.

  Pieces are merged by the frequency of the pair, as the library does it; the method's paper (Schuster and Nakajima
  2012, section 3) merges by likelihood. The special pieces stand first, then the characters, then the merges. Where the
  text is too small for `vocab_size` pieces, [unusedN] fill the rest, counted in `unused` and logged, so that the size
  is always the model's.

  Args:
    texts: read twice; an iterator that can be read only once is held in memory.
    alphabet: how many characters are kept, the most frequent ones; words with others become [UNK]. Chinese and
      Japanese need about 8000.
    min_frequency: a pair seen less often is not merged.
    lowercase, words, longest_word: see `Settings`; an uncased vocabulary also strips accents.
  Raises:
    TokenizerError: where there is no text, or the characters alone exceed `vocab_size`.
  """
  check_list(texts)
  settings = Settings(lowercase=lowercase, words=words, longest_word=longest_word)
  texts = list(texts) if iter(texts) is texts else texts
  kept, continuing = _characters(texts, settings, alphabet)
  fixed = [*SPECIALS, *continuing]
  if len(fixed) + len(kept) > vocab_size:
    raise TokenizerError(
      f"WordPiece training: got vocab_size {vocab_size}, want at least {len(fixed) + len(kept)}: {len(SPECIALS)} "
      f"special pieces, {len(kept)} characters, {len(continuing)} of them inside words too; "
      "raise vocab_size or lower alphabet"
    )
  # The library numbers "##c" pieces in the order of a hash map, and breaks ties by number; named as special pieces they
  # stand in our order.
  trainer = trainers.WordPieceTrainer(
    vocab_size=vocab_size,
    min_frequency=min_frequency,
    special_tokens=fixed,
    initial_alphabet=kept,
    limit_alphabet=len(kept),
    show_progress=False,
  )
  backend = _backend({SPECIALS[1]: 0}, settings)
  backend.train_from_iterator(texts, trainer)
  ids = backend.get_vocab()
  vocabulary = sorted(ids, key=ids.__getitem__)
  missing = vocab_size - len(vocabulary)
  if missing:
    _log.warning(
      "WordPiece training: the text gives %d pieces, want %d: filled with %d [unusedN] pieces; "
      "give more text, or set vocab_size to %d",
      len(vocabulary), vocab_size, missing, len(vocabulary),
    )  # fmt: skip
  vocabulary += [f"[unused{i}]" for i in range(missing)]
  return WordPiece(vocabulary, settings, f"WordPiece trained here ({vocab_size} pieces)")


def _characters(texts: Iterable[str], settings: Settings, alphabet: int) -> tuple[list[str], list[str]]:
  """The most frequent characters in code point order, and "##c" for those of them that continue a word."""
  counts: Counter[str] = Counter()
  backend = _backend({SPECIALS[1]: 0}, settings)
  normalize: Callable[[str], str] = backend.normalizer.normalize_str

  def normalized() -> Iterator[str]:
    for i, text in enumerate(texts):
      check_text(text, i)
      text = normalize(text)
      counts.update(text)
      yield text

  # With no room for merges, training yields the characters: each alone, and prefixed where it continues a word.
  trainer = trainers.WordPieceTrainer(vocab_size=0, special_tokens=[], show_progress=False)
  backend.train_from_iterator(normalized(), trainer)
  found = backend.get_vocab()
  single = sorted((piece for piece in found if len(piece) == 1), key=lambda char: (-counts[char], char))[:alphabet]
  if not single:
    raise TokenizerError("WordPiece training: got no text, want at least one word; check the input files")
  single.sort()
  return single, [settings.prefix + char for char in single if settings.prefix + char in found]
