"""Slow plain oracles of example tables: the published builders, one document, one sentence, one token at a time."""

from data import draws
from tests.oracles import _below, _coin, _fold, _uniform


def documents_of(store):
  """Documents of sentences of token offsets."""
  return [
    [list(range(store.sentences[s], store.sentences[s + 1])) for s in range(first, last)]
    for first, last in zip(store.documents[:-1], store.documents[1:], strict=True)
  ]


def _streams(store, seed, pass_):
  """(number, sentences, stream) of every document."""
  key = draws.key(seed, "examples", pass_)
  return [(number, document, _fold(key, number)) for number, document in enumerate(documents_of(store))]


def pairs(store, options, seed, pass_):
  """create_instances_from_document of every document.

  Returns:
    [(token offsets of A, of B, label, document of a random B or None)].
  """
  documents, examples = documents_of(store), []
  for number, _, stream in _streams(store, seed, pass_):
    examples += _pairs_of_document(documents, number, stream, options)
  return examples


def _target(key, coin, size, options, budget):
  return 2 + _below(key, size, budget - 1) if _uniform(key, coin) < options.short_share else budget


def _pairs_of_document(documents, number, stream, options):
  document, budget = documents[number], options.length - 3
  target, examples = _target(stream, 0, 1, options, budget), []
  i, chunk, size = 0, [], 0
  while i < len(document):
    key = _fold(stream, i - len(chunk))  # the chunk's first sentence
    if options.short_by == "example":
      target = _target(key, 13, 14, options, budget)
    chunk.append(document[i])
    size += len(document[i])
    alone = len(chunk) == 1 and not options.singles_are_negatives
    if i == len(document) - 1 or (size >= target and not alone):
      if alone:
        break
      a_end = 1 + _below(key, 0, len(chunk) - 1) if len(chunk) > 1 else 1
      a, other = sum(chunk[:a_end], []), None
      coin = _uniform(key, 1) < 0.5
      if len(chunk) == 1 or (options.task == "nsp" and coin):
        other = _other(key, number, len(documents), options)
        b, label = _random_b(key, documents[other], target - len(a)), 1
        i -= len(chunk) - a_end
      else:
        b, label = sum(chunk[a_end:], []), 0
        if options.task == "sop" and coin:
          a, b, label = b, a, 1
      _trim(key, a, b, budget)
      examples.append((a, b, label, other))
      chunk, size = [], 0
    i += 1
  return examples


def _other(key, number, count, options):
  if not options.same_document_negatives:
    other = _below(key, 2, count - 1)
    return other + (other >= number)
  for attempt in range(10):
    other = _below(key, 2 + attempt, count)
    if other != number:
      break
  return other


def _random_b(key, document, want):
  b = []
  for sentence in document[_below(key, 12, len(document)) :]:
    b.extend(sentence)
    if len(b) >= want:
      break
  return b


def _trim(key, a, b, budget):
  coins = {id(a): [_fold(key, 1), 0], id(b): [_fold(key, 2), 0]}
  while len(a) + len(b) > budget:
    longer = a if len(a) > len(b) else b
    stream = coins[id(longer)]
    longer.pop(0 if _coin(*stream) else -1)
    stream[1] += 1


def sentence_pairs(store, options, seed, pass_):
  """Two single sentences: the next one or, by a coin, one of another document; [(A, B, label)]."""
  documents, examples = documents_of(store), []
  for number, document, stream in _streams(store, seed, pass_):
    i = 0
    while i < len(document) - 1:  # a last sentence alone is no A
      key, a = _fold(stream, i), list(document[i])
      coin, label = _uniform(key, 1) < 0.5, 0
      if options.task == "nsp" and coin:
        other = _below(key, 2, len(documents) - 1)
        other = documents[other + (other >= number)]
        b, label = list(other[_below(key, 12, len(other))]), 1
        i += 1
      else:
        b = list(document[i + 1])
        if coin:
          a, b, label = b, a, 1
        i += 2
      _trim(key, a, b, options.length - 3)
      examples.append((a, b, label))
  return examples


def blocks(store, options):
  """Greedy whole-sentence blocks: [list of spans], a span being a list of token offsets, each followed by [SEP]."""
  crosses, by_sentence = options.format == "full_sentences", options.separators == "sentence"
  out, block, last = [], [], None
  for number, document in enumerate(_without_long(documents_of(store), options)):
    for sentence in document:
      for part in range(0, len(sentence), options.length - 2):
        piece = sentence[part : part + options.length - 2]
        grown = _grow(block, piece, last is not None and last != number, by_sentence)
        if block and (1 + sum(len(span) + 1 for span in grown) > options.length or (last != number and not crosses)):
          out.append(block)
          grown = [piece]
        block, last = grown, number
  return [*out, block]


def _without_long(documents, options):
  """Documents as they are or, where long sentences are skipped, parted at them."""
  if options.long_sentences == "split":
    return documents
  parted = []
  for document in documents:
    parted.append([])
    for sentence in document:
      if len(sentence) > options.length - 2:
        parted.append([])
      else:
        parted[-1].append(sentence)
  return [part for part in parted if part]


def _grow(block, piece, new_document, by_sentence):
  if not block:
    return [piece]
  if by_sentence:
    return [*block, [], piece] if new_document else [*block, piece]
  return [*block, piece] if new_document else [*block[:-1], block[-1] + piece]


def electra_segments(store, options, seed, pass_):
  """ExampleBuilder of ELECTRA's build_pretraining_dataset.py: [(A, B)], an empty B being none."""
  examples = []
  for _, document, stream in _streams(store, seed, pass_):
    buffered = []
    for at, sentence in enumerate(document):
      if not buffered:
        key, target = _fold(stream, at), options.length
        if _uniform(key, 0) < 0.05:
          target = 5 + _below(key, 1, options.length - 4)  # randint(5, length), both ends included
      buffered.append(sentence)
      if sum(map(len, buffered)) >= target:
        examples.append(_electra_example(buffered, key, target, options.length))
        buffered = []
    if buffered:
      examples.append(_electra_example(buffered, key, target, options.length))
  return examples


def _electra_example(sentences, key, target, length):
  a, b, goal = [], [], (target - 3) // 2
  if _uniform(key, 2) < 0.1:
    goal = float("inf")
  for j, sentence in enumerate(sentences):
    coin = _uniform(key, 3 + j) < 0.5
    if not a or len(a) + len(sentence) < goal or (not b and len(a) < goal and coin):
      a = a + sentence
    else:
      b = b + sentence
  a = a[: length - 2]
  return a, b[: max(0, length - len(a) - 3)]


def entity_sentences(store, options):
  """LUKE's dataset builder, page by page: [(token offsets, [(first, end, entity)] in tokens of the example)]."""
  examples = []
  for document in documents_of(store):
    sentences = [sentence for sentence in document if options.min_sentence <= len(sentence) <= options.length - 2]
    words = []
    for number, sentence in enumerate(sentences):
      words = words + sentence
      following = sentences[number + 1 :]
      if not following or len(words) + len(following[0]) > options.length - 2:
        there = {at: place for place, at in enumerate(words)}
        mentions = [(there[a], there[b - 1] + 1, entity) for a, b, entity in store.mentions.tolist() if a in there]
        if mentions or not options.require_mention:
          examples.append((words, mentions[: options.max_entities]))
        words = []
  return examples
