"""Thinking between two tags, apart from the answer behind it (Ollama, thinking/parser.go).

    BEFORE     nothing but white space has come; the opening tag may follow
    THINKING   behind the opening tag; white space at either end is stripped
    AFTER      behind the closing tag; white space before the answer is stripped
    ANSWER     the rest is the answer, tags in it included

A template that has opened the tag itself starts in THINKING. Thinking that is never closed stays
thinking: the answer is then empty. An answer that does not begin with the tag is all answer.
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from appliance.chat.events import Message, Text, Thinking
from appliance.chat.parse.base import BLANKS, MAX_BLANKS, Marks, Parsed, Parser, blank_tail


class _State(Enum):
    BEFORE = 1
    OPENED = 2  # thinking, of which only white space has come
    THINKING = 3
    AFTER = 4
    ANSWER = 5


class ThinkingParser:
    """Hands the answer on to the parser of what it may contain."""

    def __init__(self, tags: tuple[str, str], answer: Parser, *, is_opened: bool = False) -> None:
        self._open, self._close = tags
        self._answer = answer
        self._state = _State.OPENED if is_opened else _State.BEFORE
        self._closing = Marks((self._close,))
        self._held = ""

    @property
    def is_thinking(self) -> bool:
        return self._state in (_State.OPENED, _State.THINKING)

    @property
    def is_answering(self) -> bool:
        return self._state in (_State.AFTER, _State.ANSWER)

    def feed(self, text: str) -> list[Parsed]:
        if self._state is _State.ANSWER:
            return self._answer.feed(text)
        found: list[Parsed] = []
        text, self._held = self._held + text, ""
        if self._state is _State.BEFORE:
            text = self._before(text)
        if self._state is _State.OPENED:
            text = text.lstrip(BLANKS)
            if text:
                self._state = _State.THINKING
        if self._state is _State.THINKING:
            text = self._think(text, found)
        if self._state is _State.AFTER:
            text = text.lstrip(BLANKS)
            if text:
                self._state = _State.ANSWER
        if self._state is _State.ANSWER and text:
            found += self._answer.feed(text)
        return found

    def finish(self) -> list[Parsed]:
        held, self._held = self._held, ""
        if self._state is _State.THINKING:
            held = held.rstrip(BLANKS)
            return [Thinking(held)] if held else []
        rest = self._answer.feed(held) if held else []
        return [*rest, *self._answer.finish()]

    def _before(self, text: str) -> str:
        """What follows the opening tag, or all of it where there is none; "" while unknown."""
        start = text.lstrip(BLANKS)
        if len(text) - len(start) <= MAX_BLANKS:
            if start.startswith(self._open):
                self._state = _State.OPENED
                return start[len(self._open) :]
            if self._open.startswith(start):
                self._held = text
                return ""
        self._state = _State.ANSWER
        return text

    def _think(self, text: str, found: list[Parsed]) -> str:
        """Tell what is thinking for certain; returns what follows the closing tag."""
        hit = self._closing.find(text)
        if hit is not None:
            end, rest = hit[0], text[hit[0] + len(hit[1]) :]
            end -= blank_tail(text[:end])
            self._state = _State.AFTER
        else:
            end, rest = len(text) - self._closing.tail(text), ""
            end -= blank_tail(text[:end])
            self._held = text[end:]
        if end:
            found.append(Thinking(text[:end]))
        return rest


def without_old_thinking(messages: Sequence[Message], tags: tuple[str, str]) -> list[Message]:
    """The messages, with no thinking inside the contents of answers before the last question
    (Ollama, server/prompt.go, for the models that were trained so)."""
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    end = users[-1] if users else 0
    return [_bare(m, tags) if i < end else m for i, m in enumerate(messages)]


def _bare(message: Message, tags: tuple[str, str]) -> Message:
    thought, closed, rest = message.content.partition(tags[1])
    if message.role != "assistant" or not closed or not thought.lstrip().startswith(tags[0]):
        return message
    return replace(message, content=rest.lstrip())


class PlainParser:
    """All text is answer."""

    is_thinking = False
    is_answering = True

    def feed(self, text: str) -> list[Parsed]:
        return [Text(text)] if text else []

    def finish(self) -> list[Parsed]:
        return []
