"""What every parser of a model's output has in common.

A parser eats the output's text in pieces, however it is cut, and says what it means: text for the
reader, thinking, calls of tools. The cut makes no difference: the same text gives the same events,
but for where a run of text, thinking or arguments is divided. A parser holds back no more than may
yet become a mark, a header of bounded length, or the JSON of one call.
"""

import re
from collections.abc import Callable, Iterable
from typing import Protocol

from appliance.chat.events import CallArguments, CallDone, CallStarted, Text, Thinking

Parsed = Text | Thinking | CallStarted | CallArguments | CallDone
NewId = Callable[[], str]  # a fresh id for a call

BLANKS = " \t\r\n"
MAX_BLANKS = 64  # most white space that is stripped in one place


class Parser(Protocol):
    """One per answer."""

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next is thinking."""

    @property
    def is_answering(self) -> bool:
        """Whether the thinking is over, or there was none: the answer proper has begun."""

    def feed(self, text: str) -> list[Parsed]:
        """What the text that has come so far means beyond what was told."""

    def finish(self) -> list[Parsed]:
        """The rest, once no more text can come. Call once."""


class Marks:
    """Texts that mean something to a parser, searched for in pieces."""

    def __init__(self, marks: Iterable[str]) -> None:
        self._marks = tuple(mark for mark in marks if mark)
        longest_first = sorted(self._marks, key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest_first)) if longest_first else r"(?!)"
        self._pattern = re.compile(pattern)

    def find(self, text: str) -> tuple[int, str] | None:
        """The first mark in the text and where it begins."""
        found = self._pattern.search(text)
        return (found.start(), found[0]) if found else None

    def tail(self, text: str) -> int:
        """Length of the longest end of `text` that is a proper beginning of a mark."""
        longest = 0
        for mark in self._marks:
            at = text.find(mark[0], max(0, len(text) - len(mark) + 1))
            while at >= 0:
                if mark.startswith(text[at:]):
                    longest = max(longest, len(text) - at)
                    break
                at = text.find(mark[0], at + 1)
        return longest


def blank_tail(text: str) -> int:
    """Length of the white space at the end of `text`, at most MAX_BLANKS."""
    end = text[-MAX_BLANKS:]
    return len(end) - len(end.rstrip(BLANKS))
