"""Pieces added to a vocabulary behind its own, such as LUKE's <ent> and <ent2>, and the files that name them.

Repositories without a tokenizer.json have them in added_tokens.json, or under added_tokens_decoder in
tokenizer_config.json; which of them are names (special), and so only found where names are looked for, stands in
tokenizer_config.json and special_tokens_map.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from data.tokenizers import Files, Tokenizer, TokenizerError

Added = tuple[tuple[str, bool], ...]  # pieces, and whether they are names

_NAMED = ("additional_special_tokens", "extra_special_tokens", "entity_token_1", "entity_token_2")


def new_pieces(tokenizer: Tokenizer, pieces: Sequence[str], is_name: Callable[[str], Any]) -> list[str]:
  """Those of `pieces` that the tokenizer lacks, each once, in order.

  Args:
    is_name: whether a piece of the vocabulary is one that is found whole; such a one may be given again.
  Raises:
    TokenizerError: for a piece that is no name, or is an ordinary piece of the vocabulary.
  """
  if isinstance(pieces, str):
    raise TokenizerError(f"added pieces: got one string {pieces!r:.40}, want a list of names; wrap it in a list")
  for piece in pieces:
    if not isinstance(piece, str) or not piece or piece != "".join(piece.split()):
      raise TokenizerError(f"added piece: got {piece!r:.40}, want a name without white space; give another one")
    if piece in tokenizer.vocabulary and not is_name(piece):
      raise TokenizerError(
        f"added piece {piece!r}: got an ordinary piece of tokenizer {tokenizer.source}, id {tokenizer.id_of(piece)}, "
        "want one that no text gives; choose another name"
      )
  return [piece for piece in dict.fromkeys(pieces) if piece not in tokenizer.vocabulary]


def copied_row(tokenizer: Tokenizer, piece: str) -> int:
  """The row that a new piece copies: that of `piece`, or of SentencePiece's form of it at the beginning of a word; of
  the unknown piece where a small vocabulary has neither, as a text would get.
  """
  known = (each for each in (piece, f"▁{piece}") if each in tokenizer.vocabulary)
  return next(map(tokenizer.id_of, known), tokenizer.special.unk)


def beside(files: Files, vocabulary: Sequence[str], specials: Sequence[str]) -> tuple[list[str], Added]:
  """A vocabulary with the pieces that stand beside it, and which these are, besides the special ones.

  Raises:
    TokenizerError: where their ids do not go on from the vocabulary's.
  """
  ids: dict[str, int] = dict(files.added)
  names = {_content(name) for source in (files.config, files.special_map) for name in _named(source)}
  for i, entry in files.config.get("added_tokens_decoder", {}).items():
    if ids.setdefault(entry["content"], int(i)) != int(i):
      raise TokenizerError(
        f"tokenizer {files.path}: added piece {entry['content']!r}: got id {ids[entry['content']]} in "
        f"added_tokens.json and {i} in tokenizer_config.json, want them to agree; correct the wrong one"
      )
    names |= {entry["content"]} if entry["special"] else set()
  whole, own = [*vocabulary], {piece: i for i, piece in enumerate(vocabulary)}
  added = sorted(ids, key=ids.__getitem__)
  for piece in added:
    want = own.get(piece, len(whole))
    whole += [] if piece in own else [piece]
    if ids[piece] != want:
      raise TokenizerError(
        f"tokenizer {files.path}: added piece {piece!r}: got id {ids[piece]}, want {want}, as ids have no gaps and a "
        "piece has one; use the files of one model"
      )
  return whole, tuple((piece, piece in names) for piece in added if piece not in specials)


def _named(source: dict[str, Any]) -> Iterable[Any]:
  """Names in a settings file: a key holds one, a list of them, or an object of them."""
  for key in _NAMED:
    value = source.get(key) or []
    if isinstance(value, str) or "content" in value:
      yield value
    else:
      yield from value.values() if isinstance(value, dict) else value


def _content(name: Any) -> str:
  return name["content"] if isinstance(name, dict) else name


def files_of(added: Added, id_of: Callable[[str], int]) -> tuple[dict[str, str | bytes], dict[str, Any]]:
  """(files, entries of tokenizer_config.json) that name added pieces; none where there is nothing to name."""
  names = [piece for piece, is_name in added if is_name]
  listed = json.dumps({piece: id_of(piece) for piece, _ in added}, ensure_ascii=False, indent=2) + "\n"
  return {"added_tokens.json": listed} if added else {}, {"additional_special_tokens": names} if names else {}
