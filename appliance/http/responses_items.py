"""The items of OpenAI's Responses, from JSON to our messages.

Source: OpenAI API reference, responses, input items. What the model did in one turn comes as items
of their own (reasoning, calls, text) and is one message here.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from appliance.chat.events import Message
from appliance.http.errors import FieldError, RefusedFieldError
from appliance.http.fields import check_count
from appliance.http.openai_messages import ChatMessage
from appliance.http.tools_wire import calls_of, named_results

# No sets: what is looked up may be any JSON.
_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text")

Json = dict[str, Any]


def conversation_of(
    instructions: str, given: str | Sequence[Any], max_messages: int
) -> tuple[Message, ...]:
    """All messages, the instructions first; raises BadRequestError."""
    first = [Message("system", instructions)] if instructions else []
    if isinstance(given, str):
        return (*first, Message("user", given))
    check_count("input", len(given), max_messages)
    turns: list[Message] = []
    for number, item in enumerate(given):
        message = _message(item, f"input[{number}]")
        if turns and turns[-1].role == message.role == "assistant":
            turns[-1] = _joined(turns[-1], message)
        else:
            turns.append(message)
    return named_results([*first, *turns])


def _message(item: Any, place: str) -> Message:
    if not isinstance(item, dict):
        raise FieldError("input", f"{place} must be an object")
    kind = item.get("type", "message")
    match kind:
        case "message":
            return _said(item, place)
        case "function_call":
            return _called(item, place)
        case "function_call_output":
            return _returned(item, place)
        case "reasoning":
            return Message("assistant", "", thinking=_thought(item, place))
    raise RefusedFieldError(
        "input",
        f"{place} is of type {str(kind)[:60]!r}, which is not supported; allowed are message,"
        " function_call, function_call_output and reasoning",
    )


def _said(item: Json, place: str) -> Message:
    role = item.get("role")
    if role not in _ROLES:
        raise FieldError(
            "input",
            f"{place}.role must be user, assistant, system or developer, not {str(role)[:40]!r}",
        )
    return _of_parts(role, item.get("content"), f"{place}.content")


def _called(item: Json, place: str) -> Message:
    for name in ("call_id", "name", "arguments"):
        if not isinstance(item.get(name), str):
            raise FieldError("input", f"{place}.{name} must be text")
    function = {"name": item["name"], "arguments": item["arguments"]}
    try:
        calls = calls_of([{"id": item["call_id"], "function": function}], place)
    except FieldError as error:
        raise FieldError("input", error.message) from error
    return Message("assistant", "", tool_calls=calls)


def _returned(item: Json, place: str) -> Message:
    call_id = item.get("call_id")
    if not isinstance(call_id, str):
        raise FieldError("input", f"{place}.call_id must be text")
    result = _of_parts("tool", item.get("output"), f"{place}.output")
    return replace(result, tool_call_id=call_id)


def _thought(item: Json, place: str) -> str:
    """The thinking of an earlier answer: as it is, or its summary, which ours is the same as."""
    texts = []
    for part in item.get("content") or item.get("summary") or []:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise FieldError("input", f"{place}.summary must be a list of texts")
        texts.append(part["text"])
    return "\n".join(texts)


def _of_parts(role: str, content: Any, place: str) -> Message:
    """A message whose content is text, or parts as chat/completions have them by other names."""
    if isinstance(content, str):
        return Message("system" if role == "developer" else role, content)
    if not isinstance(content, list):
        raise FieldError("input", f"{place} must be text or a list of parts")
    parts = []
    for part in content:
        is_text = isinstance(part, dict) and part.get("type") in _TEXTS
        parts.append({"type": "text", "text": part.get("text")} if is_text else part)
    try:
        return ChatMessage(role=role, content=parts).to_message(place.removesuffix(".content"))
    except FieldError as error:
        raise FieldError("input", error.message) from error


def _joined(before: Message, message: Message) -> Message:
    return replace(
        before,
        content="\n".join(filter(None, (before.content, message.content))),
        thinking="\n".join(filter(None, (before.thinking, message.thinking))),
        tool_calls=before.tool_calls + message.tool_calls,
    )
