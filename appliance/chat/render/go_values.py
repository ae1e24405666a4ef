"""Messages and tools as Ollama's Go templates see them (template/template.go, api/types.go).

Only what Go's types have is there: a tool's further keys (`strict`) do not reach the template.
Maps print in the order of their keys, as in Go.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from appliance.chat.events import Message, Tool, ToolCall
from appliance.chat.render.jinja_values import tool_source
from appliance.templates.go.values import JsonList, JsonMap, Struct, Words

_TOOL = {"Type": "type", "Items": "?items", "Function": "function"}
_FUNCTION = {"Name": "name", "Description": "description", "Parameters": "parameters"}
_PARAMETERS = {
    "Type": "type",
    "Defs": "?$defs",
    "Items": "?items",
    "Required": "?required",
    "Properties": "properties",
}
_PROPERTY = {
    "AnyOf": "?anyOf",
    "Type": "?type",
    "Items": "?items",
    "Description": "?description",
    "Enum": "?enum",
    "Properties": "?properties",
    "Required": "?required",
}
_MESSAGE = {
    "Role": "role",
    "Content": "content",
    "Thinking": "?thinking",
    "Images": "?images",
    "ToolCalls": "?tool_calls",
    "ToolName": "?tool_name",
    "ToolCallID": "?tool_call_id",
}
_CALL = {"ID": "?id", "Function": "function"}
_CALLED = {"Index": "index", "Name": "name", "Arguments": "arguments"}


def message_value(message: Message) -> Struct:
    calls = [_call(index, call) for index, call in enumerate(message.tool_calls)]
    return Struct(
        "api.Message",
        {
            "Role": message.role,
            "Content": message.content,
            "Thinking": message.thinking,
            "Images": ["" for _ in message.images],  # to be counted; the bytes are not for a prompt
            "ToolCalls": calls,
            "ToolName": message.tool_name,
            "ToolCallID": message.tool_call_id,
        },
        _MESSAGE,
    )


def _call(index: int, call: ToolCall) -> Struct:
    function = {"Index": index, "Name": call.name, "Arguments": JsonMap(call.arguments)}
    return Struct(
        "api.ToolCall",
        {"ID": call.id, "Function": Struct("api.ToolCallFunction", function, _CALLED)},
        _CALL,
        shows_json=True,
    )


def tool_values(tools: Sequence[Tool]) -> JsonList:
    return JsonList(_tool(tool_source(tool)) for tool in tools)


def _tool(source: Mapping[str, Any]) -> Struct:
    function = _mapping(source.get("function"))
    parameters = _mapping(function.get("parameters"))
    properties = _mapping(parameters.get("properties"))
    parameter_fields = {
        "Type": _text(parameters.get("type")),
        "Defs": parameters.get("$defs"),
        "Items": parameters.get("items"),
        "Required": _list(parameters.get("required")),
        "Properties": JsonMap({str(k): _property(v) for k, v in properties.items()}),
    }
    function_fields = {
        "Name": _text(function.get("name")),
        "Description": _text(function.get("description")),
        "Parameters": Struct(
            "api.ToolFunctionParameters", parameter_fields, _PARAMETERS, shows_json=True
        ),
    }
    fields = {
        "Type": _text(source.get("type")) or "function",
        "Items": source.get("items"),
        "Function": Struct("api.ToolFunction", function_fields, _FUNCTION, shows_json=True),
    }
    return Struct("api.Tool", fields, _TOOL, shows_json=True)


def _property(schema: object) -> Struct:
    given = _mapping(schema)
    types = given.get("type")
    names = [types] if isinstance(types, str) else _list(types)
    inner = _mapping(given.get("properties"))
    fields = {
        "AnyOf": [_property(option) for option in _list(given.get("anyOf"))],
        "Type": Words(str(name) for name in names),
        "Items": given.get("items"),
        "Description": _text(given.get("description")),
        "Enum": _list(given.get("enum")),
        "Properties": JsonMap({str(k): _property(v) for k, v in inner.items()}),
        "Required": _list(given.get("required")),
    }
    return Struct("api.ToolProperty", fields, _PROPERTY)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
