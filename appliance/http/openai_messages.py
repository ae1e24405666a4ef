"""OpenAI's chat messages, from JSON to domain values.

Source: OpenAI API reference, chat/completions; with `reasoning` and `reasoning_content`, as which
clients of local models hand back what an assistant thought.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from appliance.chat.events import Message
from appliance.http.errors import FieldError
from appliance.http.fields import check_count
from appliance.http.image_places import Parts
from appliance.http.tools_wire import MAX_IMAGES, calls_of, images_of, named_results

_DATA_URL = re.compile(r"data:(?:image/(?:jpe?g|png|gif|bmp|webp))?;base64,", re.IGNORECASE)


class ChatMessage(msgspec.Struct, kw_only=True):
    """One message. `name` is the tool's in a tool's result; elsewhere it has no place in chat
    templates and is dropped, as Ollama does."""

    role: str = ""
    content: str | list[Any] | None = None
    name: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    function_call: Any = None
    audio: Any = None

    def to_message(self, place: str) -> Message:
        """`place` names the message for errors. Raises BadRequestError for what cannot be read."""
        role = self.role.lower()
        if self.function_call is not None:
            raise FieldError("messages", f"{place}.function_call is not supported; send tool_calls")
        if self.audio is not None:
            raise FieldError("messages", "messages with audio are not supported")
        text, images, places = self._content(place)
        return Message(
            "system" if role == "developer" else role,
            text,
            thinking=self.reasoning or self.reasoning_content or "",
            tool_calls=calls_of(self.tool_calls, place),
            tool_name=(self.name or "") if role == "tool" else "",
            tool_call_id=self.tool_call_id or "",
            images=images,
            image_places=places,
        )

    def _content(self, place: str) -> tuple[str, tuple[bytes, ...], tuple[int, ...]]:
        """The text parts, one per line, the images among them, and their places."""
        if isinstance(self.content, str):
            return self.content, (), ()
        if self.content is None:
            if self.tool_calls or self.role.lower() == "tool":
                return "", (), ()
            raise FieldError("messages", f"invalid message format: {place}.content is missing")
        parts = Parts("\n")
        for number, part in enumerate(self.content):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind in ("image_url", "input_image"):
                (image,) = images_of([_image(part.get("image_url"))], f"{place}.content")
                parts.add_image(image)
            else:
                parts.add_text(_text(part, kind, f"{place}.content[{number}]"))
        return parts.content, parts.images, parts.places


def messages_of(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The conversation; raises BadRequestError."""
    read = [message.to_message(f"messages[{n}]") for n, message in enumerate(messages)]
    check_count("images", sum(len(message.images) for message in read), MAX_IMAGES)
    return named_results(read)


def without_begun(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
    """The conversation without its last message, and that one's text: an answer that the client
    has begun (vLLM, continue_final_message). Raises BadRequestError."""
    *before, last = messages
    if last.role != "assistant" or last.tool_calls or last.thinking or last.images:
        raise FieldError(
            "continue_final_message",
            "'continue_final_message' goes on with the last message, which must be the"
            " assistant's and hold text alone",
        )
    if not before:
        raise FieldError("messages", "the conversation must have a user message")
    return tuple(before), last.content


def _text(part: Any, kind: Any, place: str) -> str:
    if kind in ("text", "input_text") and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind in ("input_audio", "file"):
        raise FieldError(
            "messages", f"content of type {kind} is not supported, only text and images"
        )
    raise FieldError("messages", f"invalid message format: {place} is not a text")


def _image(value: Any) -> str:
    """The base64 of a data: URL, which comes bare or in an object with the wish for detail."""
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str):
        raise FieldError("messages", "invalid message format: an image without image_url.url")
    if url[:8].lower().startswith(("http://", "https://")):
        raise FieldError(
            "messages",
            "image URLs are not currently supported, please use base64 encoded data instead",
        )
    if (found := _DATA_URL.match(url)) is None:
        raise FieldError(
            "messages",
            "an image must be a data: URL in base64 of type image/jpeg, image/png or image/gif",
        )
    return url[found.end() :]
