"""Asks for one streamed answer and shows it: text, thinking, word wrap, timings.

Knows the fields of Ollama's answers and the terminal's width; nothing of verbs and conversations.
"""

import json
import shutil
import sys
from contextlib import closing
from dataclasses import dataclass
from typing import TextIO

from appliance.cli.client import Client, ClientError, Json
from appliance.cli.inert import inert
from appliance.cli.progress import Progress
from appliance.cli.units import duration_text
from appliance.cli.wrap import WordWrap

_GREY, _PLAIN = "\x1b[90m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Look:
    """How an answer is shown."""

    word_wrap: bool = True
    hide_thinking: bool = False


class AnswerView:
    """Writes the pieces of one answer as they come."""

    def __init__(self, look: Look, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._is_terminal = self._out.isatty()
        self._hide_thinking = look.hide_thinking
        wraps = look.word_wrap and self._is_terminal
        self._wrap = WordWrap(shutil.get_terminal_size().columns) if wraps else None
        self._is_thinking = False
        self.content = ""
        self.thinking = ""
        self.calls: list[Json] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing came yet."""
        return not (self.content or self.thinking or self.calls)

    def message(self) -> Json:
        """What came, as the assistant's message in the conversation."""
        told = {"thinking": self.thinking, "tool_calls": self.calls}
        given = {name: value for name, value in told.items() if value}
        return {"role": "assistant", "content": self.content} | given

    def call(self, call: Json) -> None:
        """Show a call of a tool, which nobody carries out here."""
        self._stop_thinking()
        self.calls.append(call)
        function = call.get("function") or {}
        arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
        begin = "\n" if self.content or len(self.calls) > 1 else ""
        self._write(self._shown(f"{begin}{function.get('name', '')}({arguments})"))

    def feed(self, content: str, thinking: str) -> None:
        """Show the next piece; either part may be empty."""
        if thinking:
            self.thinking += thinking
            self._think(thinking)
        if content:
            self._stop_thinking()
            self.content += content
            self._write(self._shown(content))

    def finish(self) -> None:
        """End the answer, also one cut off, with the blank line that separates it from the next."""
        if self._is_thinking:
            self._stop_thinking()
        else:
            self._write("\n\n")

    def _think(self, thinking: str) -> None:
        if self._hide_thinking:
            return
        if not self._is_thinking:
            self._is_thinking = True
            self._write(f"{_GREY if self._is_terminal else ''}Thinking...\n")
        self._write(self._shown(thinking))

    def _stop_thinking(self) -> None:
        if not self._is_thinking:
            return
        self._is_thinking = False
        end = "" if self.thinking.endswith("\n") else "\n"
        self._write(f"{end}...done thinking.{_PLAIN if self._is_terminal else ''}\n\n")
        if self._wrap:
            self._wrap.feed("\n")  # the next text begins a line

    def _shown(self, text: str) -> str:
        text = inert(text) if self._is_terminal else text
        return self._wrap.feed(text) if self._wrap else text

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def stream_answer(client: Client, path: str, body: Json, view: AnswerView) -> Json:
    """Show the streamed answer to a chat or generate request and return its last object.

    Raises ClientError, also if the stream ends before its last object. Ctrl+C closes the stream.
    """
    last: Json = {}
    with Progress() as waiting, closing(client.stream(path, body)) as pieces:
        for piece in pieces:
            message = piece.get("message") or piece
            content = message.get("content") or message.get("response") or ""
            thinking = message.get("thinking") or ""
            calls = message.get("tool_calls") or ()
            if content or thinking or calls:
                waiting.clear()
            if content or thinking:
                view.feed(content, thinking)
            for call in calls:
                view.call(call)
            last = piece
    if not last.get("done"):
        raise ClientError("the answer broke off: the stream ended without its last line")
    if not view.is_empty:
        view.finish()
    return last


def timing_lines(last: Json) -> str:
    """The lines of `--verbose`, from the last object of an answer."""
    lines = [
        (name.replace("_", " "), duration_text(last[name]))
        for name in ("total_duration", "load_duration")
        if last.get(name)
    ]
    if last.get("queue_position"):
        lines.append(("queue position", str(last["queue_position"])))
    for name in ("prompt_eval", "eval"):
        words = name.replace("_", " ")
        count, duration_ns = last.get(f"{name}_count"), last.get(f"{name}_duration")
        if count:
            lines.append((f"{words} count", f"{count} token(s)"))
        if duration_ns:
            lines.append((f"{words} duration", duration_text(duration_ns)))
            lines.append((f"{words} rate", f"{(count or 0) / duration_ns * 1e9:.2f} tokens/s"))
    return "".join(f"{f'{label}:':<21} {text}\n" for label, text in lines)
