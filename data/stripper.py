"""Markup to text in a child process with limits: parsing can take time that grows with the cube of the nesting.

Run as `python -m data.stripper` this module is that child: one JSON object a line in, one out.
"""

from __future__ import annotations

import atexit
import json
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data import wiki_links, wikitext
from data.documents import Skipped
from data.reading import SourceError
from data.wiki import PAGE_CHARS

PAGE_SECONDS = 10.0
_CHILD_BYTES = 4 << 30
_PARSERS = {"prose": wikitext.prose, "linked": wiki_links.linked}


class Stripper:
  """`wikitext.prose` and `wiki_links.linked` in a child process with a limit on time and memory.

  The child is started at first use.
  """

  def __init__(self, seconds: float = PAGE_SECONDS, chars: int = PAGE_CHARS):
    self.seconds, self.chars = seconds, chars
    self._child: subprocess.Popen | None = None

  def prose(self, wikitext: str, namespaces: Iterable[str] = ()) -> str:
    """As `wikitext.prose`.

    Raises:
      Skipped: "over the size limit", "timed out" or "bad markup".
    """
    return self._answer("prose", wikitext, namespaces)

  def linked(self, wikitext: str, namespaces: Iterable[str] = ()) -> tuple[str, list[wiki_links.Link]]:
    """As `wiki_links.linked`.

    Raises:
      Skipped: as `prose`.
    """
    text, links = self._answer("linked", wikitext, namespaces)
    return text, [tuple(link) for link in links]

  def _answer(self, kind: str, wikitext: str, namespaces: Iterable[str]) -> Any:
    if len(wikitext) > self.chars:
      raise Skipped("over the size limit")
    child = self._started()
    request = json.dumps([kind, wikitext, list(namespaces)])
    timer = threading.Timer(self.seconds, child.kill)
    timer.start()
    try:
      child.stdin.write(request.encode() + b"\n")
      child.stdin.flush()
      answer = child.stdout.readline()
    except BrokenPipeError:
      answer = b""
    finally:
      timer.cancel()
    if not answer.endswith(b"\n"):
      self.close()
      raise Skipped("timed out")
    reply = json.loads(answer)
    if "reason" in reply:
      raise Skipped(reply["reason"])
    return reply["result"]

  def _started(self) -> subprocess.Popen:
    if self._child is None:
      root = Path(__file__).resolve().parent.parent
      command = [sys.executable, "-m", "data.stripper"]
      self._child = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
      atexit.register(self.close)
      self._check_ready(self._child)
    return self._child

  def _check_ready(self, child: subprocess.Popen) -> None:
    # The child's start is not the page's time.
    greeting = child.stdout.readline()
    if greeting != b"ready\n":
      self.close()
      raise SourceError("reading wikitext needs the package mwparserfromhell: pip install 'septet[wiki]'")

  def close(self) -> None:
    if self._child is not None:
      self._child.kill()
      self._child.wait()
      self._child.stdin.close()
      self._child.stdout.close()
      self._child = None
      atexit.unregister(self.close)


def _serve() -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
  resource.setrlimit(resource.RLIMIT_AS, (_CHILD_BYTES, _CHILD_BYTES))
  try:
    import mwparserfromhell  # noqa: F401
  except ImportError:
    return
  sys.stdout.buffer.write(b"ready\n")
  sys.stdout.buffer.flush()
  for line in sys.stdin.buffer:
    kind, text, namespaces = json.loads(line)
    try:
      reply = {"result": _PARSERS[kind](text, namespaces)}
    except (Skipped, MemoryError) as error:
      reply = {"reason": str(error) or "over the size limit"}
    sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
  _serve()
