"""Ollama's answers to generate and chat: whole, or the lines of a stream.

Source: Ollama API, api/types.go. Pure: from events to dictionaries, in the order of Ollama's keys.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from time import time_ns
from typing import Any

from appliance.chat.events import CallDone, Done, Event, JobRequest, Text, Thinking, ToolCall
from engine.api import TokenLogprob

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """What one object brings; a stream's bring pieces of it."""

    text: str = ""
    thinking: str = ""
    calls: Sequence[tuple[int, ToolCall]] = ()  # with their indices

    def fields(self) -> Answer:
        """Those besides the text, without the absent ones, in Ollama's order."""
        calls = [_call(index, call) for index, call in self.calls]
        return _set({"thinking": self.thinking, "tool_calls": calls})


NOTHING = Said()
Encode = Callable[[str, Said, bool, Mapping[str, Any]], Answer]


def generate_answer(model: str, said: Said, done: bool, extra: Mapping[str, Any]) -> Answer:
    """One object of /api/generate, streamed or not."""
    head = {"model": model, "created_at": timestamp(time_ns()), "response": said.text}
    return head | said.fields() | {"done": done} | _set(extra)


def chat_answer(model: str, said: Said, done: bool, extra: Mapping[str, Any]) -> Answer:
    """One object of /api/chat, streamed or not; `content` is always there."""
    reply = {"role": "assistant", "content": said.text} | said.fields()
    head = {"model": model, "created_at": timestamp(time_ns()), "message": reply, "done": done}
    return head | _set(extra)


def line_of(event: Event, job: JobRequest, encode: Encode) -> Answer | None:
    """The object that a stream has for an event, if any. A call comes whole, at its end."""
    match event:
        case Text(text=text, logprobs=found):
            said = Said(text)
        case Thinking(text=text, logprobs=found):
            said = Said(thinking=text)
        case CallDone(index=index, call=call):
            return encode(job.model, Said(calls=((index, call),)), False, {})
        case Done():
            return encode(job.model, NOTHING, True, metrics_of(event))
        case _:
            return None  # Started feeds the log; a call's pieces are for other dialects
    logprobs = logprobs_of(found, job.logprobs or 0)
    return encode(job.model, said, False, {"logprobs": logprobs})


def metrics_of(done: Done) -> dict[str, Any]:
    """The last object's fields. Durations are nanoseconds; the queue's and the cache's are ours."""
    return {
        "done_reason": done.reason,
        "context": done.context,
        "total_duration": done.total_ns,
        "load_duration": done.load_ns,
        "prompt_eval_count": done.prompt_tokens,
        "prompt_eval_duration": done.prompt_ns,
        "prompt_cached_count": done.cached_tokens,
        "eval_count": done.output_tokens,
        "eval_duration": done.decode_ns,
        "queue_position": done.queue_position,
        "queue_duration": done.queue_ns,
        "truncated_tokens": done.truncated_tokens,
        "truncated_messages": done.truncated_messages,
    }


def logprobs_of(found: Sequence[TokenLogprob], top: int) -> list[dict[str, Any]]:
    """Ollama's list; `top` alternatives per token, best first."""
    listed = []
    for entry in found:
        item = _logprob(entry.piece, entry.logprob)
        if top:
            best = [_logprob(piece, logprob) for _, piece, logprob in entry.top[:top]]
            item["top_logprobs"] = best
        listed.append(item)
    return listed


def timestamp(at_ns: int) -> str:
    """RFC 3339 in UTC with nanoseconds."""
    return f"{_second(at_ns // 1_000_000_000)}.{at_ns % 1_000_000_000:09d}Z"


@lru_cache(maxsize=8)  # every piece of every stream carries a time
def _second(at_s: int) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%S}"


def _call(index: int, call: ToolCall) -> Answer:
    """A call; its arguments stay an object, empty ones too."""
    function = {"index": index, "name": call.name, "arguments": call.arguments}
    return ({"id": call.id} if call.id else {}) | {"function": function}


def _set(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Without zero values, which Ollama leaves out."""
    return {key: value for key, value in extra.items() if value}


def _logprob(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}
