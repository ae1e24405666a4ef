"""Anthropic's conversation, system and content blocks, from JSON to our messages.

Source: Anthropic API reference, messages. A user's turn may hold results of tools and text: the
results become messages of their own. Turns of one role that follow each other are one turn.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from appliance.chat.events import Message, ToolCall
from appliance.http.errors import FieldError, RefusedFieldError
from appliance.http.fields import check_count
from appliance.http.image_places import Parts
from appliance.http.tools_wire import MAX_IMAGES, calls_of, images_of, named_results
from appliance.http.turns import JOINT, joined

# Claude Code's first system block, not meant for the model; its hash is another in each request,
# which would make the prefix cache useless (anthropics/claude-code#68900).
_BILLING = "x-anthropic-billing-header:"
MAX_BLOCKS = 32_768  # of all messages of a request: a third of a second to read
_ROLES = ("user", "assistant", "system")  # no set: what is looked up may be any JSON

Json = dict[str, Any]


def conversation_of(system: str | list[Any], entries: Sequence[Any]) -> tuple[Message, ...]:
    """All messages, the system's first; raises BadRequestError."""
    contents = (entry.get("content") for entry in entries if isinstance(entry, dict))
    blocks = sum(len(content) for content in contents if isinstance(content, list))
    check_count("messages.content", blocks, MAX_BLOCKS)
    messages: list[Message] = []
    if text := _system_text(system, "system"):
        messages.append(Message("system", text))
    for number, entry in enumerate(entries):
        messages += _turn(entry, f"messages.{number}")
    check_count("images", sum(len(message.images) for message in messages), MAX_IMAGES)
    if messages[-1].role == "assistant":
        raise RefusedFieldError(
            "messages",
            "the last message is the assistant's: a prefilled answer is not supported;"
            " the conversation must end with a user message",
        )
    return named_results(joined(messages, _ROLES))


def _turn(entry: Any, place: str) -> list[Message]:
    if not isinstance(entry, dict):
        raise FieldError("messages", f"{place} must be an object with role and content")
    role, content = entry.get("role"), entry.get("content")
    if role not in _ROLES:
        raise FieldError(
            "messages", f"{place}.role must be user or assistant, not {str(role)[:40]!r}"
        )
    if role == "system":
        return [Message("system", _system_text(content, f"{place}.content"))]
    if isinstance(content, str):
        return [Message(role, content)]
    blocks = list(_blocks(content, f"{place}.content"))
    return [_assistant(blocks)] if role == "assistant" else _user(blocks)


def _user(blocks: Sequence[tuple[str, str, Json]]) -> list[Message]:
    """Text and results in their order."""
    messages: list[Message] = []
    parts = Parts(JOINT)

    def end_text() -> None:
        nonlocal parts
        if parts.has_any:
            messages.append(_message("user", parts))
            parts = Parts(JOINT)

    for place, kind, block in blocks:
        if kind == "text":
            parts.add_text(_text(block, "text", place))
        elif kind == "image":
            parts.add_image(_image(block, place))
        elif kind == "tool_result":
            end_text()
            messages.append(_result(block, place))
        else:
            raise _unknown(kind, place)
    end_text()
    return messages or [Message("user", "")]


def _message(role: str, parts: Parts, call_id: str = "") -> Message:
    return Message(
        role,
        parts.content,
        tool_call_id=call_id,
        images=parts.images,
        image_places=parts.places,
    )


def _image(block: Json, place: str) -> bytes:
    """The file itself; whether the model can see is asked later."""
    source = block.get("source")
    if not isinstance(source, dict):
        raise FieldError("messages", f"{place}.source must be an object")
    if source.get("type") != "base64":
        raise RefusedFieldError(
            "messages",
            f"{place}.source: this box fetches no images from {str(source.get('type'))[:40]!r};"
            " send the image itself with type base64 and data",
        )
    (image,) = images_of([source.get("data")], f"{place}.source.data")
    return image


def _assistant(blocks: Sequence[tuple[str, str, Json]]) -> Message:
    texts, thoughts, calls = [], [], []
    for place, kind, block in blocks:
        match kind:
            case "text":
                texts.append(_text(block, "text", place))
            case "thinking":
                thoughts.append(_text(block, "thinking", place))
            case "redacted_thinking":
                pass  # only its author can read it
            case "tool_use":
                calls.append(_call(block, place))
            case _:
                raise _unknown(kind, place)
    return Message(
        "assistant",
        JOINT.join(texts),
        thinking=JOINT.join(thoughts),
        tool_calls=tuple(calls),
    )


def _call(block: Json, place: str) -> ToolCall:
    call_id = _text(block, "id", place)
    if not isinstance(block.get("input"), dict):
        raise FieldError("messages", f"{place}.input must be an object")
    function = {"name": _text(block, "name", place), "arguments": block["input"]}
    (call,) = calls_of([{"id": call_id, "function": function}], place)
    return call


def _result(block: Json, place: str) -> Message:
    """A tool's result; that it failed is said in words, as templates have no place for it."""
    content = block.get("content")
    call_id = _text(block, "tool_use_id", place)
    parts = Parts(JOINT)
    if block.get("is_error") is True:
        parts.add_text("Error:")
    if isinstance(content, str):
        parts.add_text(content)
    elif content is not None:
        for here, kind, part in _blocks(content, f"{place}.content"):
            if kind == "image":
                parts.add_image(_image(part, here))
            else:
                parts.add_text(_only_text(part, kind, here))
    return _message("tool", parts, call_id)


def _system_text(content: Any, place: str) -> str:
    texts = [content] if isinstance(content, str) else list(_texts(content, place))
    return JOINT.join(text for text in texts if text and not text.startswith(_BILLING))


def _texts(content: Any, place: str) -> Iterator[str]:
    """The texts of blocks that may be nothing else."""
    for here, kind, block in _blocks(content, place):
        yield _only_text(block, kind, here)


def _only_text(block: Json, kind: str, place: str) -> str:
    if kind != "text":
        raise _unknown(kind, place)
    return _text(block, "text", place)


def _blocks(content: Any, place: str) -> Iterator[tuple[str, str, Json]]:
    """Place, type and block of each."""
    if not isinstance(content, list):
        raise FieldError("messages", f"{place} must be text or a list of content blocks")
    for number, block in enumerate(content):
        here = f"{place}.{number}"
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str):
            raise FieldError("messages", f"{here} must be an object with a type")
        yield here, kind, block


def _text(block: Json, name: str, place: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise FieldError("messages", f"{place}.{name} must be text")
    return value


def _unknown(kind: str, place: str) -> FieldError:
    return RefusedFieldError(
        "messages",
        f"{place}: content of type {kind[:60]!r} is not supported here; send it as text",
    )
