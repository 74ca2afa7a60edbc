"""What commands say while they work, and at their end."""

import logging
import sys

import pytest

from trainer.logs import Live
from trainer.verbs import display


def test_a_line_of_figures_says_whose_they_are(caplog):
  caplog.set_level(logging.INFO)
  live = Live(20, 0, terminal=False)
  live.report(5, {"train/loss": 0.25, "train/accuracy": 0.5})
  live.report(10, {"eval/loss": 0.5, "eval/mismatched/accuracy": 0.75})
  live.report(20, {"test/f1": 1.0})
  live.close()
  said = [record.getMessage().partition("  ETA")[0] for record in caplog.records]
  assert said == [
    "step 5/20  train loss 0.25 accuracy 0.5", "step 10/20  eval loss 0.5 mismatched/accuracy 0.75",
    "step 20/20  test f1 1",
  ]  # fmt: skip


def test_long_work_tells_how_far_it_is_where_no_bar_shows_it(capsys, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
  with display.metered(1000) as meter:
    for _ in range(10):
      now[0] += display.EVERY / 4 + 0.1
      meter(100, 700)
  assert capsys.readouterr().err.splitlines() == ["400 of 1,000 texts", "800 of 1,000 texts"]


def test_a_title_is_as_wide_as_the_terminal_and_not_as_its_table(capsys, monkeypatch):
  monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
  monkeypatch.setenv("COLUMNS", "80")
  title = "A man is eating a piece of bread. | Someone eats [MASK]."
  display.show([{"number": 0.5}], lambda record: title, lambda record: [record])
  lines = capsys.readouterr().out.splitlines()
  assert title in lines[0] and "0.5000" in "".join(lines)


@pytest.mark.parametrize("records", [[], [{"a": 1}, {"a": "é"}]])
def test_elsewhere_answers_are_lines_of_json(capsys, records):
  display.show(records, str, lambda record: [record])
  assert capsys.readouterr().out == "".join(f'{{"a": {value}}}\n' for value in ("1", '"é"')[: len(records)])
