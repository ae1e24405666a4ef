"""gpt-oss: an answer is a series of messages in channels (OpenAI, harmony response format).

    <|channel|>analysis<|message|>…<|end|>                                     thinking
    <|start|>assistant<|channel|>commentary to=functions.NAME …<|message|>{…}<|call|>   a call
    <|start|>assistant<|channel|>final<|message|>…<|return|>                   the answer

The prompt ends with `<|start|>assistant`. A commentary without a recipient is spoken to the reader.
Text without marks is the answer. A call whose JSON is broken is told as text from its brace on.
"""

import re
from enum import Enum

from appliance.chat.events import Text, Thinking
from appliance.chat.parse.base import BLANKS, Marks, NewId, Parsed
from appliance.chat.parse.json_scan import JsonScanner
from appliance.chat.parse.tools.call import CallWriter

SPECIAL = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>")
CLOSE_THINKING = "<|end|>"
NEXT = "<|start|>assistant"
FINAL = "<|channel|>final<|message|>"
NAMED = "<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>"
_MAX_HEADER = 300
_ENDS = Marks(("<|end|>", "<|call|>", "<|return|>", "<|start|>"))
_MESSAGE = "<|message|>"
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([\w.:-]+)")


class _Kind(Enum):
    HEADER = 1
    ANALYSIS = 2
    ANSWER = 3
    CALL = 4
    GAP = 5  # behind a message


class HarmonyParser:
    """See the module's text. `has_tools` False: calls are text."""

    def __init__(self, new_id: NewId, *, has_tools: bool) -> None:
        self._new_id = new_id
        self._has_tools = has_tools
        self._kind = _Kind.HEADER
        self._held = ""
        self._count = 0
        self._found: list[Parsed] = []
        self._writer: CallWriter | None = None
        self._scanner = JsonScanner()
        self._raw: list[str] = []

    @property
    def is_thinking(self) -> bool:
        return self._kind is _Kind.ANALYSIS

    @property
    def is_answering(self) -> bool:
        return self._kind in (_Kind.ANSWER, _Kind.CALL)

    def feed(self, text: str) -> list[Parsed]:
        text, self._held = self._held + text, ""
        while text:
            kind = self._kind
            rest = self._step(text)
            if rest == text and self._kind is kind:
                break
            text = rest
        self._held = text
        return self._take()

    def finish(self) -> list[Parsed]:
        held, self._held = self._held, ""
        if self._kind is _Kind.CALL and self._writer is not None:
            self._end_call(held)
        elif self._kind is _Kind.HEADER and held.startswith("<|"):
            pass  # a header that was cut off
        else:
            self._say(held)
        return self._take()

    def _take(self) -> list[Parsed]:
        """The new events; the list itself stays, since writers of calls hold it."""
        found = list(self._found)
        self._found.clear()
        return found

    def _step(self, text: str) -> str:
        """What of the text is left when one thing in it is done."""
        if self._kind is _Kind.GAP:
            return self._gap(text)
        if self._kind is _Kind.HEADER:
            return self._header(text)
        hit = _ENDS.find(text)
        end = hit[0] if hit is not None else len(text) - _ENDS.tail(text)
        if self._kind is _Kind.CALL:
            end = self._arguments(text[:end])
        else:
            self._say(text[:end])
        if hit is None or end < hit[0]:
            return text[end:]
        if self._kind is _Kind.CALL:
            self._end_call("")
        self._kind = _Kind.GAP
        return text[end:] if hit[1] == "<|start|>" else text[end + len(hit[1]) :]

    def _gap(self, text: str) -> str:
        self._kind = _Kind.HEADER
        return text

    def _header(self, text: str) -> str:
        start = text.lstrip(BLANKS)
        if not start:
            return text if len(text) <= _MAX_HEADER else self._plain(text)
        is_header = start.startswith(("<|", "to=")) or "<|".startswith(start)
        if not is_header and not "to=".startswith(start):
            return self._plain(text)
        at = text.find(_MESSAGE)
        if at > _MAX_HEADER or (at < 0 and len(text) > _MAX_HEADER + len(_MESSAGE)):
            self._kind = _Kind.ANSWER
            first = len(text) - len(start) + 1
            self._say(text[:first])  # or its mark would begin a header again, for ever
            return text[first:]
        if at >= 0:
            self._begin(text[:at])
            return text[at + len(_MESSAGE) :]
        return text

    def _plain(self, text: str) -> str:
        self._kind = _Kind.ANSWER
        return text

    def _begin(self, header: str) -> None:
        recipient = _RECIPIENT.search(header)
        channel = header.partition("<|channel|>")[2].lstrip(BLANKS)
        if recipient is not None and self._has_tools:
            self._kind = _Kind.CALL
            self._scanner, self._raw = JsonScanner(), []
            self._writer = CallWriter(self._count, self._new_id, self._found)
            self._count += 1
            self._writer.start(recipient[1])
        else:
            is_analysis = channel.startswith("analysis")
            self._kind = _Kind.ANALYSIS if is_analysis else _Kind.ANSWER

    def _say(self, text: str) -> None:
        if text:
            is_thinking = self._kind is _Kind.ANALYSIS
            self._found.append(Thinking(text) if is_thinking else Text(text))

    def _arguments(self, text: str) -> int:
        """Read on in a call's JSON; where it stopped."""
        writer = self._writer
        if writer is None or self._scanner.is_done:
            return len(text)  # the call is told; whatever else stands before its end is nothing
        at = 0
        if not self._raw:
            at = len(text) - len(text.lstrip(BLANKS))
            if at == len(text):
                return at
            self._scanner.is_broken = text[at] != "{"
        end, piece = self._scanner.feed(text, at)
        self._raw.append(text[at:end])
        if piece:
            writer.add(piece)
        if self._scanner.is_done:
            writer.finish()
            self._writer = None
        elif self._scanner.is_broken:
            self._break_off()
        return end

    def _end_call(self, held: str) -> None:
        """The message is over: a call without arguments is one, one that was cut off is none."""
        if self._writer is None:
            return
        if self._raw or held.strip(BLANKS):
            self._break_off()
            self._say(held)
        else:
            self._writer.finish()
        self._writer = None

    def _break_off(self) -> None:
        self._kind = _Kind.ANSWER
        self._writer = None
        self._say("".join(self._raw))
