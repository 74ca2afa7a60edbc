"""Titles of wiki pages: one spelling for each, where redirects lead, which pages only tell others apart."""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_HOPS = 10  # wikipedia2vec's
_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)
_TARGET = re.compile(r"\s*:?\s*\[\[([^\[\]|]+)")
_TEMPLATE = re.compile(r"\{\{\s*([^{}|<>\n]+?)\s*(?:[|}\n<]|$)")

# Templates that stand on pages of homonyms, by the larger Wikipedias, in lower case.
_HOMONYMS = """
  disambiguation|disambig|disamb|dab|disambiguation page|geodis|hndis|numberdis|mathdab|roaddis|schooldis
  begriffsklärung|begriffsklaerung|bkl|dp|doorverwijspagina|förgrening|flertydig|peker|pekerside|aðgreining|dubbelsinnig
  homonymie|homonyme|desambiguación|desambiguacion|desambiguação|desambiguació|disambigua|dezambiguizare|homónimos
  homónimo|argipen|неоднозначность|неоднозначність|неадназначнасць|пояснение|вишезначна одредница|ujednoznacznienie
  rozcestník|rozlišovacia stránka|razdvojba|višeznačna odrednica|razločitev|nuorodinis straipsnis|nozīmju atdalīšana
  täsmennyssivu|täpsustus|täpsustuslehekülg|egyért|egyert|αποσαφήνιση|anlam ayrımı|anlam ayrim|kthjellim|երկիմաստ
  aimai|曖昧さ回避|人名の曖昧さ回避|地名の曖昧さ回避|同名の作品|消歧义|消歧義|消歧义页|消歧義頁|동음이의|동명이인
  توضيح|ابهام‌زدایی|ابهام زدایی|ضد ابہام|פירושונים|trang định hướng|định hướng|disambiguasi|nyahkekaburan|แก้ความกำกวม
  बहुविकल्पी शब्द|बहुविकल्पी|দ্ব্যর্থতা নিরসন|பக்கவழி நெறிப்படுத்தல்|అయోమయ నివృత్తి|მრავალმნიშვნელოვანი
"""
_NAMES = frozenset(_HOMONYMS.strip().replace("\n  ", "|").split("|"))


def normalise(title: str) -> str:
  """A title as MediaWiki writes it: no leading colon, no anchor, single spaces for "_", a capital first letter.

  "" where nothing is left, as of a link to a section of its own page.
  """
  words = " ".join(title.partition("#")[0].replace("_", " ").lstrip(": ").split())
  if not words.isascii():
    words = words.encode(errors="ignore").decode()  # character references can name lone surrogates
  capital = words[:1].upper()
  return capital + words[1:] if len(capital) == 1 else words  # "ß" has no capital of one letter


def prefix(title: str) -> str:
  """What stands before a colon, in lower case: a namespace, or a language; "" without one."""
  before, colon, _ = title.lstrip(": ").partition(":")
  return before.strip().lower() if colon else ""


def redirect_target(wikitext: str) -> str | None:
  """The title that a page leads to by its text alone, "" where that cannot be read; None of other pages.

  For dumps of before 2010, whose pages do not say it in an element of their own.
  """
  word = _REDIRECT.match(wikitext)
  if word is None:
    return None
  target = _TARGET.match(wikitext, word.end())
  return target.group(1) if target else ""


def is_disambiguation(wikitext: str) -> bool:
  """Whether a template of a page of homonyms stands in the text."""
  names = (match.group(1).replace("_", " ").lower() for match in _TEMPLATE.finditer(wikitext))
  return any(name in _NAMES or name.endswith(" disambiguation") for name in names)


def resolve(title: str, redirects: Callable[[str], str | None]) -> str:
  """Where a title leads, over at most 10 redirects; on a loop the title itself (wikipedia2vec).

  Args:
    redirects: the next title, None of a title that is no redirect.
  """
  seen = [title]
  for _ in range(MAX_HOPS):
    target = redirects(seen[-1])
    if target is None:
      break
    if target in seen:
      return title
    seen.append(target)
  return seen[-1]
