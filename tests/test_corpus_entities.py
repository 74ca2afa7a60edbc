"""A corpus with entities: links counted, a vocabulary learned or taken, mentions in the store."""

import json
import random
from collections import Counter

import numpy as np
import pytest

from data import chunks, entity_vocabulary, link_table, titles
from data.corpus import CorpusError, Entities, main, prepare
from data.entity_vocabulary import EntityError, EntityVocabulary
from data.link_table import LinkTable
from data.sources import open_source
from data.store import open_store
from data.tokenizers import load
from tests.test_wiki import dump, page
from tests.words import content, jsonl, word_piece, written

LETTERS = [*"abcdefghijklmnopqrstuvwxyz.", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
PAGES = (
  page(1, "Cat", "A [[cat]] likes a [[mouse]]. The [[dog (animal)|dog]] barks.\n\n[[Category:Pets]]"),
  page(2, "Mouse", "A [[Mice|mouse]] fears the [[cat]]. See [[cat#Food|food]] and [[Nowhere]]."),
  page(3, "Dog", "A dog and a [[puss]]. [[dog|Many. More]] [[:Category:Pets|pets]]."),
  page(4, "Mice", "#REDIRECT [[mouse]]", redirect="mouse"),
  page(5, "Puss", "#REDIRECT [[Kitty]]", redirect="Kitty"),
  page(6, "Kitty", "#REDIRECT [[Cat]] of an old dump"),
  page(7, "Dog (animal)", "#REDIRECT [[Dog]]", redirect="Dog"),
  page(8, "Loop", "#REDIRECT [[Loop two]]", redirect="Loop two"),
  page(9, "Loop two", "#REDIRECT [[Loop]]", redirect="Loop"),
  page(10, "Ant", "An ant saw the [[loop]] [[Loop]] [[loop]]. {{disambiguation}}"),
  page(11, "Talk:Ant", "A [[talk]].", namespace=1),
)
# By hand, over redirects: Cat 1 + 2 + 1 (Puss, Kitty), Mouse 1 + 1, Dog 1 + 1. No page: Loop, Nowhere, the category.
COUNTS = {"Cat": 4, "Dog": 2, "Mouse": 2}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  return written(tmp_path_factory.mktemp("dump") / "a.xml", dump(*PAGES))


def prepared(source, output, entities, **settings):
  settings = {"holdout": 0, "chunk_chars": 150, **settings}
  return prepare(str(source), word_piece(*LETTERS), output, entities=entities, **settings)


@pytest.fixture(scope="module")
def corpus(source, tmp_path_factory):
  folder = tmp_path_factory.mktemp("corpus")
  return folder, prepared(source, folder, Entities(size=6))


def mentions(folder):
  """(words, title) of every mention of the training split."""
  store, tokenizer = open_store(folder, "train"), load(folder / "tokenizer")
  vocabulary = entity_vocabulary.load(folder / "entities")
  rows = zip(store.mentions[:, :2].tolist(), vocabulary.titles(store.mentions[:, 2]), strict=True)
  return [(tokenizer.decode(store.tokens[first:end].tolist()), title) for (first, end), title in rows]


# Vocabulary


def test_the_vocabulary_is_what_pages_link_to_most(corpus):
  folder, _ = corpus
  vocabulary = entity_vocabulary.load(folder / "entities")
  assert list(vocabulary.ids) == ["[PAD]", "[UNK]", "[MASK]", "Cat", "Dog", "Mouse"]  # equals by title
  assert vocabulary.counts.tolist() == [0, 0, 0, *COUNTS.values()]
  assert json.loads((folder / "entities/entity_vocab.json").read_text()) == dict(vocabulary.ids)


def test_mentions_lead_to_their_pages(corpus):
  assert mentions(corpus[0]) == [
    ("cat", "Cat"), ("mouse", "Mouse"), ("dog", "Dog"),
    ("mouse", "Mouse"), ("cat", "Cat"), ("food", "Cat"), ("nowhere", "[UNK]"),
    ("puss", "Cat"), ("pets", "[UNK]"),  # "Many. More" is no link of one sentence
    ("loop", "[UNK]"), ("loop", "[UNK]"), ("loop", "[UNK]"),
  ]  # fmt: skip


def test_the_card_says_what_became_of_the_links(corpus):
  folder, card = corpus
  vocabulary = entity_vocabulary.load(folder / "entities")
  assert card["entities"] == {
    "parser": "wikipedia2vec-1.0, character references read, shown namespaces blanked",
    "pages": 4, "redirects": 6, "disambiguation_pages": 1, "links": 13, "targets": 6, "unknown": "keep",
    "vocabulary": {"size": 6, "digest": vocabulary.digest},
  }  # fmt: skip
  assert card["splits"]["train"]["mentions"] == 12
  assert card["skipped"] == {"other namespace": 1, "redirect": 6}
  assert card["settings"]["entities"]["vocabulary"] == {"train": {"size": 6, "pages": "existing", "white_list": None}}


def test_unknown_entities_are_dropped_where_asked(source, tmp_path):
  card = prepared(source, tmp_path / "out", Entities(size=5, unknown="drop"))
  assert Counter(title for _, title in mentions(tmp_path / "out")) == {"Cat": 4, "Dog": 1}
  assert (card["splits"]["train"]["mentions"], card["entities"]["unknown"]) == (5, "drop")
  assert card["entities"]["vocabulary"]["size"] == 5  # the specials are part of the size


def test_a_white_list_comes_first_if_anything_links_to_it(source, tmp_path):
  wanted = written(tmp_path / "list.txt", "mouse\nAnt\n\nnowhere\nmouse\n")
  prepared(source, tmp_path / "out", Entities(size=6, white_list=wanted))
  vocabulary = entity_vocabulary.load(tmp_path / "out/entities")
  assert list(vocabulary.ids)[3:] == ["Mouse", "Nowhere", "Cat"]
  assert vocabulary.counts.tolist()[3:] == [2, 1, 4]


def test_a_fragment_of_a_dump_learns_from_all_that_is_linked_to(source, tmp_path):
  prepared(source, tmp_path / "out", Entities(size=100, pages="linked"))
  assert list(entity_vocabulary.load(tmp_path / "out/entities").ids)[3:] == ["Cat", "Loop", "Dog", "Mouse", "Nowhere"]


def test_no_page_outside_the_articles_is_an_entity(tmp_path):
  """Files, categories and whatever the site calls them: by the English names and by its own."""
  links = "[[File:a.jpg|A cat]] [[:kategorie:V|v]] [[Image:c.png|c]] [[:Category:D|d]] [[Halo: 5|five]] [[Ant]]"
  path = written(tmp_path / "a.xml", dump(page(1, "One", links)))
  prepared(path, tmp_path / "out", Entities(size=100, pages="linked"))
  assert list(entity_vocabulary.load(tmp_path / "out/entities").ids)[3:] == ["Ant", "Halo: 5"]


def test_special_entities_alone(source, tmp_path):
  """What the models called lite have: every link is a mention of [UNK]."""
  card = prepared(source, tmp_path / "out", Entities("special"))
  ids = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3}
  assert dict(entity_vocabulary.load(tmp_path / "out/entities").ids) == ids
  assert {title for _, title in mentions(tmp_path / "out")} == {"[UNK]"} and card["splits"]["train"]["mentions"] == 12
  with pytest.raises(EntityError, match="unknown entities: got 'drop' with special entities alone, want 'keep'"):
    Entities("special", unknown="drop")


def test_pages_that_only_tell_others_apart_are_listed(corpus):
  assert (corpus[0] / "entities/disambiguation.txt").read_text() == "Ant\n"


def test_a_given_vocabulary_is_taken_as_it_is(source, tmp_path):
  ids = {"[MASK]": 0, "[UNK]": 1, "[PAD]": 2, "en:Mouse": 5, "de:Maus": 5, "en:Loop": 7}
  EntityVocabulary(ids).save(tmp_path / "given")
  card = prepared(source, tmp_path / "out", Entities(tmp_path / "given", unknown="drop"))
  assert Counter(title for _, title in mentions(tmp_path / "out")) == {"en:Mouse": 2, "en:Loop": 3}
  assert open_store(tmp_path / "out", "train").mentions[:, 2].max() == 7 < card["entities"]["vocabulary"]["size"] == 8
  assert card["settings"]["entities"]["vocabulary"] == {"digest": EntityVocabulary(ids).digest}


# The same result however it is made


def test_the_result_depends_neither_on_workers_nor_on_chunks(source, tmp_path, corpus):
  card = prepared(source, tmp_path / "out", Entities(size=6), workers=2, chunk_chars=60)
  assert content(tmp_path / "out") == content(corpus[0])
  assert card == corpus[1]


def test_a_split_without_mentions_is_a_split(tmp_path):
  rows = [{"text": "A cat.", "links": [[2, 5, "Cat"]] if n == 0 else []} for n in range(3)]
  prepared(jsonl(tmp_path / "a.jsonl", rows), tmp_path / "out", Entities(), holdout=0.3)
  counts = [len(open_store(tmp_path / "out", split).mentions) for split in ("train", "validation")]
  assert sorted(counts) == [0, 1]


@pytest.mark.parametrize("name", ["write_linked_texts", "read_links", "write_linked_tokens"])
def test_after_an_interruption_the_result_is_the_same(source, tmp_path, corpus, monkeypatch, name):
  original, calls = getattr(chunks, name), []

  def interrupted(*arguments):
    calls.append(arguments[0].name)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return original(*arguments)

  monkeypatch.setattr(chunks, name, interrupted)
  with pytest.raises(KeyboardInterrupt):
    prepared(source, tmp_path / "out", Entities(size=6))
  prepared(source, tmp_path / "out", Entities(size=6))
  assert content(tmp_path / "out") == content(corpus[0])
  if name != "read_links":
    assert calls.count(calls[0]) == 1  # finished chunks are not made again


def test_other_entities_are_other_settings(source, tmp_path, corpus):
  with pytest.raises(CorpusError, match='entities was .*"size": 6.*, now .*"size": 7'):
    prepared(source, corpus[0], Entities(size=7))
  with pytest.raises(CorpusError, match="entities was .*, now null"):
    prepared(source, corpus[0], None)
  plain = prepared(source, tmp_path / "plain", None)
  assert "entities" not in plain and "entities" not in plain["settings"]
  assert not (tmp_path / "plain/entities").exists() and open_store(tmp_path / "plain", "train").mentions is None


def test_a_corpus_is_reused_with_the_entities_that_it_counted(source, corpus):
  """Handed back by a run that starts from a model of the same corpus."""
  assert prepared(source, corpus[0], Entities(corpus[0] / "entities")) == corpus[1]
  with pytest.raises(CorpusError, match='entities was .*"unknown": .*, now .*"unknown": "drop"'):
    prepared(source, corpus[0], Entities(corpus[0] / "entities", unknown="drop"))


def test_the_fingerprint_follows_the_vocabulary(tmp_path):
  """Names of the same ids: the arrays are the same, the corpus is not."""
  rows = [{"text": "A cat sat.", "links": [[2, 5, title]]} for title in ("Cat", "Cats")]
  paths = [jsonl(tmp_path / f"{number}.jsonl", [row]) for number, row in enumerate(rows)]
  cards = [prepared(path, path.with_suffix(".corpus"), Entities(size=9)) for path in paths]
  assert cards[0]["splits"] == cards[1]["splits"] and cards[0]["fingerprint"] != cards[1]["fingerprint"]


# Documents whose links are marked

MARKED = [
  {"text": "The cat saw  a mouse. It ran.", "links": [[15, 20, "mouse"], [4, 7, "Felis_catus"]], "title": "First"},
  {"text": ["A cat", "", "ran. A mouse."], "links": [[2, 5, "felis catus"], [5, 10, "Lost"], [14, 19, "Mouse#x"]]},
  {"text": "No link."},
]


def test_marked_links_become_mentions(tmp_path):
  prepared(jsonl(tmp_path / "a.jsonl", MARKED), tmp_path / "out", Entities())
  assert mentions(tmp_path / "out") == [("cat", "Felis catus"), ("mouse", "Mouse")] * 2
  assert list(entity_vocabulary.load(tmp_path / "out/entities").ids)[3:] == ["Felis catus", "Mouse"]


@pytest.mark.parametrize(
  "links",
  [
    5, [[0, 1]], [[0, 1, ""]], [[0, 1, "#x"]], [[0, 1, 2]], [[0, 9, "A"]], [[-1, 2, "A"]], [[2, 2, "A"]],
    [["0", 1, "A"]], [[0, 3, "A"], [2, 4, "B"]], [[True, 2, "A"]], [None],
  ],
)  # fmt: skip
def test_wrong_links_are_counted_as_damage(tmp_path, links):
  source = open_source(str(jsonl(tmp_path / "a.jsonl", [{"text": "abcdefgh", "links": links}, {"text": "Fine."}])))
  assert [document.text for document in source.raw(linked=True)] == ["Fine."]
  assert source.skipped == {"bad link": 1}
  assert len(list(source.raw())) == 2  # who asks for no links reads none


def test_a_mixture_spends_no_draw_on_redirects(source, tmp_path):
  jsonl(tmp_path / "a.jsonl", [{"text": f"Text {n}."} for n in range(20)])
  mixed = open_source(f"1*{source}+1*{tmp_path}/a.jsonl")
  plain = [document.id for document in mixed.raw()]
  linked = list(mixed.raw(linked=True))
  assert [document.id for document in linked if document.redirect is None] == plain
  assert any(document.redirect for document in linked)


# The table of links


def test_the_table_agrees_with_dictionaries(tmp_path):
  draw = random.Random(0)
  names = [f"T{n}" for n in range(60)] + ["Category:X"]
  redirects = {name: draw.choice(names) for name in draw.sample(names, 25)}
  pages = [name for name in names if name not in redirects][:25] + ["Category:X"]
  parts = [Counter(draw.choices(names, k=50)) for _ in range(4)]
  table = LinkTable(tmp_path / "links.sqlite")
  for number, part in enumerate([*parts, parts[0]]):  # the first one a second time: counted once
    table.add(f"chunk {number % 4}", [(name, False) for name in pages], redirects.items(), part)
  table.resolve()
  total = Counter()
  for part in parts:
    for title, count in part.items():
      total[titles.resolve(title, redirects.get)] += count
  ranked = sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))
  ranked = [(title, count) for title, count in ranked if title != "Category:X"]
  assert list(table.most_common(existing=False)) == ranked
  assert list(table.most_common(existing=True)) == [(title, count) for title, count in ranked if title in pages]
  assert [table.count(title) for title in names] == [total[titles.resolve(title, redirects.get)] for title in names]
  entity = {title: number for number, (title, _) in enumerate(ranked[:9])}
  table.assign(lambda title: entity.get(title))
  table.close()
  linked = {title for part in parts for title in part}
  found = link_table.entities(tmp_path / "links.sqlite", linked)
  assert found == {title: entity.get(titles.resolve(title, redirects.get)) for title in linked}
  assert 5 < len([number for number in found.values() if number is not None]) < len(found)


def test_a_chunk_that_fails_leaves_nothing_behind(tmp_path):
  table = LinkTable(tmp_path / "links.sqlite")
  with pytest.raises(Exception, match="(?i)bind"):
    table.add("a", [("A", False)], [], {"A": object()})
  table.add("a", [("A", True)], [("B", "A")], {"B": 2, "A": 1})
  table.resolve()
  table.resolve()
  assert table.card() == {"pages": 1, "redirects": 1, "disambiguation_pages": 1, "links": 3, "targets": 1}


# Command


def test_the_command_learns_a_vocabulary(source, tmp_path, capsys):
  arguments = [f"--input={source}", "--tokenizer=train", "--vocab_size=80", "--workers=0", f"--output={tmp_path}/out"]
  arguments += ["--entities=train", "--entity_vocab_size=5", "--unknown_entities=drop", "--entity_pages=linked"]
  assert main(arguments) == 0
  summary = json.loads(capsys.readouterr().out)
  assert summary["entities"]["vocabulary"]["size"] == 5 and summary["entities"]["unknown"] == "drop"
  assert list(entity_vocabulary.load(tmp_path / "out/entities").ids)[3:] == ["Cat", "Loop"]
  again = [f"--input={source}", f"--tokenizer={tmp_path}/out/tokenizer", f"--entities={tmp_path}/out/entities"]
  assert main([*again, f"--output={tmp_path}/again", "--unknown_entities=drop", "--workers=0"]) == 0
  assert json.loads(capsys.readouterr().out)["fingerprint"] == summary["fingerprint"]


def test_where_words_start_is_said_of_a_given_tokenizer_too(source, tmp_path, capsys):
  """Of RoBERTa's, whose files say nothing of it, LUKE wants the words between marks."""
  out, again = tmp_path / "out", tmp_path / "again"
  trained = ["--tokenizer=train", "--tokenizer_type=bytebpe", "--vocab_size=300", f"--output={out}"]
  assert main([f"--input={source}", "--workers=0", *trained]) == 0
  given = [f"--tokenizer={out}/tokenizer", "--words=marks", f"--output={again}"]
  assert main([f"--input={source}", "--workers=0", *given]) == 0
  assert (load(out / "tokenizer").settings.words, load(again / "tokenizer").settings.words) == ("pieces", "marks")
  card = prepare(str(source), load(out / "tokenizer", words="marks"), again)  # finds it prepared as it wants it
  assert json.loads(capsys.readouterr().out.splitlines()[-1])["fingerprint"] == card["fingerprint"]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--entity_vocab_size=5"], "want --entities=train or PATH"),
    (["--unknown_entities=keep"], "want --entities=train or PATH"),
    (["--entities=some", "--entity_vocab_size=5"], "--entity_vocab_size: got a vocabulary's path beside it"),
    (["--entities=some"], "entity vocabulary some: got a nameless file"),
    (["--entities=train", "--entity_vocab_size=3"], "got a size of 3, want over 3"),
    (["--entities=train", "--entity_white_list=nowhere"], "entity white list nowhere: cannot be read"),
    (["--entities=train", "--unknown_entities=mask"], "argument --unknown_entities: invalid choice: 'mask'"),
  ],
)
def test_wrong_flags_end_with_one_line_and_status_2(source, tmp_path, flags, message, capsys):
  try:
    status = main([f"--input={source}", "--tokenizer=train", f"--output={tmp_path}/out", "--workers=0", *flags])
  except SystemExit as end:
    status = end.code
  printed = capsys.readouterr()
  assert (status, printed.out, printed.err.count("\n")) == (2, "", 1)
  assert message in printed.err


def test_a_corpus_without_links_has_no_vocabulary(tmp_path):
  source = jsonl(tmp_path / "a.jsonl", [{"text": "A cat."}])
  with pytest.raises(EntityError, match="no existing page of the corpus is linked to, want a dump, or JSON lines"):
    prepared(source, tmp_path / "out", Entities())


def test_ids_of_mentions_are_rows_of_the_entity_table(corpus):
  folder, card = corpus
  ids = open_store(folder, "train").mentions[:, 2]
  assert ids.min() >= 0 and ids.max() < card["entities"]["vocabulary"]["size"]
  assert np.bincount(ids, minlength=6).tolist() == [0, 5, 0, 4, 1, 2]
