"""Anthropic's dialect: what its routes answer, and what is said of them."""

from typing import Any, Literal, NotRequired, TypedDict

from appliance.http import anthropic_wire as wire
from appliance.http.openapi.operation import RUNS, SSE, Operation, Table

Reason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class Block(TypedDict):
    """Text, thinking, or a tool that the model calls."""

    type: Literal["text", "thinking", "tool_use"]
    text: NotRequired[str]
    thinking: NotRequired[str]
    signature: NotRequired[str]
    id: NotRequired[str]
    name: NotRequired[str]
    input: NotRequired[dict[str, Any]]


class Usage(TypedDict):
    """`input_tokens` are those that no cache had."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class Message(TypedDict):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Block]
    stop_reason: Reason | None
    stop_sequence: str | None
    usage: Usage


class Delta(TypedDict, total=False):
    """A piece of a block, or how the message ended."""

    type: Literal["text_delta", "thinking_delta", "input_json_delta", "signature_delta"]
    text: str
    thinking: str
    partial_json: str
    signature: str
    stop_reason: Reason | None
    stop_sequence: str | None


class Event(TypedDict):
    """An event's data, which is named by its type."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "ping",
    ]
    message: NotRequired[Message]
    index: NotRequired[int]
    content_block: NotRequired[Block]
    delta: NotRequired[Delta]
    usage: NotRequired[Usage]


class Counted(TypedDict):
    input_tokens: int


class AnthropicModel(TypedDict):
    """An installed model, for clients of Anthropic's API."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"]


class AnthropicModels(TypedDict):
    data: list[AnthropicModel]
    has_more: Literal[False]
    first_id: str | None
    last_id: str | None


_HI = [{"role": "user", "content": "Hello"}]

OPERATIONS: Table = {
    ("POST", "/v1/messages"): Operation(
        summary="Answer a conversation",
        body=wire.MessagesRequest,
        required="model messages max_tokens",
        example={"model": "hearth", "max_tokens": 64, "messages": _HI},
        answer=Message,
        stream=Event,
        streams=SSE,
        errors=RUNS,
    ),
    ("POST", "/v1/messages/count_tokens"): Operation(
        summary="How many tokens the prompt of a conversation has",
        body=wire.CountRequest,
        required="model messages",
        example={"model": "hearth", "messages": _HI},
        answer=Counted,
        errors=RUNS,
    ),
}
