"""Where documents come from: `open_source(spec)`.

demo                        106 articles of English Wikipedia (extra [demo])
PATH.txt, FOLDER            plain text, its form found out; `lines:PATH` or `text:PATH` says it
PATH.jsonl[.gz]             one object a line: "text", and optionally "title", "id", "entities", "noun_phrases" and
                            "links", see `_json_document`
PATH.xml[.bz2]              a MediaWiki pages-articles dump (extra [wiki])
tfds:NAME[:SPLIT[:FIELD]]   a data set of TFDS, or the folder of one
0.7*SPEC+0.3*SPEC           a mixture, see `_mixture`
"""

from __future__ import annotations

import bisect
import dataclasses
import importlib.util
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data import draws, reading, titles, wiki
from data.annotations import ANNOTATIONS
from data.documents import Document, Skipped, sentences
from data.reading import SourceError
from data.sentences import check_language
from data.stripper import Stripper

_DEMO = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_TERM = re.compile(r"\s*(\d+\.?\d*|\.\d+)\*")
_BETWEEN_TERMS = re.compile(r"\+(?=\s*(?:\d+\.?\d*|\.\d+)\*)")

Reader = Callable[[Counter, bool], Iterator[Document]]  # what is left out, by reason; whether links are wanted


class Source:
  """Documents of a corpus, in a fixed order.

  Iterating yields documents of sentences. `raw` yields them as they are stored, for whoever runs
  `data.documents.sentences` elsewhere. `skipped` counts what the latest iteration left out, by reason.
  """

  def __init__(self, spec: str, language: str, read: Reader, files: tuple[Path, ...] = (), identity: Any = None):
    self.spec, self.language, self.files = spec, language, files
    self.identity = identity  # what tells this source from another of its spec, beside its files
    self.skipped: Counter = Counter()
    self._read = read

  def raw(self, linked: bool = False) -> Iterator[Document]:
    """Documents as they are stored; where they are wanted `linked`, also redirects, and the links of JSON documents."""
    self.skipped.clear()
    return self._read(self.skipped, linked)

  def __iter__(self) -> Iterator[Document]:
    stripper = Stripper()
    try:
      for document in self.raw():
        try:
          yield sentences(document, self.language, stripper.prose)
        except Skipped as reason:
          self.skipped[str(reason)] += 1
    finally:
      stripper.close()


def open_source(spec: str, language: str = "en", seed: int = 0) -> Source:
  """The source that `spec` names.

  Args:
    spec: see the module.
    language: of the text, an ISO 639 code; decides how plain text is divided.
    seed: of a mixture's draws.
  Raises:
    SourceError: nothing there, an unknown form, or a package that is not installed; one line.
  """
  check_language(language)
  if not spec.strip():
    raise SourceError("corpus: got an empty name, want demo, a file, a folder, tfds:NAME or a mixture of such")
  if _TERM.match(spec) and not Path(spec).exists():
    return _mixture(spec, language, seed)
  kind, colon, rest = spec.partition(":")
  if spec == "demo":
    return _dump(_demo_file(), spec, language)
  if colon and kind == "tfds":
    return _tfds(spec, rest, language)
  if colon and kind in ("lines", "text"):
    return _plain(Path(rest), spec, language, kind)
  return _path(Path(spec), spec, language)


def _path(path: Path, spec: str, language: str) -> Source:
  if not path.exists():
    raise SourceError(
      f"corpus {spec}: no such file or folder, want demo, a .txt, .jsonl, .xml or .xml.bz2 file, a folder of .txt "
      "files, tfds:NAME or a mixture such as 0.7*a.txt+0.3*b.jsonl"
    )
  suffixes = [suffix for suffix in path.suffixes if suffix not in (".gz", ".bz2")]
  kind = suffixes[-1].lower() if suffixes else ""
  if path.is_dir() or kind == ".txt":
    return _plain(path, spec, language, None)
  if kind in (".jsonl", ".ndjson"):
    return Source(spec, language, lambda *how: _json_documents(path, *how), (path,))
  if kind == ".xml" or path.name == Path(_DEMO).name:
    return _dump(path, spec, language)
  raise SourceError(
    f"corpus {spec}: unknown kind of file {path.name}, want .txt, .jsonl, .xml or .xml.bz2 "
    "(for plain text of another name, say lines:PATH or text:PATH)"
  )


def _plain(path: Path, spec: str, language: str, form: str | None) -> Source:
  if not path.exists():
    raise SourceError(f"corpus {spec}: no such file or folder {path}")
  files = tuple(sorted(path.rglob("*.txt"))) if path.is_dir() else (path,)
  if not files:
    raise SourceError(f"corpus {spec}: the folder {path} holds no .txt file")
  found = form or reading.form_of(list(files), language)

  def read(skipped: Counter, linked: bool) -> Iterator[Document]:
    for file in files:
      name = file.relative_to(path).as_posix() if path.is_dir() else file.name
      yield from reading.text_documents(file, name, found, language, skipped)

  return Source(spec, language, read, files, {"form": found})


def _json_documents(path: Path, skipped: Counter, linked: bool) -> Iterator[Document]:
  for number, line in enumerate(reading.lines(path)):
    if line is None:
      skipped["bad UTF-8"] += 1
    elif line.strip():
      document = _json_document(line, f"{path.name}:{number}", linked)
      if isinstance(document, str):
        skipped[document] += 1
      else:
        yield document


def _json_document(line: str, name: str, linked: bool) -> Document | str:
  """A document, or the reason why the line holds none.

  "text" is running text, or a list of sentences. "entities" and "noun_phrases" are lists of [first, end]: the first
  character of a span of "text" and one past its last, in code points; in a list, of its sentences joined by newlines.
  "links" is a list of [first, end, title], such spans apart from one another and the page that each speaks of.
  """
  try:
    value = json.loads(line)
  except (ValueError, RecursionError):
    return "bad JSON"
  if not isinstance(value, dict):
    return "bad JSON"
  text, title = value.get("text"), value.get("title")
  listed = isinstance(text, list) and all(isinstance(sentence, str) for sentence in text)
  if not (isinstance(text, str) or listed):
    return "no text field"
  size = len("\n".join(text)) if listed else len(text)
  annotations = {kind: value[kind] for kind in ANNOTATIONS if value.get(kind) is not None}
  if not all(_are_spans(spans, size) for spans in annotations.values()):
    return "bad annotation"
  links = _json_links(value.get("links"), text, size) if linked else None
  if isinstance(links, str):
    return links
  identity = value.get("id")
  name = str(identity) if isinstance(identity, (str, int)) else name
  title = title if isinstance(title, str) else None
  return Document(name, title, text, annotations=annotations or None, links=links)


def _are_spans(value: Any, size: int) -> bool:
  """Whether `value` is a list of pairs of ints, each a span, not empty, of `size` characters."""
  if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
    return False
  return all(type(first) is type(end) is int and 0 <= first < end <= size for first, end in value)


def _json_links(value: Any, text: str | list[str], size: int) -> list[list[tuple[int, int, str]]] | str:
  """Links of the one text, or of each sentence of a list those that it holds whole; "bad link" where one is wrong."""
  value = [] if value is None else value
  if not isinstance(value, list) or not all(isinstance(link, list) and len(link) == 3 for link in value):
    return "bad link"
  value = sorted(value, key=lambda link: link[0] if type(link[0]) is int else -1)
  named = all(isinstance(title, str) and titles.normalise(title) for *_, title in value)
  if not named or not _are_spans([link[:2] for link in value], size):
    return "bad link"
  if any(end > first for (_, end, _), (first, *_) in itertools.pairwise(value)):
    return "bad link"
  ends = list(itertools.accumulate((len(part) + 1 for part in ([text] if isinstance(text, str) else text)), initial=0))
  rows: list[list[tuple[int, int, str]]] = [[] for _ in ends[1:]]
  for first, end, title in value:
    row = bisect.bisect_right(ends, first) - 1
    if end < ends[row + 1]:
      rows[row].append((first - ends[row], end - ends[row], titles.normalise(title)))
  return rows


def _demo_file() -> Path:
  found = importlib.util.find_spec("gensim")  # does not import it
  folders = list(found.submodule_search_locations or ()) if found else []
  for folder in folders:
    if (path := Path(folder) / _DEMO).exists():
      return path
  raise SourceError("corpus demo: needs the package gensim, which carries the text: pip install 'septet[demo]'")


def _dump(path: Path, spec: str, language: str) -> Source:
  def read(skipped: Counter, linked: bool) -> Iterator[Document]:
    with reading.open_bytes(path) as stream:
      dump = wiki.open_dump(stream, path.name)
      for page in dump.pages:
        if page.namespace != 0:
          skipped["other namespace"] += 1
        elif page.redirect is not None and linked:
          yield Document(str(page.id), page.title, "", redirect=page.redirect)
        elif page.redirect is not None:
          skipped["redirect"] += 1
        elif len(page.text) > wiki.PAGE_CHARS:
          skipped["over the size limit"] += 1
        else:
          yield Document(str(page.id), page.title, page.text, dump.namespaces)

  return Source(spec, language, read, (path,))


def _tfds(spec: str, rest: str, language: str) -> Source:
  """TFDS without TensorFlow: the records are ArrayRecord; a set that is not there yet is prepared so."""
  import tensorflow_datasets as tfds

  name, split, field = (*rest.split(":"), "", "")[:3]
  split = split or "train"
  try:
    if Path(name).is_dir():
      builder = tfds.builder_from_directory(name)
    else:
      tfds.text  # noqa: B018  registers the text data sets, which are looked up lazily
      builder = tfds.builder(name, file_format="array_record")
      builder.download_and_prepare()
    records = builder.as_data_source(split)
  except Exception as error:  # noqa: BLE001  TFDS raises what its builders raise; the line names the data set
    reason = str(error).strip().split("\n")[0]
    raise SourceError(f"corpus {spec}: TFDS cannot open split {split!r} of {name}: {reason}") from error
  field = _text_field(builder, field, spec)
  titled = "title" in builder.info.features

  def read(skipped: Counter, linked: bool) -> Iterator[Document]:
    for number in range(len(records)):
      record = records[number]
      try:
        text, title = _string(record[field]), _string(record["title"]) if titled else None
      except UnicodeDecodeError:
        skipped["bad UTF-8"] += 1
        continue
      yield Document(f"{split}:{number}", title, text)

  identity = {"dataset": builder.info.full_name, "split": split, "field": field, "documents": len(records)}
  return Source(spec, language, read, (), identity)


def _text_field(builder: Any, field: str, spec: str) -> str:
  features = builder.info.features
  texts = [key for key, feature in features.items() if type(feature).__name__ == "Text"]
  if not field and "text" in texts:
    return "text"
  if not field and len(texts) == 1:
    return texts[0]
  if field not in texts:
    raise SourceError(f"corpus {spec}: got field {field!r}, want one of the text fields {', '.join(texts) or '(none)'}")
  return field


def _string(value: bytes | str) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)


def _mixture(spec: str, language: str, seed: int) -> Source:
  """Documents drawn from several sources; a weight is a source's share of the documents drawn.

  Draw n picks a source with probability weight / sum of weights, by `draws` alone, and takes that source's next
  document. No document is taken twice: the mixture ends where the picked source has none left, so the shares hold from
  beginning to end. Shares count documents before empty ones are removed, not tokens.
  """
  weights, parts = [], []
  for number, term in enumerate(_BETWEEN_TERMS.split(spec)):
    match = _TERM.match(term)
    if match is None or float(match.group(1)) <= 0:
      raise SourceError(f"corpus {spec}: term {number + 1} is {term!r}, want WEIGHT*SPEC with a weight above 0")
    weights.append(float(match.group(1)))
    parts.append(open_source(term[match.end() :].strip(), language, seed))
  bounds = [sum(weights[: end + 1]) / sum(weights) for end in range(len(weights))]
  key = draws.key(seed, "mixture")

  def read(skipped: Counter, linked: bool) -> Iterator[Document]:
    streams = [part._read(skipped, linked) for part in parts]
    number = 0
    while True:
      drawn = float(draws.uniform(key, number))
      index = next((i for i, bound in enumerate(bounds) if drawn < bound), len(bounds) - 1)
      document = next(streams[index], None)
      while document is not None and document.redirect is not None:  # no draw is spent on what is no text
        yield dataclasses.replace(document, id=f"{index}/{document.id}")
        document = next(streams[index], None)
      if document is None:
        return
      yield dataclasses.replace(document, id=f"{index}/{document.id}")
      number += 1

  files = tuple(file for part in parts for file in part.files)
  return Source(spec, language, read, files, {"seed": seed, "parts": [part.identity for part in parts]})
