"""Calls of tools in the text of an answer, for every family but gpt-oss.

    START    nothing but white space has come; a bare form may begin here
    TEXT     the answer; an opening mark may follow. White space before the mark is stripped
    BODY     behind a mark: JSON objects or a list of them, a name and its arguments, or a family's
             own notation
    BETWEEN  behind a call: closing marks, separators, white space, and then another call or text

What turns out to be no call is told as the text it is, from the mark on; a call that was started
by then gets no CallDone. So does a call that is cut off. One call may have MAX_CALL_CHARS.
"""

from collections.abc import Sequence
from enum import Enum

from appliance.chat.events import Text, Tool
from appliance.chat.parse.base import BLANKS, MAX_BLANKS, Marks, NewId, Parsed, blank_tail
from appliance.chat.parse.json_scan import JsonScanner
from appliance.chat.parse.tools.call import CallObject, CallWriter
from appliance.chat.parse.tools.forms import CallForm
from appliance.chat.parse.tools.python import python_calls
from appliance.chat.parse.tools.python_call import PythonCall

MAX_CALL_CHARS = 256 * 1024
_MAX_HEADER = 300
_SEPARATORS = BLANKS + ";,"


class _State(Enum):
    START = 1
    TEXT = 2
    BODY = 3
    BETWEEN = 4


class ToolParser:
    """See the module's text."""

    is_thinking = False
    is_answering = True

    def __init__(self, form: CallForm, tools: Sequence[Tool], new_id: NewId) -> None:
        self._form = form
        self._tools = tools
        self._new_id = new_id
        self._known = frozenset(tool.name for tool in tools) if form.must_know else None
        self._opens = Marks(form.opens)
        self._closes = Marks(form.closes)
        begin = [c for c in form.closes if any(o.startswith(c) for o in form.opens)]
        self._behind = Marks({*form.opens, *form.closes} - set(begin))
        self._state = _State.START if form.is_bare else _State.TEXT
        self._held = ""
        self._count = 0
        self._found: list[Parsed] = []
        self._is_open = True  # no closing mark has come since the last call
        self._begin_body()

    def feed(self, text: str) -> list[Parsed]:
        text, self._held = self._held + text, ""
        at = 0
        while at < len(text):
            begun, state = at, self._state
            if state is _State.BODY:
                at = self._body(text, at)
            else:
                if at:
                    text, at = text[at:], 0
                    begun = 0
                at = self._step(text)
            if at == begun and self._state is state:
                break
        self._held = text[at:]
        return self._take()

    def finish(self) -> list[Parsed]:
        held, self._held = self._held, ""
        if self._state is _State.BODY:
            if self._reader is not None and self._read(self._collected()):
                held = ""
            else:
                self._raw.append(held)
                held = ""
                self._flush()
        elif self._state is _State.BETWEEN:
            held = held.lstrip(_SEPARATORS)
        self._tell(held)
        return self._take()

    def _take(self) -> list[Parsed]:
        """The new events; the list itself stays, since writers of calls hold it."""
        found = list(self._found)
        self._found.clear()
        return found

    # -- outside of calls -------------------------------------------------------------------

    def _step(self, text: str) -> int:
        if self._state is _State.START:
            return self._start(text)
        if self._state is _State.TEXT:
            return self._text(text)
        return self._between(text)

    def _start(self, text: str) -> int:
        """The end of what is certain in a text that the answer begins with."""
        rest = text.lstrip(BLANKS)
        blanks = len(text) - len(rest)
        if not rest and blanks <= MAX_BLANKS:
            return 0
        if blanks <= MAX_BLANKS and rest[0] in "{[":
            self._enter_body(text[:blanks])
            return blanks
        self._state = _State.TEXT
        return 0

    def _text(self, text: str) -> int:
        hit = self._opens.find(text)
        if hit is None:
            end = len(text) - self._opens.tail(text)
            end -= blank_tail(text[:end])
            self._tell(text[:end])
            return end
        start, mark = hit
        end = start - blank_tail(text[:start])
        self._tell(text[:end])
        self._enter_body(text[end:start] + mark)
        return start + len(mark)

    def _between(self, text: str) -> int:
        rest = text.lstrip(_SEPARATORS if self._is_open else BLANKS)
        at = len(text) - len(rest)
        if not rest:
            return at
        if self._is_open and rest[0] == "{" and self._form.reader is None:
            self._enter_body("")
            return at
        marks = self._closes if self._is_open else self._behind
        hit = marks.find(rest)
        if hit is not None and hit[0] == 0:
            if hit[1] in self._form.closes:
                self._is_open = False
            else:
                self._enter_body(hit[1])
            return at + len(hit[1])
        if marks.tail(rest) == len(rest):
            return at
        if self._is_open and self._form.closes:  # the closing mark was left out
            self._is_open = False
            return self._between(text)
        self._state = _State.TEXT
        return at

    def _tell(self, text: str) -> None:
        if text:
            self._found.append(Text(text))

    # -- calls ------------------------------------------------------------------------------

    def _enter_body(self, mark: str) -> None:
        self._begin_body()
        self._state = _State.BODY
        self._raw.append(mark)

    def _begin_body(self) -> None:
        self._raw: list[str] = []  # from the mark on
        self._size = 0
        self._header = ""
        self._is_list = False
        self._is_open = True
        self._reader = self._form.reader
        self._writer: CallWriter | None = None
        self._object: CallObject | PythonCall | None = None
        self._scanner: JsonScanner | None = None

    def _body(self, text: str, at: int) -> int:
        while at < len(text) and self._state is _State.BODY:
            if self._reader is None and self._is_python(text[at]):
                self._reader = python_calls
            if self._reader is not None:
                return self._collect(text, at)
            before, room = at, MAX_CALL_CHARS - self._size
            part = text if len(text) - at <= room else text[: at + room]
            at, is_broken = self._advance(part, at) if room else (at, True)
            self._raw.append(text[before:at])
            self._size += at - before
            if is_broken:
                self._flush()
            elif self._object is not None and self._object.is_done:
                self._raw, self._size = [], 0  # what was told is told
        return at

    def _is_python(self, one: str) -> bool:
        """Whether a body that this character begins, or its list, holds calls of Python's form."""
        has_begun = self._writer or self._object or not self._raw[0].strip()
        return self._form.python and not has_begun and (one.isalpha() or one == "_")

    def _advance(self, text: str, at: int) -> tuple[int, bool]:
        """One move inside a body: how far it came, and whether this is no call."""
        if self._scanner is not None:
            return self._arguments(self._scanner, text, at)
        if self._object is not None:
            return self._call_object(self._object, text, at)
        one = text[at]
        if not self._header and one in BLANKS:
            return at + 1, False
        if one == "{" and self._header:
            return self._end_header(at)
        if one == "{":
            self._object = CallObject(self._new_writer(), self._known)
            return at, False
        if self._form.lists and self._is_list and (one.isalpha() or one == "_"):
            self._object = PythonCall(self._new_writer(), self._tools)
            return at, False
        if self._header or (self._form.header is not None and one != "["):
            self._header += one
            return at + 1, len(self._header) > _MAX_HEADER
        if one == "[" and not (self._is_list or self._header):
            self._is_list = True
            return at + 1, False
        return at, True

    def _end_header(self, at: int) -> tuple[int, bool]:
        form = self._form.header
        hit = form.fullmatch(self._header) if form is not None else None
        if hit is None:
            return at, True
        self._new_writer().start(hit["name"], hit["id"] or "")
        self._scanner = JsonScanner()
        return at, False

    def _arguments(self, scanner: JsonScanner, text: str, at: int) -> tuple[int, bool]:
        at, piece = scanner.feed(text, at)
        writer = self._writer
        if piece and writer is not None:
            writer.add(piece)
        if scanner.is_done and writer is not None:
            writer.finish()
            self._state = _State.BETWEEN
        return at, scanner.is_broken

    def _call_object(self, call: CallObject | PythonCall, text: str, at: int) -> tuple[int, bool]:
        if not call.is_done:
            at = call.feed(text, at)
            if call.is_broken:
                return at, True
            if call.is_done and not self._is_list:
                self._state = _State.BETWEEN
            return at, False
        one = text[at]  # in a list, behind an object
        if one == "]":
            self._state = _State.BETWEEN
        elif one == ",":
            self._object = None
        elif one not in BLANKS:
            return at, True
        return at + 1, False

    def _new_writer(self) -> CallWriter:
        self._writer = CallWriter(self._count, self._new_id, self._found)
        self._count += 1
        return self._writer

    def _flush(self) -> None:
        """This was no call: it is text."""
        raw = "".join(self._raw)
        if self._writer is not None and not self._writer.is_started:
            self._count -= 1  # nobody has heard of it
        self._begin_body()
        self._state = _State.TEXT
        self._tell(raw)

    # -- calls in a family's own notation ---------------------------------------------------

    def _collect(self, text: str, at: int) -> int:
        """Wait for the closing mark, then read the whole."""
        hit = self._closes.find(text[at:])
        end = at + hit[0] if hit is not None else len(text) - self._closes.tail(text[at:])
        room = MAX_CALL_CHARS - self._size
        if end - at > room:
            self._raw.append(text[at : at + room])
            self._flush()
            return at + room
        self._raw.append(text[at:end])
        self._size += end - at
        if hit is None:
            return end
        if self._read(self._collected()):
            return end
        self._raw.append(hit[1])
        self._flush()
        return end + len(hit[1])

    def _collected(self) -> str:
        return "".join(self._raw[1:])

    def _read(self, text: str) -> bool:
        calls = self._reader(text, self._tools) if self._reader is not None else None
        if not calls:
            return False
        for name, arguments in calls:
            self._new_writer().whole(name, arguments)
        self._state = _State.BETWEEN
        return True
