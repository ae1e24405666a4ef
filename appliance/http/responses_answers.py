"""OpenAI's Responses: the events of a stream, and the response that they add up to.

Source: OpenAI API reference, responses streaming. Pure: from events to dictionaries. The response
that is not streamed is the one in the last event, so the two cannot drift apart.
"""

import secrets
import time
from typing import Any

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
from appliance.http.errors import Problem
from appliance.http.responses_wire import ResponsesRequest
from appliance.http.tools_wire import arguments_text

Json = dict[str, Any]


class Writer:
    """Turns a job's events into the events of one response. Items never overlap."""

    def __init__(self, body: ResponsesRequest) -> None:
        self._only_one_call = not body.parallel_tool_calls
        self._sequence = 0
        self._output: list[Json] = []  # items that are complete, and the open one as it began
        self._pieces: list[str] = []  # text of the open item
        self._open = ""  # the type of the open item
        self._has_begun = False
        self._head = _head(body)

    def feed(self, event: Event) -> list[Json]:
        """What is sent for the next event of the job."""
        match event:
            case Started():
                self._has_begun = True
                kinds = ("response.created", "response.in_progress")
                return [self._whole(kind, "in_progress") for kind in kinds]
            case Text(text=text) if text:
                return [*self._in("message"), self._text_delta(text)]
            case Thinking(text=text) if text:
                return [*self._in("reasoning"), self._thinking_delta(text)]
            case CallStarted(index=index) if self._takes(index):
                return [*self._close(), *self._begin("function_call", event.id, event.name)]
            case CallArguments(index=index, text=text) if text and self._takes(index):
                return [self._arguments_delta(text)]
            case CallDone(index=index, call=call) if self._takes(index):
                whole = [] if self._pieces else [self._arguments_delta(arguments_text(call))]
                return [*whole, *self._close()]
            case Done():
                return self._end(event)
            case _:
                return []

    def failure(self, problem: Problem) -> Json:
        """The last event of a stream that broke."""
        text = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
        if not self._has_begun:
            error = {"code": problem.code, "message": text, "param": problem.param}
            return self._event("error", **error)
        self._close(status="incomplete")
        error = {"code": "server_error", "message": text}
        return self._whole("response.failed", "failed", error=error)

    # -- items --------------------------------------------------------------------------------

    def _takes(self, index: int) -> bool:
        return index == 0 or not self._only_one_call

    def _in(self, kind: str) -> list[Json]:
        """What must come first so that an item of this type is open."""
        return [] if self._open == kind else [*self._close(), *self._begin(kind)]

    def _begin(self, kind: str, call_id: str = "", name: str = "") -> list[Json]:
        self._open, self._pieces = kind, []
        random = secrets.token_hex(12)
        item: Json
        match kind:
            case "message":
                item = {"id": f"msg_{random}", "type": kind, "status": "in_progress"}
                item |= {"role": "assistant", "content": []}
            case "reasoning":
                item = {"id": f"rs_{random}", "type": kind, "summary": []}
            case _:
                item = {"id": f"fc_{random}", "type": kind, "status": "in_progress"}
                item |= {"call_id": call_id, "name": name, "arguments": ""}
        self._output.append(item)
        begun = [self._of_output("response.output_item.added", item=dict(item))]
        if kind == "message":
            begun.append(self._of_part("response.content_part.added", part=_text_part("")))
        elif kind == "reasoning":
            added = "response.reasoning_summary_part.added"
            begun.append(self._of_part(added, part=_summary_part("")))
        return begun

    def _close(self, status: str = "completed") -> list[Json]:
        """The events that complete the open item, if one is."""
        if not self._open:
            return []
        kind, text = self._open, "".join(self._pieces)
        self._open = ""
        item = self._output[-1]
        ends = []
        if kind == "message":
            item |= {"status": status, "content": [_text_part(text)]}
            ends.append(self._of_part("response.output_text.done", text=text, logprobs=[]))
            ends.append(self._of_part("response.content_part.done", part=_text_part(text)))
        elif kind == "reasoning":
            item |= {"summary": [_summary_part(text)]}
            ends.append(self._of_part("response.reasoning_summary_text.done", text=text))
            part = _summary_part(text)
            ends.append(self._of_part("response.reasoning_summary_part.done", part=part))
        else:
            item |= {"status": status, "arguments": text}
            done = "response.function_call_arguments.done"
            ends.append(self._of_item(done, name=item["name"], arguments=text))
        return [*ends, self._of_output("response.output_item.done", item=item)]

    def _text_delta(self, text: str) -> Json:
        self._pieces.append(text)
        return self._of_part("response.output_text.delta", delta=text, logprobs=[])

    def _thinking_delta(self, text: str) -> Json:
        self._pieces.append(text)
        return self._of_part("response.reasoning_summary_text.delta", delta=text)

    def _arguments_delta(self, text: str) -> Json:
        self._pieces.append(text)
        return self._of_item("response.function_call_arguments.delta", delta=text)

    # -- events -------------------------------------------------------------------------------

    def _end(self, done: Done) -> list[Json]:
        is_cut = done.reason == "length"
        ends = self._close(status="incomplete" if is_cut else "completed")
        if is_cut:
            why = {"reason": "max_output_tokens"}
            kind = "response.incomplete"
            last = self._whole(kind, "incomplete", incomplete_details=why, usage=_usage(done))
            return [*ends, last]
        now = int(time.time())
        last = self._whole("response.completed", "completed", completed_at=now, usage=_usage(done))
        return [*ends, last]

    def _whole(self, kind: str, status: str, **fields: Any) -> Json:
        state = {"status": status, "output": list(self._output)}
        return self._event(kind, response=self._head | state | fields)

    def _of_output(self, kind: str, **fields: Any) -> Json:
        return self._event(kind, output_index=len(self._output) - 1, **fields)

    def _of_item(self, kind: str, **fields: Any) -> Json:
        """An event of the newest item."""
        return self._of_output(kind, item_id=self._output[-1]["id"], **fields)

    def _of_part(self, kind: str, **fields: Any) -> Json:
        is_summary = self._output[-1]["type"] == "reasoning"
        return self._of_item(
            kind, **{"summary_index" if is_summary else "content_index": 0}, **fields
        )

    def _event(self, kind: str, **fields: Any) -> Json:
        number, self._sequence = self._sequence, self._sequence + 1
        return {"type": kind, "sequence_number": number, **fields}


def _head(body: ResponsesRequest) -> Json:
    """What every state of the response says."""
    return {
        "id": f"resp_{secrets.token_hex(24)}",
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": body.reasoning.effort, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": body.temperature,
        "text": {"format": body.text.format or {"type": "text"}, "verbosity": "medium"},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools,
        "top_p": body.top_p,
        "truncation": body.truncation,
        "usage": None,
        "user": None,
        "metadata": body.metadata,
    }


def _usage(done: Done) -> Json:
    return {
        "input_tokens": done.prompt_tokens,
        "input_tokens_details": {"cached_tokens": done.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": done.output_tokens,
        "output_tokens_details": {"reasoning_tokens": done.thinking_tokens},
        "total_tokens": done.prompt_tokens + done.output_tokens,
    }


def _text_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _summary_part(text: str) -> Json:
    return {"type": "summary_text", "text": text}
