"""Links of wiki pages: titles, redirects, the text of a page with its links, and the sentences that hold them."""

import re
from collections import Counter
from pathlib import Path

import mwparserfromhell
import pytest
from mwparserfromhell import nodes

from data import documents, titles, wiki_links
from data.documents import Document, Skipped
from data.link_table import LinkTable
from data.sources import open_source
from data.stripper import Stripper
from tests.test_wiki import dump, page
from tests.words import written

SHARED = Path(__file__).parent / "../../shared/data/wiki/enwiki-pages-articles-shortened.xml.bz2"
SPACES = ("Kategorie", "Datei")


def shown(wikitext, namespaces=SPACES):
  """The text, and for each link what it shows and where it leads."""
  text, links = wiki_links.linked(wikitext, namespaces)
  assert [link[:2] for link in links] == sorted(link[:2] for link in links)
  return text, [(text[first:end], title) for first, end, title in links]


# Titles


@pytest.mark.parametrize(
  ("written", "title"),
  [
    ("bird", "Bird"), ("new_York", "New York"), (" _a__b_ c ", "A b c"), (":Category:Birds", "Category:Birds"),
    ("Bird#Wings", "Bird"), ("#Wings", ""), (" ", ""), ("éire", "Éire"), ("ßa", "ßa"), ("iPod", "IPod"), ("1_2", "1 2"),
    ("a\ud800b", "Ab"),
  ],
)  # fmt: skip
def test_a_title_has_one_spelling(written, title):
  assert titles.normalise(written) == title
  assert titles.normalise(title) == title


@pytest.mark.parametrize(
  ("text", "target"),
  [
    ("#REDIRECT [[Alpha]]", "Alpha"), ("  #redirect: [[a b#c|d]]\n{{R}}", "a b#c"), ("#Redirect[[X]]", "X"),
    ("#REDIRECT to nowhere", ""), ("# a list", None), ("Text #REDIRECT [[Alpha]]", None), ("#redirects [[A]]", None),
  ],
)  # fmt: skip
def test_the_target_of_a_redirect_by_its_text(text, target):
  assert titles.redirect_target(text) == target


def test_redirects_are_followed_over_ten_hops_and_a_loop_leads_nowhere():
  chain = {f"T{n}": f"T{n + 1}" for n in range(12)}
  assert titles.resolve("T2", chain.get) == "T12"  # 10 hops
  assert titles.resolve("T1", chain.get) == "T11"  # the eleventh is not taken
  loop = {"A": "B", "B": "C", "C": "B", "D": "D"}
  assert [titles.resolve(title, loop.get) for title in "ABCDE"] == ["A", "B", "C", "D", "E"]


@pytest.mark.parametrize(
  ("text", "flag"),
  [
    ("X may be:\n* [[Y]]\n{{disambiguation}}", True), ("{{Disambig|geo}}", True), ("{{ dab }}", True),
    ("{{Hospital_disambiguation}}", True), ("{{Begriffsklärung}}", True), ("{{曖昧さ回避}}", True),
    ("{{неоднозначность}}", True), ("{{동음이의}}", True), ("{{disambiguation\n|geo}}", True),
    ("{{disambiguation needed|date=May}}", False), ("disambiguation", False), ("{{cite|disambiguation}}", False),
  ],
)  # fmt: skip
def test_pages_of_homonyms_are_known_by_their_template(text, flag):
  assert titles.is_disambiguation(text) is flag


# Text with links


@pytest.mark.parametrize(
  ("wikitext", "text", "links"),
  [
    ("An [[apple]] fell.", "An apple fell.", [("apple", "Apple")]),
    ("[[new_York#Parks|the city]]", "the city", [("the city", "New York")]),
    ("[[:Category:Birds|birds]]", "birds", [("birds", "Category:Birds")]),
    ("''[[Iliad]]'''s", "Iliads", [("Iliad", "Iliad")]),
    ("[[#Wings|below]]", "below", []),
    ("a{{t|[[x]]}}b", "ab", []),
    ("a<ref>[[x]]</ref>b<!-- [[y]] -->", "ab", []),
    ("{|\n| [[x]]\n|}\nend", "\nend", []),
    ("== [[Head]] ==\n* an [[item]]", "\n an item", [("item", "Item")]),
    ("<b>bold [[x]]</b> <u>u</u> <small>[[small]]</small>", "bold x u ", []),
    ("[http://a.org a [[b]]] [http://c.org]", "a b ", []),
    ("5&nbsp;km&ndash;[[x&amp;y|z&amp;w]]", "5\u00a0km–z&w", [("z&w", "X&y")]),
    ("[[a|two\nlines]]\n[[b]]", "two lines\nb", [("two lines", "A"), ("b", "B")]),
    ("[[File:x.jpg|thumb|left|A [[cat]] sat.]]", "A cat sat.", [("A cat sat.", "File:x.jpg")]),
    ("[[Datei:x.jpg|mini|Ein Bild]]", "Ein Bild", [("Ein Bild", "Datei:x.jpg")]),
    ("x[[Category:Birds]]y", "x              y", []),
    ("x[[Kategorie:V]]y[[de:V]]", "x           y    ", []),
    ("[[Halo: 5|five]] [[wikt:go|went]]", "five went", [("five", "Halo: 5"), ("went", "Wikt:go")]),
    ("a \U0001f600 [[b\U00020000|c\U00020000]]", "a   c ", [("c ", "B\U00020000")]),
    ("[[ |x]] [[y| ]]", "x  ", []),
    ("[[a]", "[[a]", []),
  ],
)
def test_links_by_the_rules_of_wikipedia2vec(wikitext, text, links):
  assert shown(wikitext) == (text, links)


def test_the_name_of_the_rules_says_where_they_depart():
  assert wiki_links.PARSER == "wikipedia2vec-1.0, character references read, shown namespaces blanked"


def test_the_child_gives_what_the_function_gives_within_its_limits():
  stripper = Stripper(seconds=0.5, chars=30_000)
  wikitext = "A [[b|\U0001f600 c]] of [[Datei:x|y]]."
  assert stripper.linked(wikitext, SPACES) == wiki_links.linked(wikitext, SPACES)
  for text, reason in (("{{a|" * 5000, "timed out"), ("x" * 30_001, "over the size limit")):
    with pytest.raises(Skipped, match=reason):
      stripper.linked(text)
  assert (stripper.linked("[[a]]"), stripper.prose("[[a]]")) == (("a", [(0, 1, "A")]), "a")
  stripper.close()


# Sentences with links


def by_sentence(document):
  return [
    (text, [(text[first:end], title) for first, end, title in links])
    for text, links in zip(document.text, document.links, strict=True)
  ]


def linked_sentences(wikitext):
  marked = documents.with_links(Document("1", "T", wikitext, ()), wiki_links.linked)
  return by_sentence(documents.sentences(marked, "en", None))


def test_links_move_with_their_sentences():
  wikitext = "The  [[cat]]\u00a0sat.  An [[New_York|apple  pie]] \U0001f600 fell.\n\n[[Category:X]]\n"
  assert linked_sentences(wikitext + "* [[ dog| Dogs ]] ran.") == [
    ("The cat sat.", [("cat", "Cat")]),
    ("An apple pie fell.", [("apple pie", "New York")]),
    ("Dogs ran.", [("Dogs", "Dog")]),
  ]


def test_a_link_over_two_sentences_is_text():
  assert linked_sentences("It [[a|ended. The]] next [[b|one began.]] Then [[c]].") == [
    ("It ended.", []),
    ("The next one began.", [("one began.", "B")]),
    ("Then c.", [("c", "C")]),
  ]


def test_control_characters_move_no_link():
  assert linked_sentences("a&#x7f;b [[c]].") == [("ab c.", [("c", "C")])]


def test_links_and_annotations_of_one_document_move_alike():
  text = "One  two. Three\u2003four."
  document = Document("1", None, text, annotations={"entities": [[5, 8]]}, links=[[(5, 8, "Two"), (10, 20, "Long")]])
  found = documents.sentences(document, "en", None)
  assert by_sentence(found) == [("One two.", [("two", "Two")]), ("Three four.", [("Three four", "Long")])]
  assert found.annotations == {"entities": [[4, 7]]}


def test_documents_without_links_have_none():
  assert documents.sentences(Document("1", None, "One. Two."), "en", None).links is None


# Whole dumps


def in_markup(wikitext):
  """Links at any depth but those to files, images, categories and own sections, by the parser's whole tree."""
  names = (str(node.title).strip() for node in mwparserfromhell.parse(wikitext).filter_wikilinks())
  return [name for name in names if not re.match(r"(file|image|category):|#", name, re.IGNORECASE)]


def at_top_level(wikitext, namespaces):
  """Where the links of the uppermost level lead that show text, and no namespace or language, by the parser's whole
  tree; of a link to a file what it shows stands behind the last bar."""
  spaces = rf"({'|'.join(('file', 'image', 'category', *map(re.escape, namespaces)))})\s*:"
  found = Counter()
  for node in mwparserfromhell.parse(re.sub("'{2,}", "", wikitext)).nodes:
    if not isinstance(node, nodes.Wikilink):
      continue
    written = node.title.strip_code()
    text, name = (written if node.text is None else node.text.strip_code()), written.lstrip(":").split("#")[0]
    if re.match(spaces, name.strip(), re.IGNORECASE):
      text = "" if re.match(rf":?\s*{spaces}", text.split("|")[-1], re.IGNORECASE) else text.split("|")[-1]
    if not text.strip() or (node.text is None and re.match("[a-z]{2,3}(-[a-z]+)*:", written)):
      continue
    name = " ".join(re.split(r"[\s_]+", name)).strip()
    found[name if name == "ß" else name[:1].upper() + name[1:]] += 1
  del found[""]
  return found


def read(path):
  """Pages and redirects of a dump."""
  raw = list(open_source(str(path)).raw(linked=True))
  return [d for d in raw if d.redirect is None], {d.title: d.redirect for d in raw if d.redirect is not None}


def found_in(document):
  return Counter(title for *_, title in wiki_links.linked(document.text, document.namespaces)[1])


def test_links_of_a_dump(tmp_path):
  text = "[[a]] and [[A|it]], {{box|[[hidden]]}} [[b_c#d|e]] [[#own]] [[File:x.jpg|a [[caption]]]] [[Category:Z]]"
  text += " [[Kategorie:Z]]"
  path = written(tmp_path / "a.xml", dump(page(1, "One", text), page(2, "Two", "#REDIRECT [[One]]", redirect="One")))
  pages, redirects = read(path)
  assert redirects == {"Two": "One"}
  assert in_markup(pages[0].text) == ["a", "A", "hidden", "b_c#d", "caption", "Kategorie:Z"]
  found = {"A": 2, "B c": 1, "File:x.jpg": 1}
  assert found_in(pages[0]) == at_top_level(pages[0].text, pages[0].namespaces) == found


@pytest.fixture(scope="module")
def real():
  if not SHARED.exists():
    pytest.skip("no ../shared/data/wiki")
  return read(SHARED)


def test_links_of_a_real_dump(real, tmp_path):
  """Of every page those of an independent walk; the card's totals, over redirects, are the sums of that walk."""
  pages, redirects = real
  assert (len(pages), len(redirects)) == (106, 99)  # and one redirect of another namespace
  assert redirects["AfghanistanHistory"] == "History of Afghanistan"
  table, walked = LinkTable(tmp_path / "links.sqlite"), Counter()
  for document in pages:
    found, own = found_in(document), at_top_level(document.text, document.namespaces)
    assert found == own, document.title
    table.add(document.id, [(document.title, False)], redirects.items(), found)
    for title, count in own.items():
      walked[redirects.get(title, title)] += count
  table.resolve()
  card = table.card()
  assert (card["links"], card["targets"]) == (walked.total(), len(walked)) == (23_511, 17_850)


@pytest.mark.slow
def test_a_real_dump_is_read_whole(real):
  assert sum(len(in_markup(document.text)) for document in real[0]) == 30_216
