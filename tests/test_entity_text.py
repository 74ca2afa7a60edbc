"""Text with entities by spans of characters: pieces, mentions, markers, limits, and what is said of every span."""

import itertools
import random

import numpy as np
import pytest

from data.entity_spans import EntityTextError
from data.entity_text import Limits, encode_all, encode_entities
from data.entity_vocabulary import EntityVocabulary
from tests import test_bytebpe, test_sentencepieces, test_xlmr_tokenizer
from tests.test_added_pieces import KINDS

ENTITIES = EntityVocabulary({"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3, "Beyoncé": 4, "Los Angeles": 5})
LITE = EntityVocabulary({"[MASK]": 0, "[UNK]": 1, "[PAD]": 2, "[MASK2]": 3})
MULTI = EntityVocabulary({"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "en:Japan": 3, "ja:日本": 3, "en:Iran": 4})
TEXT = "Beyoncé lives in Los Angeles."
BEYONCE, LOS_ANGELES = (0, 7), (17, 28)


def luke(merges=test_bytebpe.MERGES):
  return test_bytebpe.build(merges).with_added(("<ent>", "<ent2>"))


def encode(text, spans, titles=None, tokenizer=None, entities=ENTITIES, **options):
  return encode_entities(tokenizer or luke(), entities, text, spans, titles, **options)


def spelled(tokenizer, found, n=0):
  """The text of mention n's columns, by the tokenizer."""
  return tokenizer.decode(found.ids[found.starts[n] : found.ends[n] + 1]).strip()


# Pieces and mentions


def test_the_example_of_the_model_card():
  """Two mentions with titles: ids, entities, columns of their pieces, and characters of these."""
  tokenizer = luke()
  found = encode(TEXT, [BEYONCE, LOS_ANGELES], ["Beyoncé", "Los Angeles"], tokenizer)
  pieces = [tokenizer.encode([part])[0].ids for part in ("Beyoncé", " lives in", " Los Angeles", ".")]
  assert found.ids.tolist() == [0, *itertools.chain.from_iterable(map(list, pieces)), 2]
  a, b, c, _ = np.cumsum([len(each) for each in pieces])
  assert [each.tolist() for each in found.mentions] == [[*range(1, 1 + a)], [*range(1 + b, 1 + c)]]
  assert (found.starts.tolist(), found.ends.tolist()) == ([1, 1 + b], [a, c])
  assert found.entity_ids.tolist() == [4, 5] and found.kept.tolist() == [0, 1]
  assert (found.lost, found.warnings) == ((), ())
  assert found.side.tolist() == [-1, *[0] * (len(found) - 2), -1]
  assert found.offsets[0].tolist() == found.offsets[-1].tolist() == [0, 0]
  assert [TEXT[found.offsets[s, 0] : found.offsets[e, 1]] for s, e in zip(found.starts, found.ends)] == [
    "Beyoncé", "Los Angeles",
  ]  # fmt: skip


def test_no_piece_reaches_across_the_edge_of_a_mention():
  """ "Hello world" has a piece of "lo wo" that a mention of "world" takes apart; its space goes with it."""
  tokenizer = luke(["l o", "lo Ġ", "Ġ w"])
  found = encode("Hello world!", [(6, 11)], tokenizer=tokenizer)
  assert spelled(tokenizer, found) == "world" and tokenizer.pieces(found.ids)[found.starts[0]].startswith("Ġ")
  inside = encode("Helloworld", [(2, 4)], tokenizer=tokenizer)
  assert tokenizer.pieces(inside.ids[inside.mentions[0]]) == ["l", "l"]


@pytest.mark.parametrize("kind", KINDS)
def test_mentions_decode_back_to_their_text_with_every_kind_of_tokenizer(kind):
  tokenizer = {
    "wordpiece": lambda: KINDS["wordpiece"](),
    "sentencepiece": lambda: test_sentencepieces.build(
      test_sentencepieces.make({f"▁{c}": -5 for c in "heloswrd"} | {c: -5 for c in "▁helowrds,!"})
    ),
    "xlmr": lambda: test_xlmr_tokenizer.XLMR(
      test_xlmr_tokenizer.make({c: -5 for c in "▁heloswrd,!"}), test_xlmr_tokenizer.Settings(), "test"
    ),
    "bytebpe": luke,
  }[kind]()
  text = "hello world hello"
  for span in ((0, 5), (6, 11), (6, 17), (0, 17), (12, 17)):
    found = encode(text, [span], tokenizer=tokenizer)
    assert spelled(tokenizer, found) == text[slice(*span)]
    assert found.offsets[found.starts[0], 0] == span[0] and found.offsets[found.ends[0], 1] == span[1]


def test_two_texts():
  """<s> A </s></s> B </s>; the second one's mentions stand len(A) + 3 columns further, numbered after the first's."""
  tokenizer = luke()
  a, b = "in Los Angeles", "Beyoncé?"
  found = encode((a, b), ([(3, 14)], [(0, 7)]), (["Los Angeles"], ["Beyoncé"]), tokenizer)
  parts = [tokenizer.encode([part])[0].ids.tolist() for part in ("in", " Los Angeles", "Beyoncé", "?")]
  assert found.ids.tolist() == [0, *parts[0], *parts[1], 2, 2, *parts[2], *parts[3], 2]
  second = len(parts[0] + parts[1]) + 3
  assert found.starts.tolist() == [1 + len(parts[0]), second] and found.entity_ids.tolist() == [5, 4]
  assert found.mentions[1].tolist() == [*range(second, second + len(parts[2]))] and found.kept.tolist() == [0, 1]
  assert (found.side == 1).sum() == len(parts[2] + parts[3]) and (found.side == -1).sum() == 4
  assert b[slice(*found.offsets[second])] == "B"
  only = encode((a, b), (None, [(0, 7)]), tokenizer=tokenizer)
  assert only.ids.tolist() == encode((a, b), ([], [(0, 7)]), tokenizer=tokenizer).ids.tolist()
  assert only.starts.tolist() == [len(tokenizer.encode([a])[0].ids) + 3]


def test_a_text_without_entities():
  tokenizer = luke()
  found = encode(TEXT, [], tokenizer=tokenizer)
  assert found.ids.tolist() == tokenizer.encode([TEXT], specials=True)[0].ids.tolist()
  assert (len(found.mentions), found.entity_ids.shape, found.starts.shape) == (0, (0,), (0,))


def test_names_of_special_pieces_are_text_unless_asked_for():
  tokenizer = luke()
  text = "a<mask> b"
  assert tokenizer.special.mask not in encode(text, [(8, 9)], tokenizer=tokenizer).ids
  found = encode(text, [(8, 9)], tokenizer=tokenizer, specials=True)
  assert found.ids.tolist()[2] == tokenizer.special.mask and spelled(tokenizer, found) == "b"


# Entities


def test_entities_by_their_titles():
  found = encode(TEXT, [BEYONCE, LOS_ANGELES], ["Shakira", None])
  assert found.entity_ids.tolist() == [1, 2]  # unknown = [UNK], None = [MASK]
  assert [(note.index, note.text) for note in found.warnings] == [(0, "Beyoncé")]
  assert "title 'Shakira' is unknown" in found.warnings[0].reason
  assert encode(TEXT, [BEYONCE], entities=LITE).entity_ids.tolist() == [0]  # ids of specials are the vocabulary's
  assert encode(TEXT, [BEYONCE], ["[PAD]"], entities=LITE).entity_ids.tolist() == [2]


def test_titles_of_a_language():
  ids = [
    encode(TEXT, [BEYONCE], [title], entities=MULTI, language=language).entity_ids.tolist()
    for title, language in (("Japan", "en"), ("日本", "ja"), ("日本", "en"), ("Iran", "de"))
  ]
  assert ids == [[3], [3], [1], [1]]


# Markers and tasks


def test_typing_puts_ent_on_both_sides_and_the_mention_includes_them():
  tokenizer = luke()
  found = encode(TEXT, [LOS_ANGELES], task="type", tokenizer=tokenizer)
  pieces = tokenizer.pieces(found.ids)
  assert (pieces[found.starts[0]], pieces[found.ends[0]]) == ("<ent>", "<ent>") and pieces.count("<ent>") == 2
  assert spelled(tokenizer, found) == "Los Angeles" and found.entity_ids.tolist() == [2]
  assert found.mentions[0].tolist() == [*range(found.starts[0], found.ends[0] + 1)]
  assert found.side[found.starts[0]] == -1 and found.offsets[found.starts[0]].tolist() == [0, 0]
  plain = encode(TEXT, [LOS_ANGELES], tokenizer=tokenizer)
  assert [i for i in found.ids if i < tokenizer.id_of("<ent>")] == plain.ids.tolist()


@pytest.mark.parametrize("head, tail", [(BEYONCE, LOS_ANGELES), (LOS_ANGELES, BEYONCE)])
def test_relations_have_the_first_span_given_first_wherever_it_stands(head, tail):
  tokenizer = luke()
  found = encode(TEXT, [head, tail], task="relate", tokenizer=tokenizer)
  pieces = tokenizer.pieces(found.ids)
  for n, (span, marker) in enumerate(((head, "<ent>"), (tail, "<ent2>"))):
    assert pieces[found.starts[n]] == pieces[found.ends[n]] == marker and pieces.count(marker) == 2
    assert spelled(tokenizer, found, n) == TEXT[slice(*span)]
  assert found.entity_ids.tolist() == [2, 3] and found.kept.tolist() == [0, 1]


def test_mentions_side_by_side_keep_their_markers_apart():
  tokenizer = luke()
  found = encode("ab", [(1, 2), (0, 1)], task="relate", tokenizer=tokenizer)
  assert tokenizer.pieces(found.ids) == ["<s>", "<ent2>", "a", "<ent2>", "<ent>", "b", "<ent>", "</s>"]
  assert [each.tolist() for each in found.mentions] == [[4, 5, 6], [1, 2, 3]]


def test_markers_of_ones_own_around_some_spans_of_two_texts():
  """As in a cloze: a placeholder in the query, candidates in the passage, and a span that has no marker."""
  tokenizer = luke(["Ġ B"]).with_added(("[PLACEHOLDER]", "[ENTITY]"))
  spans, markers = ([(0, 1)], [(0, 1), (2, 3), (0, 3)]), (["[PLACEHOLDER]"], ["[ENTITY]", "[ENTITY]", None])
  found = encode(("X won", "A B won"), spans, tokenizer=tokenizer, markers=markers)
  pieces = tokenizer.pieces(found.ids)
  assert pieces[1:4] == ["[PLACEHOLDER]", "X", "[PLACEHOLDER]"]
  second = pieces.index("</s>") + 2
  assert pieces[second : second + 6] == ["[ENTITY]", "A", "[ENTITY]", "[ENTITY]", "ĠB", "[ENTITY]"]
  offset = [[each - second for each in found.mentions[n].tolist()] for n in (1, 2, 3)]
  assert offset == [[0, 1, 2], [3, 4, 5], [1, 2, 3, 4]]  # from its first piece to its last


def test_span_tasks_have_columns_and_no_markers():
  spans = [(0, 7), (8, 13), (0, 13)]
  found = encode(TEXT, spans, task="spans")
  plain = encode(TEXT, spans)
  assert found.ids.tolist() == plain.ids.tolist() and found.entity_ids.tolist() == [2, 2, 2]
  assert found.starts.tolist() == [found.starts[0], found.ends[0] + 1, found.starts[0]]
  assert found.ends[2] == found.ends[1] > found.ends[0]


# What is left out is said


def test_a_span_that_the_length_cuts_is_lost():
  whole = encode(TEXT, [BEYONCE, LOS_ANGELES])
  for length in range(5, len(whole) + 1):
    found = encode(TEXT, [LOS_ANGELES, BEYONCE], max_length=length)
    assert len(found) == length and found.ids[-1] == 2
    assert found.ids[:-1].tolist() == whole.ids[: length - 1].tolist()
    kept = [n for n, last in ((0, whole.ends[1]), (1, whole.ends[0])) if last < length - 1]
    assert found.kept.tolist() == kept and [note.index for note in found.lost] == [n for n in (0, 1) if n not in kept]
    assert all(note.reason == f"is cut off by max_length {length}" for note in found.lost)


def test_the_longer_text_is_cut_first():
  for a, b, length in itertools.product((1, 4, 5, 9), (1, 4, 5, 9), range(6, 22)):
    found = encode(("a" * a, "b" * b), ([], [(0, b)]), max_length=length)
    left = [a, b]  # a piece at a time from the longer text, of equals from the second
    while sum(left) > length - 4:
      left[left[0] <= left[1]] -= 1
    assert [(found.side == which).sum() for which in (0, 1)] == left
    assert len(found.mentions) == (left[1] == b)


def test_the_first_mentions_stay_where_there_are_too_many():
  spans = [(i, i + 1) for i in range(5)]
  found = encode("abcde", spans, max_entities=3)
  assert found.kept.tolist() == [0, 1, 2] and len(found.entity_ids) == len(found.mentions) == 3
  assert [(note.index, note.text, note.reason) for note in found.lost] == [
    (3, "d", "is over max_entities 3"), (4, "e", "is over max_entities 3"),
  ]  # fmt: skip
  two = encode(("abcde", "ab"), (spans, spans[:2]), max_entities=5)
  assert two.kept.tolist() == [0, 1, 2, 5, 6] and [note.index for note in two.lost] == [3, 4]


def test_a_long_mention_keeps_its_first_pieces_and_its_end():
  found = encode("x" * 40 + " y", [(0, 40)], max_mention=30)
  assert found.mentions[0].tolist() == [*range(1, 31)] and found.ends.tolist() == [40]
  assert [note.reason for note in found.warnings] == ["its pieces behind the first 30 are left out of the mention"]


def test_a_span_without_a_piece_is_lost_and_gets_no_markers():
  tokenizer = luke()
  found = encode("a b", [(1, 2)], task="type", tokenizer=tokenizer)
  assert [(note.index, note.text, note.reason) for note in found.lost] == [(0, " ", "has no piece")]
  assert "<ent>" not in tokenizer.pieces(found.ids) and len(found.mentions) == 0


@pytest.mark.parametrize(
  "text, span, reason",
  [
    ("Tarō was born", (0, 3), "ends inside a word"),  # the last character taken for the end
    ("Tarō was born", (1, 4), "begins inside a word"),
    ("born Tarō was", (6, 8), "begins and ends inside a word"),
    ("e\u0301tat", (0, 1), "ends inside a word"),
    ("Tarō was born", (0, 4), None),
    ("Tarō's", (0, 4), None),
    ("東京都", (0, 2), None),  # scripts without spaces
    ("서울에서", (0, 2), None),  # endings stand right behind a name
    ("กรุงเทพ", (0, 3), None),
  ],
)
def test_a_span_that_cuts_a_word_is_kept_with_a_warning(text, span, reason):
  found = encode(text, [span])
  assert len(found.mentions) == 1 and not found.lost
  assert [note.reason for note in found.warnings] == ([] if reason is None else [reason])


def test_every_span_is_kept_or_lost_and_never_both():
  dice, tokenizer = random.Random(0), luke()
  for _ in range(60):
    texts = ["".join(dice.choices("ab é東 ", k=dice.randint(1, 30))) for _ in (0, 1)]
    spans = [[(a, dice.randint(a + 1, len(t))) for a in dice.choices(range(len(t)), k=4)] for t in texts]
    length, entities = dice.randint(5, 60), dice.randint(1, 8)
    found = encode(tuple(texts), spans, tokenizer=tokenizer, max_length=length, max_entities=entities, max_mention=4)
    assert sorted([*found.kept.tolist(), *(note.index for note in found.lost)]) == list(range(8))
    assert len(found) <= length and len(found.kept) <= entities
    for n, number in enumerate(found.kept):
      side, span = divmod(int(number), 4)
      first, end = spans[side][span]
      columns = range(found.starts[n], found.ends[n] + 1)
      assert found.mentions[n].tolist() == [*columns][:4]
      assert (found.side[columns] == side).all()
      assert first <= found.offsets[columns, 0].min() and found.offsets[columns, 1].max() <= end


# Many texts


def test_many_texts_are_encoded_as_each_alone_with_one_call(monkeypatch):
  tokenizer, calls = luke(), []
  texts = [TEXT, "Beyoncé?", ("a b", "c d"), ""]
  spans = [[BEYONCE, LOS_ANGELES], [(0, 7)], ([(0, 1)], [(2, 3)]), []]
  titles = [["Beyoncé", None], None, (["Beyoncé"], None), None]
  alone = [encode(*row, tokenizer) for row in zip(texts, spans, titles)]
  encode_texts = tokenizer.encode
  monkeypatch.setattr(tokenizer, "encode", lambda parts, specials: calls.append(parts) or encode_texts(parts, specials))
  together = encode_all(tokenizer, ENTITIES, texts, spans, titles, limits=Limits(512, 32, 30))
  assert len(calls) == 1
  for one, other in zip(alone, together, strict=True):
    assert one.ids.tolist() == other.ids.tolist() and one.entity_ids.tolist() == other.entity_ids.tolist()
    assert [m.tolist() for m in one.mentions] == [m.tolist() for m in other.mentions]
    assert one.offsets.tolist() == other.offsets.tolist() and one.warnings == other.warnings


# Errors

WRONG = {
  "behind the text": (dict(spans=[(0, 99)]), "text 0, span 0: got characters 0 to 99, want 0 <= first < end <= 29"),
  "no end": (dict(spans=[(3, 3)]), "got characters 3 to 3"),
  "before the text": (dict(spans=[(-1, 3)]), "got characters -1 to 3"),
  "one number": (dict(spans=[(3,)]), r"got \(3,\), want two integers"),
  "fractions": (dict(spans=[(0.0, 7.0)]), r"got \(0.0, 7.0\), want two integers"),
  "titles": (dict(spans=[BEYONCE], titles=["a", "b"]), "got 2 titles, want 1"),
  "markers": (dict(spans=[BEYONCE], markers=[]), "got 0 markers, want 1"),
  "one mention": (dict(spans=[BEYONCE, LOS_ANGELES], task="type"), "got 2 spans, want 1 for task type"),
  "two mentions": (dict(spans=[BEYONCE], task="relate"), "got 1 spans, want 2 for task relate"),
  "any mention": (dict(spans=[], task="spans"), "got 0 spans, want 1 for task spans"),
  "an unknown task": (dict(spans=[BEYONCE], task="tag"), "got 'tag', want one of type, relate, spans, or None"),
  "a task of two texts": (
    dict(text=("a", "b"), spans=([(0, 1)], []), task="type"), "got 2 texts, want one for task type",
  ),
  "three texts": (dict(text=("a", "b", "c"), spans=[[], [], []]), "got 3 texts, want one or two"),
  "spans of one text": (dict(text=("a", "b"), spans=[[(0, 1)]]), "got 1 lists of spans, want 2"),
  "overlap": (
    dict(spans=[LOS_ANGELES, (20, 28)], task="relate"), r"spans 0 \(17, 28\) and 1 \(20, 28\) overlap, want spans that",
  ),
  "no second mask": (
    dict(spans=[BEYONCE, LOS_ANGELES], task="relate", entities=MULTI), r"vocabulary without \[MASK2\], want it there",
  ),
  "no marker": (
    dict(spans=[BEYONCE], task="type", tokenizer=test_bytebpe.build([])), "marker '<ent>': got tokenizer test, which",
  ),
  "no room": (dict(spans=[BEYONCE], max_length=4), "max_length: got 4, want at least 5"),
  "no entities": (dict(spans=[BEYONCE], max_entities=0), "max_entities: got 0, want at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_encoded_gives_one_line(name):
  case, message = WRONG[name]
  with pytest.raises(EntityTextError, match=message) as error:
    encode(**{"text": TEXT, **case})
  assert "\n" not in str(error.value)


def test_lists_must_be_as_many_as_the_texts():
  with pytest.raises(EntityTextError, match="spans: got lists for 1 texts, want 2"):
    encode_all(luke(), ENTITIES, ["a", "b"], [[]])


def test_spans_without_markers_may_overlap():
  found = encode(TEXT, [LOS_ANGELES, (21, 28), LOS_ANGELES])
  assert found.kept.tolist() == [0, 1, 2] and found.starts[0] < found.starts[1] <= found.ends[0] == found.ends[1]
