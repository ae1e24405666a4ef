"""Anthropic's answers: the events of a stream, and the message that they add up to.

Source: Anthropic API reference, streaming messages. Pure: from events to dictionaries. The message
that is not streamed is made of the same events, so the two cannot drift apart.
"""

import secrets
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

import msgspec

from appliance.chat.events import (
    CallArguments,
    CallDone,
    CallStarted,
    Done,
    Event,
    Started,
    Text,
    Thinking,
)
from appliance.http.tools_wire import arguments_text
from appliance.library.stored import StoredModel

SIGNATURE = "hearth"  # clients must send one back; nothing is proved by ours, nor read from theirs
_REASONS = {"stop": "end_turn", "length": "max_tokens"}
_EMPTY: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}
_PIECE = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}

Json = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Writer:
    """Turns a job's events into the events of one message. Blocks never overlap."""

    model: str
    stops: frozenset[str] = frozenset()  # the stop sequences of the request
    tells_thinking: bool = True
    only_one_call: bool = False  # later calls of the model are left out
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")
    _count: int = 0  # blocks that were begun
    _open: str = ""  # the type of the block that is open
    _calls: int = 0
    _wrote_arguments: bool = False

    def feed(self, event: Event) -> list[Json]:
        """What is sent for the next event of the job."""
        match event:
            case Started(prompt_tokens=tokens):
                return [self._start(tokens)]
            case Text(text=text) if text:
                return [*self._in("text"), self._delta("text_delta", "text", text)]
            case Thinking(text=text) if text:
                shown = [self._delta("thinking_delta", "thinking", text)]
                return [*self._in("thinking"), *(shown if self.tells_thinking else [])]
            case CallStarted():
                return self._call(event)
            case CallArguments(index=index, text=text) if text and self._takes(index):
                self._wrote_arguments = True
                return [self._delta("input_json_delta", "partial_json", text)]
            case CallDone(index=index, call=call) if self._takes(index):
                whole = self._delta("input_json_delta", "partial_json", arguments_text(call))
                return [*([] if self._wrote_arguments else [whole]), *self._close()]
            case Done():
                return [*self._close(), self._end(event), {"type": "message_stop"}]
            case _:
                return []

    def _start(self, prompt_tokens: int) -> Json:
        message: Json = {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(prompt_tokens, 0, 0),
        }
        return {"type": "message_start", "message": message}

    def _call(self, event: CallStarted) -> list[Json]:
        self._calls += 1
        if not self._takes(event.index):
            return self._close()
        closing = self._close()
        self._wrote_arguments = False
        block = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
        return [*closing, self._begin(block)]

    def _takes(self, index: int) -> bool:
        return index == 0 or not self.only_one_call

    def _in(self, kind: str) -> list[Json]:
        """What must come first so that a block of this type is open."""
        if self._open == kind:
            return []
        return [*self._close(), self._begin(dict(_EMPTY[kind]))]

    def _begin(self, block: Json) -> Json:
        self._open = block["type"]
        self._count += 1
        return {"type": "content_block_start", "index": self._count - 1, "content_block": block}

    def _close(self) -> list[Json]:
        if not self._open:
            return []
        closed = []
        if self._open == "thinking":
            closed.append(self._delta("signature_delta", "signature", SIGNATURE))
        self._open = ""
        return [*closed, {"type": "content_block_stop", "index": self._count - 1}]

    def _delta(self, kind: str, name: str, text: str) -> Json:
        delta = {"type": kind, name: text}
        return {"type": "content_block_delta", "index": self._count - 1, "delta": delta}

    def _end(self, done: Done) -> Json:
        reason, stop = _REASONS.get(done.reason, "end_turn"), None
        if self._calls:
            reason = "tool_use"
        elif done.stop_sequence and done.stop_sequence in self.stops:
            reason, stop = "stop_sequence", done.stop_sequence
        return {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": stop},
            "usage": _usage(done.prompt_tokens, done.cached_tokens, done.output_tokens),
        }


class Folded:
    """The whole message, from its events."""

    def __init__(self) -> None:
        self.message: Json = {}
        self._pieces: list[str] = []

    def add(self, event: Json) -> None:
        """Take in the next event of the stream."""
        match event["type"]:
            case "message_start":
                self.message = event["message"]
            case "content_block_start":
                self.message["content"].append(event["content_block"])
                self._pieces = []
            case "content_block_delta":
                self._delta(event["delta"])
            case "content_block_stop":
                self._complete(self.message["content"][-1])
            case "message_delta":
                self.message |= {**event["delta"], "usage": event["usage"]}

    def _delta(self, delta: Json) -> None:
        if delta["type"] == "signature_delta":
            self.message["content"][-1]["signature"] = delta["signature"]
        else:
            self._pieces.append(delta[_PIECE[delta["type"]]])

    def _complete(self, block: Json) -> None:
        text = "".join(self._pieces)
        if block["type"] == "tool_use":
            block["input"] = msgspec.json.decode(text)
        else:
            block[block["type"]] = text


def model_entry(stored: StoredModel) -> Json:
    """One installed model, as Anthropic lists them."""
    return {
        "type": "model",
        "id": stored.name.short,
        "display_name": stored.name.short,
        "created_at": f"{stored.modified_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "lifecycle": "active",
    }


def model_list(entries: list[Json]) -> Json:
    """All of them on one page."""
    ends = {
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
    }
    return {"data": entries, "has_more": False, **ends}


def _usage(prompt: int, cached: int, output: int) -> Json:
    """`input_tokens` are those that no cache had (Anthropic API, prompt caching)."""
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
    }
