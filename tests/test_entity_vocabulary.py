"""Entity vocabularies: titles to rows of the entity table, in the files of LUKE's and mLUKE's releases."""

import json

import numpy as np
import pytest

from data import entity_vocabulary
from data.entity_vocabulary import EntityError, EntitySpecial, EntityVocabulary
from tests.words import written

LITE = {"[MASK]": 0, "[UNK]": 1, "[PAD]": 2, "[MASK2]": 3}  # luke-base-lite's own order
LUKE = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "Los Angeles": 3, "Éire": 4, "Star: Trek": 5}
MLUKE = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "en:Japan": 3, "ja:日本": 3, "de:Japan": 3, "en:Tokyo": 4, "[MASK2]": 5}


def jsonl(path, rows):
  rows = [{"id": number, "entities": entities, "count": count} for number, entities, count in rows]
  return written(path, "\n".join(map(json.dumps, rows)))


SPECIAL_ROWS = [(number, [[name, None]], 0) for number, name in enumerate(entity_vocabulary.SPECIALS)]


def test_ids_and_size_of_a_vocabulary():
  vocabulary = EntityVocabulary(LUKE)
  assert (vocabulary.size, vocabulary.special) == (6, EntitySpecial(pad=0, unk=1, mask=2, mask2=None))
  assert dict(vocabulary.ids) == LUKE
  assert vocabulary.counts is None and not vocabulary.multilingual
  assert vocabulary.titles([3, 0, 3]) == ["Los Angeles", "[PAD]", "Los Angeles"]
  assert vocabulary.titles(np.array([4])) == ["Éire"]


def test_special_ids_are_read_from_the_names():
  assert EntityVocabulary(LITE).special == EntitySpecial(pad=2, unk=1, mask=0, mask2=3)
  assert EntityVocabulary(LITE).size == 4


@pytest.mark.parametrize(
  ("title", "number"),
  [
    ("Los Angeles", 3), ("los_Angeles", 3), ("Los Angeles#History", 3), ("éire", 4), ("star: Trek", 5), ("[MASK]", 2),
    ("[MASK2]", None), ("Los angeles", None), ("", None),
  ],
)  # fmt: skip
def test_titles_are_found_in_any_spelling_that_leads_to_their_page(title, number):
  vocabulary = EntityVocabulary(LUKE)
  assert vocabulary.id_of(title) == vocabulary.id_of(title, language="en") == number


def test_a_multilingual_vocabulary_has_titles_by_language():
  vocabulary = EntityVocabulary(MLUKE)
  assert vocabulary.multilingual and vocabulary.special == EntitySpecial(0, 1, 2, 5)
  assert [vocabulary.id_of("japan", language) for language in ("en", "de", "ja", None)] == [3, 3, None, None]
  assert vocabulary.id_of("日本", "ja") == 3
  spellings = ("en:Tokyo", " en:tokyo#Parks", "Tokyo", "xx:Tokyo")  # a title may name its language
  assert [vocabulary.id_of(title, "de") for title in spellings] == [4, 4, None, None]
  assert vocabulary.id_of("[UNK]", "ja") == vocabulary.id_of("[UNK]") == 1
  assert vocabulary.titles([3]) == ["en:Japan"]  # the first in the file


def test_titles_written_for_no_language_are_found_without_one():
  vocabulary = EntityVocabulary({"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "None:Japan": 3})
  assert vocabulary.id_of("Japan") == 3


def test_a_gap_of_ids_makes_no_id_too_large():
  """A minimum count leaves gaps: rows are counted by the largest id, not by the titles."""
  vocabulary = EntityVocabulary({**LUKE, "Rare": 999})
  assert vocabulary.size == 1000
  with pytest.raises(EntityError, match="entity id 6: names no entity of the vocabulary, want .* ids below 1000"):
    vocabulary.titles([3, 6])


def test_of_titles_begins_with_the_specials_of_count_0():
  vocabulary = EntityVocabulary.of_titles(["B", "A"], [5, 7])
  assert list(vocabulary.ids.items()) == [("[PAD]", 0), ("[UNK]", 1), ("[MASK]", 2), ("B", 3), ("A", 4)]
  assert vocabulary.counts.tolist() == [0, 0, 0, 5, 7] and vocabulary.counts.dtype == np.int64
  with pytest.raises(EntityError, match="got the title 'A' twice"):
    EntityVocabulary.of_titles(["A", "B", "A"])


# Files


def test_the_digest_follows_titles_and_ids_alone():
  one, other = EntityVocabulary(LUKE), EntityVocabulary(dict(reversed(LUKE.items())), np.arange(6))
  assert one.digest == other.digest
  assert len({one.digest, EntityVocabulary({**LUKE, "X": 5}).digest, EntityVocabulary({**LUKE, "Éire": 5}).digest}) == 3


@pytest.mark.parametrize("ids", [LITE, LUKE, MLUKE])
@pytest.mark.parametrize("counted", [False, True])
def test_what_is_saved_is_read(tmp_path, ids, counted):
  size = max(ids.values()) + 1
  vocabulary = EntityVocabulary(ids, np.arange(size) ** 2 if counted else None)
  vocabulary.save(tmp_path / "new")
  assert json.loads((tmp_path / "new/entity_vocab.json").read_text()) == ids
  assert (tmp_path / "new/entity_vocab.jsonl").exists() is counted
  for path in (tmp_path / "new").iterdir():
    found = entity_vocabulary.load(path)
    assert (found.digest, list(found.ids.items())) == (vocabulary.digest, list(vocabulary.ids.items()))
  found = entity_vocabulary.load(tmp_path / "new")
  assert (found.counts.tolist() if counted else found.counts) == ([n * n for n in range(size)] if counted else None)


def test_json_lines_of_several_languages(tmp_path):
  rows = [*SPECIAL_ROWS, (3, [["Japan", "en"], ["日本", "ja"]], 9), (7, [["Tokyo", "en"]], 2)]
  vocabulary = entity_vocabulary.load(jsonl(tmp_path / "entity_vocab.jsonl", rows))
  names = {**dict(zip(entity_vocabulary.SPECIALS, range(3))), "en:Japan": 3, "ja:日本": 3, "en:Tokyo": 7}
  assert dict(vocabulary.ids) == names
  assert vocabulary.counts.tolist() == [0, 0, 0, 9, 0, 0, 0, 2]


def test_specials_that_name_a_language_are_bare(tmp_path):
  rows = [(number, [[name, "en"]], 0) for number, name in enumerate(entity_vocabulary.SPECIALS)]
  vocabulary = entity_vocabulary.load(jsonl(tmp_path / "a.jsonl", [*rows, (3, [["Japan", "en"]], 1)]))
  assert vocabulary.special == EntitySpecial(0, 1, 2)
  assert vocabulary.id_of("Japan", "en") == 3


def test_the_first_releases_number_their_lines(tmp_path):
  text = "[PAD]\t0\n[UNK]\t0\n[MASK]\t0\nUnited States\t261500\nRoman numeral one (Ⅰ)\u2028x\t3\n"
  vocabulary = entity_vocabulary.load(written(tmp_path / "entity_vocab.tsv", text))
  assert vocabulary.id_of("United States") == 3 and vocabulary.size == 5
  assert vocabulary.counts.tolist() == [0, 0, 0, 261500, 3]


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.json", "{", "a.json: is no JSON"),
    ("a.json", "[1]", "a.json: got list, want an object of titles and ids"),
    ("a.json", '{"[PAD]": 0, "[MASK]": 1}', r"a.json: has no \[UNK\], want \[PAD\], \[UNK\], \[MASK\]"),
    ("a.json", '{"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "A": -1}', "got id -1 of 'A', want an int from 0"),
    ("a.json", '{"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "A": 3.0}', "got id 3.0 of 'A', want an int from 0"),
    ("a.json", '{"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "A": 99999999999}', "got id 99999999999 of 'A'"),
    ("a.jsonl", '{"id": 0}', 'a.jsonl, line 1: want "id", "entities" of'),
    ("a.jsonl", '{"id": 0, "entities": [["A", null]], "count": 1}\nx', "a.jsonl, line 2: is no JSON"),
    (
      "a.jsonl",
      '{"id": 0, "entities": [["A", null]], "count": 1}\n{"id": 1, "entities": [["A", null]], "count": 1}',
      "a.jsonl, line 2: got 'A' a second time",
    ),
    ("a.tsv", "[PAD]\t0\nA B", "a.tsv, line 2: got 'A B', want TITLE<TAB>COUNT"),
    ("a.tsv", "A\t0\nA\t1", "a.tsv, line 2: got 'A' a second time"),
    ("a.tsv", b"\xff\t0", "a.tsv: cannot be read"),
    ("a.txt", "", "got a .txt file, want .json, .jsonl or .tsv"),
  ],
)
def test_a_damaged_vocabulary_gets_one_line(tmp_path, name, content, message):
  with pytest.raises(EntityError, match=message) as error:
    entity_vocabulary.load(written(tmp_path / name, content))
  assert "\n" not in str(error.value)


def test_a_folder_without_a_vocabulary_says_which_files_it_needs(tmp_path):
  with pytest.raises(EntityError, match="holds none of entity_vocab.json, entity_vocab.jsonl, entity_vocab.tsv"):
    entity_vocabulary.load(tmp_path)
  with pytest.raises(EntityError, match="nowhere.json: cannot be read"):
    entity_vocabulary.load(tmp_path / "nowhere.json")


def test_counts_must_be_one_an_id():
  with pytest.raises(EntityError, match="got 2 counts, want 6, one an id"):
    EntityVocabulary(LUKE, np.arange(2))
