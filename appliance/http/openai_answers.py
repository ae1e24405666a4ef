"""OpenAI's answers: completions, chunks, logprobs, usage, embeddings.

Source: OpenAI API reference. Pure: from events and vectors to dictionaries.
"""

import math
import secrets
import struct
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from appliance.chat.events import (
    CallArguments,
    CallDone,
    CallStarted,
    Done,
    Echoed,
    Embeddings,
    Event,
    Text,
    Thinking,
    ToolCall,
)
from appliance.http.streams import Folded
from appliance.http.tools_wire import arguments_text
from engine.api import TokenLogprob

FINGERPRINT = "fp_hearth"


@dataclass(slots=True)
class Usage:
    """Tokens of all choices; a prompt with several choices counts once."""

    prompt: int = 0
    cached: int = 0
    output: int = 0
    thinking: int = 0

    def add(self, done: Done, *, is_new_prompt: bool) -> None:
        """Count one finished choice."""
        self.output += done.output_tokens
        self.thinking += done.thinking_tokens
        if is_new_prompt:
            self.prompt += done.prompt_tokens
            self.cached += done.cached_tokens

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.output,
            "total_tokens": self.prompt + self.output,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.thinking},
        }


class Shape(Protocol):
    """How one of the two routes writes its choices. One shape serves one request."""

    id_prefix: str
    whole: str  # `object` of a whole answer
    piece: str  # `object` of a chunk

    def choice(self, index: int, found: Folded, *, has_logprobs: bool) -> dict[str, Any]:
        """A whole choice, without its finish reason."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice of the first chunk, if it is special."""

    def delta(self, index: int, event: Event, *, has_logprobs: bool) -> dict[str, Any] | None:
        """The choice of a chunk in the middle, if the event has one."""

    def closing(self, index: int) -> dict[str, Any]:
        """The choice of the last chunk, without its finish reason."""


@dataclass(slots=True)
class ChatShape:
    """chat/completions. `top` alternatives per token are listed."""

    top: int = 0
    id_prefix: str = "chatcmpl-"
    whole: str = "chat.completion"
    piece: str = "chat.completion.chunk"

    def choice(self, index: int, found: Folded, *, has_logprobs: bool) -> dict[str, Any]:
        text = None if found.calls and not found.text else found.text
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if found.thinking:
            message["reasoning"] = found.thinking
        if found.calls:
            message["tool_calls"] = [_whole_call(call) for _, call in found.calls]
        logprobs = self._logprobs(found.logprobs) if has_logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs}

    def opening(self, index: int) -> dict[str, Any] | None:
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def delta(self, index: int, event: Event, *, has_logprobs: bool) -> dict[str, Any] | None:
        logprobs = None
        match event:
            case Text(text=text, logprobs=found):
                delta: dict[str, Any] = {"content": text}
                logprobs = self._logprobs(found) if has_logprobs else None
            case Thinking(text=text):
                delta = {"reasoning": text}
            case CallStarted(index=number, id=call_id, name=name):
                function = {"name": name, "arguments": ""}
                begun = {"index": number, "id": call_id, "type": "function", "function": function}
                delta = {"tool_calls": [begun]}
            case CallArguments(index=number, text=text):
                delta = {"tool_calls": [{"index": number, "function": {"arguments": text}}]}
            case _:
                return None  # a call that is done has been streamed; Done has its own chunk
        return {"index": index, "delta": delta, "logprobs": logprobs}

    def closing(self, index: int) -> dict[str, Any]:
        return {"index": index, "delta": {}, "logprobs": None}

    def _logprobs(self, found: Sequence[TokenLogprob]) -> dict[str, Any]:
        content = []
        for entry in found:
            top = [_token(piece, logprob) for _, piece, logprob in entry.top[: self.top]]
            content.append(_token(entry.piece, entry.logprob) | {"top_logprobs": top})
        return {"content": content, "refusal": None}


@dataclass(slots=True)
class TextShape:
    """completions. Keeps how much text each choice has, for `text_offset`."""

    top: int = 0
    id_prefix: str = "cmpl-"
    whole: str = "text_completion"
    piece: str = "text_completion"
    _offsets: dict[int, int] = field(default_factory=dict)

    def choice(self, index: int, found: Folded, *, has_logprobs: bool) -> dict[str, Any]:
        text = found.text
        logprobs = None
        if found.echoed is not None:
            text = found.echoed.text + text
            if has_logprobs:
                logprobs = self._echoed(index, found.echoed)
        if has_logprobs:
            logprobs = _merged(logprobs, self._logprobs(index, found.logprobs))
        return {"index": index, "text": text, "logprobs": logprobs}

    def opening(self, index: int) -> dict[str, Any] | None:
        return None

    def delta(self, index: int, event: Event, *, has_logprobs: bool) -> dict[str, Any] | None:
        if isinstance(event, Echoed):
            echoed = self._echoed(index, event) if has_logprobs else None
            return {"index": index, "text": event.text, "logprobs": echoed}
        if not isinstance(event, Text):
            return None
        logprobs = self._logprobs(index, event.logprobs) if has_logprobs else None
        return {"index": index, "text": event.text, "logprobs": logprobs}

    def closing(self, index: int) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None}

    def _logprobs(self, index: int, found: Sequence[TokenLogprob]) -> dict[str, Any]:
        offsets = []
        for entry in found:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(entry.piece.decode(errors="replace"))
        return self._lists(found, offsets)

    def _echoed(self, index: int, event: Echoed) -> dict[str, Any]:
        self._offsets[index] = len(event.text)
        return self._lists(event.logprobs, prompt_offsets(event))

    def _lists(self, found: Sequence[TokenLogprob], offsets: list[int]) -> dict[str, Any]:
        """The first token of a prompt has null for its value and for its alternatives."""
        tops = [
            {piece.decode(errors="replace"): logprob for _, piece, logprob in entry.top}
            if not math.isnan(entry.logprob)
            else None
            for entry in found
        ]
        return {
            "tokens": [entry.piece.decode(errors="replace") for entry in found],
            "token_logprobs": [
                None if math.isnan(entry.logprob) else entry.logprob for entry in found
            ],
            "top_logprobs": tops if self.top else None,
            "text_offset": offsets,
        }


def prompt_offsets(echoed: Echoed) -> list[int]:
    """Where in the text of the prompt, in characters, each of its tokens begins.

    A token that is not in the text has no width there: one that the model wants in front, or the
    blank that some vocabularies put before the first word.
    """
    data, at = echoed.text.encode(), 0
    starts, chars = [], 0
    for entry in echoed.logprobs:
        starts.append(chars)
        begin = at
        if data.startswith(entry.piece, at):
            at += len(entry.piece)
        elif data.startswith(entry.piece.lstrip(b" "), at):
            at += len(entry.piece.lstrip(b" "))
        chars += sum(byte & 0xC0 != 0x80 for byte in data[begin:at])  # UTF-8: characters begun
    return starts


def _merged(first: dict[str, Any] | None, second: dict[str, Any]) -> dict[str, Any]:
    """The lists of the prompt and those of the answer, as one."""
    if first is None:
        return second
    return {
        name: None if values is None else [*values, *second[name]] for name, values in first.items()
    }


class Writer:
    """The objects of one answer: same id, time and model in each."""

    def __init__(self, shape: Shape, model: str, *, usage_in_chunks: bool) -> None:
        self._shape = shape
        self._usage_in_chunks = usage_in_chunks
        self._head = {
            "id": f"{shape.id_prefix}{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }

    def whole(self, choices: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        """The answer that is not streamed."""
        body = {"object": self._shape.whole, "choices": choices, "usage": usage.as_json()}
        return self._head | body

    def chunk(self, choice: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        """A piece of the stream."""
        choices = [choice | {"finish_reason": finish}]
        body: dict[str, Any] = {"object": self._shape.piece, "choices": choices}
        return self._head | body | ({"usage": None} if self._usage_in_chunks else {})

    def rendered(self, choice: dict[str, Any], prompt: str) -> dict[str, Any]:
        """The prompt instead of an answer (Ollama API, _debug_render_only)."""
        whole = self.whole([choice | {"finish_reason": None}], Usage())
        return whole | {"_debug_info": {"rendered_template": prompt}}

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The last piece, if the client asked for usage (stream_options.include_usage)."""
        body = {"object": self._shape.piece, "choices": [], "usage": usage.as_json()}
        return self._head | body


def finish_of(done: Done) -> str:
    """The finish reason; an answer cut off in a call says so."""
    return "tool_calls" if done.tool_calls and done.reason == "stop" else done.reason


def without_further_calls(event: Event) -> Event | None:
    """The event of an answer that may hold one call (parallel_tool_calls false), None for those
    of a second call, which some models make all the same."""
    match event:
        case CallStarted() | CallArguments() | CallDone() if event.index > 0:
            return None
        case Done(tool_calls=count) if count > 1:
            return replace(event, tool_calls=1)
        case _:
            return event


def embeddings_answer(found: Embeddings, model: str, *, as_base64: bool) -> dict[str, Any]:
    """The list of vectors, as numbers or as base64 of little-endian float32."""
    vectors: list[Any] = [_base64(vector) if as_base64 else vector for vector in found.vectors]
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": found.prompt_tokens, "total_tokens": found.prompt_tokens},
    }


def _whole_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": arguments_text(call)}
    return {"id": call.id, "type": "function", "function": function}


def _base64(vector: Sequence[float]) -> str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}
