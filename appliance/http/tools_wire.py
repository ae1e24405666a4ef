"""Tools, calls and images as Ollama's and OpenAI's bodies carry them, from JSON to domain values.

Both dialects wrap a tool as {"type": "function", "function": {…}}; a call's arguments are an object
in Ollama's and JSON text in OpenAI's, and both forms are read in both, as clients mix them up.
"""

import binascii
import json
import re
from base64 import b64decode
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import msgspec

from appliance.chat.events import Message, Tool, ToolCall, ToolChoice
from appliance.chat.plan import MAX_TOOLS
from appliance.errors import RequestTooLargeError
from appliance.http.errors import FieldError, RefusedFieldError
from appliance.http.fields import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH, check_count, depth_of

MAX_TOOLS_BYTES = 512 * 1024  # of all their schemas together
MAX_DESCRIPTION = 16 * 1024  # characters
MAX_NAME = 128  # characters
MAX_CALLS = 128  # of one message
MAX_IMAGES = 64  # of one request
TOOL_NAME = re.compile(rf"[A-Za-z0-9_.:/-]{{1,{MAX_NAME}}}")

Json = dict[str, Any]

# Types of fields that are read by the functions below; what they say is for the OpenAPI document.
ToolBody = Annotated[
    Any,
    msgspec.Meta(
        description="A function that the model may call",
        extra_json_schema={
            "type": "object",
            "properties": {
                "type": {"const": "function"},
                "function": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "pattern": f"^{TOOL_NAME.pattern}$"},
                        "description": {"type": ["string", "null"], "maxLength": MAX_DESCRIPTION},
                        "parameters": {
                            "description": "The JSON schema of its arguments",
                            "type": ["object", "null"],
                        },
                    },
                    "required": ["name"],
                },
            },
            "required": ["function"],
        },
    ),
]
ToolChoiceBody = Annotated[
    Any,
    msgspec.Meta(
        description='"none", "auto", "required", or an object that names a function',
        extra_json_schema={"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}]},
    ),
]


def tools_of(entries: Sequence[Any]) -> tuple[Tool, ...]:
    """The tools of a request; raises BadRequestError."""
    check_count("tools", len(entries), MAX_TOOLS)
    tools, total = [], 0
    for number, entry in enumerate(entries):
        tool, size = _tool(entry, f"tools[{number}]")
        total += size
        tools.append(tool)
    if total > MAX_TOOLS_BYTES:
        raise RequestTooLargeError(
            f"the schemas of all tools have {total} bytes, {MAX_TOOLS_BYTES} are allowed"
        )
    return tuple(tools)


def tool_choice_of(value: Any, tools: Sequence[Tool]) -> ToolChoice:
    """OpenAI's `tool_choice`; raises FieldError for one that `tools` cannot fulfil."""
    kind = "named" if isinstance(value, dict) else value
    if kind is None or kind == "auto":
        return ToolChoice()
    if kind == "none":
        return ToolChoice("none")
    if kind not in ("required", "named"):
        raise FieldError(
            "tool_choice",
            f'tool_choice must be "none", "auto", "required" or a named function,'
            f" not {_shown(value)}",
        )
    if not tools:
        raise FieldError("tool_choice", "tool_choice needs 'tools' to choose from")
    if kind == "required":
        return ToolChoice("required")
    function = value.get("function")
    name = function.get("name") if isinstance(function, dict) else value.get("name")
    if name not in [tool.name for tool in tools]:
        raise FieldError("tool_choice", f"tool_choice names {_shown(name)}, which is not in tools")
    return ToolChoice("named", name)


def calls_of(entries: Sequence[Any] | None, place: str) -> tuple[ToolCall, ...]:
    """The calls that an assistant made earlier; `place` names the message for errors."""
    entries = entries or ()
    check_count(f"{place}.tool_calls", len(entries), MAX_CALLS)
    return tuple(_call(entry, f"{place}.tool_calls[{n}]") for n, entry in enumerate(entries))


def images_of(entries: Sequence[Any] | None, place: str) -> tuple[bytes, ...]:
    """Files in base64 without a data: prefix (Ollama API, images)."""
    images = []
    for number, entry in enumerate(entries or ()):
        if not isinstance(entry, str):
            raise FieldError("images", f"{place}[{number}] is not base64 text")
        try:
            images.append(b64decode(entry, validate=True))
        except (binascii.Error, ValueError) as error:
            raise FieldError("images", f"{place}[{number}] is not base64: {error}") from error
    return tuple(images)


def named_results(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, with the tool's name in each result whose call is among them.

    Templates such as Gemma's print the name. A result without an id answers the calls of the turn
    before it in their order: so Home Assistant sends them.
    """
    names: dict[str, str] = {}
    waiting: deque[str] = deque()
    named = []
    for message in messages:
        if message.role != "tool":
            names |= {call.id: call.name for call in message.tool_calls if call.id}
            waiting = deque(call.name for call in message.tool_calls)
            named.append(message)
            continue
        next_name = waiting.popleft() if waiting else ""
        name = message.tool_name or names.get(message.tool_call_id, next_name)
        named.append(replace(message, tool_name=name))
    return tuple(named)


def arguments_text(call: ToolCall) -> str:
    """A call's arguments as JSON text, the form of OpenAI."""
    return msgspec.json.encode(call.arguments).decode()


def _tool(entry: Any, place: str) -> tuple[Tool, int]:
    """The tool, and how many bytes its schema has."""
    function = _function(entry, place)
    name = function.get("name")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        raise FieldError(
            "tools",
            f"{place}.function.name must be 1 to {MAX_NAME} letters, digits or _ - . : /,"
            f" not {_shown(name)}",
        )
    description = function.get("description") or ""
    if not isinstance(description, str):
        raise FieldError("tools", f"{place}.function.description must be text")
    if len(description) > MAX_DESCRIPTION:
        raise RequestTooLargeError(
            f"{place}.function.description has {len(description)} characters,"
            f" {MAX_DESCRIPTION} are allowed"
        )
    parameters = function.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise FieldError("tools", f"{place}.function.parameters must be a JSON schema object")
    size = len(msgspec.json.encode(parameters))
    if size > MAX_SCHEMA_BYTES or depth_of(parameters) > MAX_SCHEMA_DEPTH:
        raise RequestTooLargeError(
            f"{place}.function.parameters is larger than the {MAX_SCHEMA_BYTES} bytes"
            f" or the {MAX_SCHEMA_DEPTH} levels allowed"
        )
    source = {"type": "function", "function": function}
    return Tool(name, description, parameters, source), size


def _function(entry: Any, place: str) -> Json:
    if not isinstance(entry, dict):
        raise FieldError("tools", f"{place} must be an object, not {_shown(entry)}")
    kind = entry.get("type", "function")
    if kind != "function":
        raise RefusedFieldError(
            "tools", f'{place}.type is {_shown(kind)}; only "function" is supported'
        )
    function = entry.get("function")
    if not isinstance(function, dict):
        raise FieldError("tools", f"{place}.function must be an object with a name")
    return function


def _call(entry: Any, place: str) -> ToolCall:
    function = entry.get("function") if isinstance(entry, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise FieldError("messages", f"{place}.function must be an object with a name")
    call_id = entry.get("id") or ""
    if not isinstance(call_id, str):
        raise FieldError("messages", f"{place}.id must be text")
    return ToolCall(function["name"], _arguments(function.get("arguments"), place), call_id)


def _arguments(value: Any, place: str) -> Mapping[str, Any]:
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise FieldError(
                "messages", f"{place}.function.arguments is not valid JSON: {error}"
            ) from error
    if not isinstance(value, dict):
        raise FieldError("messages", f"{place}.function.arguments must be a JSON object")
    if depth_of(value) > MAX_SCHEMA_DEPTH:
        raise RequestTooLargeError(
            f"{place}.function.arguments is deeper than the {MAX_SCHEMA_DEPTH} levels allowed"
        )
    return value


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()[:80]
