"""Saved tokenizers, read by transformers: RoBERTa's and ALBERT's classes give the same ids and spans."""

import random

import pytest

from data import tokenizers
from data.tokenizers import bytebpe, sentencepieces

pytestmark = pytest.mark.parity

WORDS = ["the", "Cat", "naïve", "café", "don't", "1,000", "5,", "(new)", "low-cost", "sat.", "한국어", "東京", "ﬁne"]
CORPUS = [" ".join(random.Random(i).choices(WORDS, k=12)) for i in range(600)]
ODD = [
  "", " ", "  Two  spaces\tand\nlines ", "``quoted'' ``` '''' `", "Zoë İstanbul ½ ① e\u0301x", "a\u00a0b\u3000c\u200bd",
  "😀👨‍👩‍👧 日本語éé", "1,2,3, 99,, 5,000,000,", "(a)(b)---\"-\"..€£", "it's 'twas WE'LL", "x" * 300, "中文字符",
  "a ▁b", "[CLS] <s> <unk> <pad> [mask] <MASK>",
]  # fmt: skip


def save(folder, train, corpus, **settings):
  train(corpus, 420, **settings).save(folder, max_length=512)
  return tokenizers.load(folder)


def check(ours, theirs, texts, same_spans):
  for text, encoding in zip(texts, ours.encode(texts, specials=True), strict=True):
    want = theirs(text, return_offsets_mapping=True)
    assert ours.pieces(encoding.ids) == theirs.convert_ids_to_tokens(want["input_ids"]), text
    assert encoding.ids.tolist() == want["input_ids"]
    if text in same_spans:
      assert encoding.offsets.tolist() == [list(span) for span in want["offset_mapping"]], text


@pytest.mark.parametrize("name", ["RobertaTokenizerFast", "AutoTokenizer"])
def test_roberta(tmp_path, name):
  transformers = pytest.importorskip("transformers")
  ours = save(tmp_path, bytebpe.train, CORPUS)
  theirs = getattr(transformers, name).from_pretrained(tmp_path)
  assert len(theirs) == 420 and theirs.model_max_length == 512
  assert (theirs.pad_token_id, theirs.mask_token_id, theirs.cls_token_id) == (1, 419, 0)
  texts = [*CORPUS, *ODD, "Hello <mask> world", "a   <mask>b <mask>", "<mask>", "a</s>b"]
  check(ours, theirs, texts, texts)


@pytest.mark.parametrize("name", ["AlbertTokenizerFast", "AutoTokenizer"])
@pytest.mark.parametrize("settings", [{}, {"lowercase": False, "keep_accents": True}])
def test_albert(tmp_path, name, settings):
  """But for Hangul, which transformers leaves in letters, and spans of odd characters, which it cuts shorter."""
  transformers = pytest.importorskip("transformers")
  corpus = CORPUS if settings else [text.replace("한국어", "Korean") for text in CORPUS]
  ours = save(tmp_path, sentencepieces.train, corpus, **settings)
  theirs = getattr(transformers, name).from_pretrained(tmp_path)
  assert len(theirs) == 420 and theirs.model_max_length == 512
  assert (theirs.pad_token_id, theirs.mask_token_id, theirs.cls_token_id) == (0, 4, 2)
  assert any(sentencepieces.digit_comma(piece) for piece in ours.vocabulary)  # the rule for commas has work to do
  check(ours, theirs, [*corpus, *ODD, "Hello [MASK] world", "a   [MASK]b [MASK]", "a[SEP]b"], corpus)
