"""One call as Python writes it, followed piece by piece, so that text that is none is told at once.

Llama 3.2 and 4 answer with a list of such calls, without a mark: `[get_weather(city="Paris")]`.
"""

import re
from collections.abc import Sequence

from appliance.chat.events import Tool
from appliance.chat.parse.json_scan import MAX_DEPTH
from appliance.chat.parse.tools.call import CallWriter
from appliance.chat.parse.tools.python import python_calls

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_CODE = re.compile(r"[^\"'()\[\]{}]+")
_QUOTED = {quote: re.compile(rf"[^\\{quote}]+") for quote in "\"'"}


class PythonCall:
    """Reads `name(…)`: what begins no tool's name breaks it, its last bracket ends it, and then the
    whole is a call with literals or broken. Fed like a `CallObject`."""

    def __init__(self, writer: CallWriter, tools: Sequence[Tool]) -> None:
        self.is_done = False
        self.is_broken = False
        self._writer = writer
        self._tools = tools
        self._pieces: list[str] = []
        self._name = ""
        self._open: list[str] = []  # what closes the brackets that are open
        self._quote = ""
        self._is_escaped = False

    def feed(self, text: str, at: int) -> int:
        """Read on from `text[at]`; how far it came."""
        while at < len(text) and not (self.is_done or self.is_broken):
            if not self._open:
                end = self._in_name(text, at)
            elif self._quote:
                end = self._in_quotes(text, at)
            else:
                end = self._in_arguments(text, at)
            self._pieces.append(text[at:end])
            at = end
            if self._name and not self._open and self._pieces[-1] == ")":
                self._end()
        return at

    def _in_name(self, text: str, at: int) -> int:
        name = self._name + text[at]
        if text[at] == "(" and any(tool.name == self._name for tool in self._tools):
            self._open.append(")")
        elif any(tool.name.startswith(name) for tool in self._tools):
            self._name = name
        else:
            self.is_broken = True
            return at
        return at + 1

    def _in_quotes(self, text: str, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        if plain := _QUOTED[self._quote].match(text, at):
            return plain.end()
        if text[at] == "\\":
            self._is_escaped = True
        else:
            self._quote = ""
        return at + 1

    def _in_arguments(self, text: str, at: int) -> int:
        if code := _CODE.match(text, at):
            return code.end()
        one = text[at]
        if one in "\"'":
            self._quote = one
        elif one in _CLOSING and len(self._open) < MAX_DEPTH:
            self._open.append(_CLOSING[one])
        elif one == self._open[-1]:
            self._open.pop()
        else:
            self.is_broken = True
            return at
        return at + 1

    def _end(self) -> None:
        calls = python_calls("".join(self._pieces), self._tools)
        if calls is None or len(calls) != 1:
            self.is_broken = True
            return
        self._writer.whole(*calls[0])
        self.is_done = True
