"""MediaWiki dumps: pages, the prose of a page, and limits on what damaged or hostile ones can do."""

import bz2
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data import documents, wiki, wikitext
from data.documents import Document, Skipped
from data.sources import SourceError, open_source
from data.stripper import Stripper
from tests.words import read, written

SHARED = Path(__file__).parent / "../../shared/data"

ARTICLE = """{{Infobox|name=A|note={{nested|[[File:x.png]]}}}}
[[File:pic.jpg|thumb|A [[caption]] goes away]]
'''Alpha''' ({{lang|el|x}}, plural ''Alphas'') is the [[Letter|first letter]] of the [[alphabet]].<ref name=a>{{cite|t=
''gone}}</ref><!-- a comment --> It is &amp; stays<br>so.<ref name=a />

== Heading ==
{| class="wikitable"
! head
|-
| cell [[link]]
|}
* a list item with a [[link]]
# another
: indented
The ''[[Iliad]]'''s [http://example.org Outside] pages are [[:Category:Kept|kept]]. See http://bare.example too.
<gallery>
File:y.jpg|gone
</gallery>
__NOTOC__
[[Kategorie:Weg]]
[[Category:Gone]]
[[de:Alpha]]
"""
PROSE = [
  "Alpha (plural Alphas) is the first letter of the alphabet.",
  "It is & stays so.",
  "The Iliad's Outside pages are kept.",
  "See too.",
]


def page(number, title, text, namespace=0, redirect=""):
  tag = f'<redirect title="{redirect}" />' if redirect else ""
  text = text.replace("&", "&amp;").replace("<", "&lt;")
  return (
    f"<page><title>{title}</title><ns>{namespace}</ns><id>{number}</id>{tag}<revision><id>1{number}</id>"
    f'<text xml:space="preserve">{text}</text></revision></page>'
  )


def dump(*pages):
  spaces = '<namespaces><namespace key="0" /><namespace key="14">Kategorie</namespace></namespaces>'
  xmlns = "http://www.mediawiki.org/xml/export-0.10/"
  return f'<mediawiki xmlns="{xmlns}"><siteinfo>{spaces}</siteinfo>{"".join(pages)}</mediawiki>'


PAGES = (
  page(1, "Alpha", ARTICLE),
  page(2, "Beta", "#REDIRECT [[Alpha]]", redirect="Alpha"),
  page(3, "Talk:Alpha", "Chat.", namespace=1),
  page(4, "List", "* one\n* two\n"),
  page(5, "Gamma", "#redirect [[Alpha]] of an old dump"),
  page(6, "Delta", "Delta is the last one."),
)


@pytest.mark.parametrize(("name", "pack"), [("a.xml", bytes), ("a.xml.bz2", bz2.compress)])
def test_pages_of_a_dump(tmp_path, name, pack):
  found, skipped = read(written(tmp_path / name, pack(dump(*PAGES).encode())))
  assert found == {"1": PROSE, "6": ["Delta is the last one."]}
  assert skipped == {"redirect": 2, "other namespace": 1, "empty": 1}


def test_every_page_of_a_dump_longer_than_the_parser_keeps(tmp_path):
  path = written(tmp_path / "a.xml", dump(*(page(n, f"T{n}", f"Text {n}.") for n in range(2500))))
  found = [(document.id, document.text) for document in open_source(str(path)).raw()]
  assert found == [(str(n), f"Text {n}.") for n in range(2500)]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_dump_says_how_far_it_was_read(tmp_path, share):
  noise = np.random.default_rng(0).integers(97, 122, (40, 20_000), np.uint8)
  whole = bz2.compress(dump(*(page(n, f"T{n}", row.tobytes().decode()) for n, row in enumerate(noise))).encode())
  path = written(tmp_path / "a.xml.bz2", whole[: int(share * len(whole))])
  with pytest.raises(SourceError, match=r"a.xml.bz2: cannot be read after \d+ pages .*: fetch it again"):
    list(open_source(str(path)).raw())


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("<html><body/></html>", "got a <html> document, want a <mediawiki> dump"),
    ("no xml", "cannot be read after 0 pages"),
    ("", "cannot be read after 0 pages"),
    (dump(*PAGES)[:-300], "cannot be read after 4 pages"),
    ('<!DOCTYPE m [<!ENTITY a "aaaa">]>' + dump(page(1, "A", "x")), r"EntitiesForbidden\(name='a'"),
  ],
)
def test_what_is_no_dump_is_refused(tmp_path, content, message):
  with pytest.raises(SourceError, match=message):
    list(open_source(str(written(tmp_path / "a.xml", content))).raw())


def test_a_page_over_the_size_limit_is_counted(tmp_path, monkeypatch):
  monkeypatch.setattr(wiki, "PAGE_CHARS", 30)
  path = written(tmp_path / "a.xml", dump(page(1, "A", "x " * 40), page(2, "B", "It fits.")))
  assert read(path) == ({"2": ["It fits."]}, {"over the size limit": 1})


def test_a_page_over_the_parsers_memory_ends_the_reading(tmp_path, monkeypatch):
  monkeypatch.setattr(wiki, "_PAGE_BYTES", 100_000)
  path = written(tmp_path / "a.xml", dump(page(1, "A", "x " * 100_000)))
  with pytest.raises(SourceError, match="a page takes over"):
    list(open_source(str(path)).raw())


def test_a_page_that_takes_too_long_is_left_out_and_the_next_one_read():
  stripper = Stripper(seconds=0.5)
  with pytest.raises(Skipped, match="timed out"):
    stripper.prose("{{a|" * 5000)  # takes half a minute
  assert stripper.prose("The ''next'' one.") == "The next one."
  stripper.close()


@pytest.mark.parametrize("markup", ["[[", "]]", "{{", "}}", "{|", "|}", "<ref>", "<"])
def test_broken_markup_costs_its_own_paragraph_at_most(markup):
  stripper = Stripper()
  document = Document("1", None, f"Before it.\n\nBroken {markup} here {markup * 3} too.\n\nAfter it.", ())
  found = documents.sentences(document, "en", stripper.prose).text
  stripper.close()
  assert (found[0], found[-1]) == ("Before it.", "After it.")
  assert len(markup) < 2 or not any(markup in sentence for sentence in found)


def test_the_demo_is_106_articles():
  source = open_source("demo")
  found = list(source.raw())
  assert len(found) == 106
  assert source.skipped == Counter({"redirect": 99, "other namespace": 1})
  assert {"Anarchism", "Aristotle", "Alabama"} <= {document.title for document in found}


@pytest.mark.parametrize(("name", "count"), [("enwiki-pages-articles-shortened", 106), ("enwiki-table-markup", 5)])
def test_real_dumps(name, count):
  path = SHARED / "wiki" / f"{name}.xml.bz2"
  if not path.exists():
    pytest.skip("no ../shared/data/wiki")
  found = list(open_source(str(path)).raw())
  assert len(found) == count
  text = wikitext.prose(found[0].text, found[0].namespaces)
  assert len(text) > 1000
  assert [mark for mark in ("[[", "]]", "{{", "}}", "{|", "<ref", "'''", "\n*") if mark in text] == []
