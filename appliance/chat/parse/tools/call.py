"""One call as it comes: which events tell of it, and the JSON object that most families write."""

import json
from collections.abc import Mapping
from typing import Any

from appliance.chat.events import CallArguments, CallDone, CallStarted, ToolCall
from appliance.chat.parse.base import BLANKS, NewId, Parsed
from appliance.chat.parse.json_scan import JsonScanner

_NAMES = ("name", "function", "tool_name")
_ARGUMENTS = ("arguments", "parameters")


class CallWriter:
    """Tells of one call: started when its name is known, then its arguments, then that it is done.

    A call that breaks off is never done.
    """

    def __init__(self, index: int, new_id: NewId, found: list[Parsed]) -> None:
        self.index = index
        self.is_started = False
        self.found = found  # where the events go
        self.name = ""
        self._new_id = new_id
        self._id = ""
        self._waiting: list[str] = []  # arguments that came before the name
        self._text: list[str] = []

    def start(self, name: str, id: str = "") -> None:
        self.name, self._id = name, id or self._new_id()
        self.is_started = True
        self.found.append(CallStarted(self.index, self._id, name))
        waiting, self._waiting = "".join(self._waiting), []
        if waiting:
            self.add(waiting)

    def add(self, text: str) -> None:
        """A piece of the JSON text of the arguments."""
        if not self.is_started:
            self._waiting.append(text)
            return
        self._text.append(text)
        self.found.append(CallArguments(self.index, text))

    @property
    def has_arguments(self) -> bool:
        return bool(self._text or self._waiting)

    def finish(self) -> None:
        """All is there; the arguments are an object by now."""
        if not self.has_arguments:
            self.add("{}")
        arguments = json.loads("".join(self._text))
        self.found.append(CallDone(self.index, ToolCall(self.name, _clean(arguments), self._id)))

    def whole(self, name: str, arguments: Mapping[str, Any]) -> None:
        """A call that is known all at once."""
        self.start(name)
        self.add(json.dumps(arguments))
        self.finish()


class CallObject:
    """Reads `{"name": …, "arguments": {…}}`, the keys in any order, other keys passed over."""

    def __init__(self, writer: CallWriter, known: frozenset[str] | None) -> None:
        self._writer = writer
        self._known = known  # names that are tools; None: any
        self.is_done = False
        self.is_broken = False
        self._want = "{"
        self._scanner: JsonScanner | None = None
        self._pieces: list[str] = []
        self._is_streaming = False
        self._is_key = False
        self._key = ""

    def feed(self, text: str, at: int) -> int:
        """Read on from `text[at]`; how far it came."""
        while at < len(text) and not (self.is_done or self.is_broken):
            if self._scanner is not None:
                at = self._scan(self._scanner, text, at)
            elif text[at] in BLANKS:
                at += 1
            elif self._accepts(text[at]):
                at += self._scanner is None
            else:
                self.is_broken = True
        return at

    def _accepts(self, one: str) -> bool:
        """Whether this may come between keys and values; begins to scan one that starts here."""
        want = self._want
        if want == "{":
            self._want = "first key"
            return one == "{"
        if one == "}" and want in ("first key", "next"):
            self.is_done = True
            if self._writer.is_started:
                self._writer.finish()
            else:
                self.is_broken = True
            return True
        if want == "next":
            self._want = "key"
            return one == ","
        if want == "colon":
            self._want = "value"
            return one == ":"
        self._is_key = want != "value"
        self._is_streaming = not self._is_key and self._key in _ARGUMENTS and one == "{"
        if self._is_streaming and self._writer.has_arguments:
            return False  # twice
        self._scanner = JsonScanner()
        return one == '"' or not self._is_key

    def _scan(self, scanner: JsonScanner, text: str, at: int) -> int:
        at, piece = scanner.feed(text, at)
        if self._is_streaming:
            if piece:
                self._writer.add(piece)
        elif self._is_key or self._key in _NAMES + _ARGUMENTS:
            self._pieces.append(piece)
        if scanner.is_broken:
            self.is_broken = True
        elif scanner.is_done:
            self._scanner = None
            self._end_value()
        return at

    def _end_value(self) -> None:
        text, self._pieces = "".join(self._pieces), []
        if self._is_key:
            self._key, self._want = json.loads(text), "colon"
            return
        self._want = "next"
        if self._is_streaming:
            return
        if self._key in _NAMES:
            self._take_name(json.loads(text))
        elif self._key in _ARGUMENTS:
            self._take_arguments(json.loads(text))

    def _take_name(self, name: object) -> None:
        if not isinstance(name, str):
            return
        if self._writer.is_started or (self._known is not None and name not in self._known):
            self.is_broken = True
        else:
            self._writer.start(name)

    def _take_arguments(self, value: object) -> None:
        """Arguments that are no object: a text that holds one, or nothing."""
        if isinstance(value, str) and not self._writer.has_arguments:
            scanner = JsonScanner()
            end, text = scanner.feed(value.strip(BLANKS) or "{}", 0)
            is_whole = scanner.is_done and end == len(value.strip(BLANKS) or "{}")
            if is_whole and text.startswith("{"):
                self._writer.add(text)
                return
        self.is_broken = value is not None


def _clean(arguments: Any) -> Any:
    """Lone surrogates, which no UTF-8 can carry, as U+FFFD."""
    text = json.dumps(arguments, ensure_ascii=False)
    if not any("\ud800" <= one <= "\udfff" for one in text):
        return arguments
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
