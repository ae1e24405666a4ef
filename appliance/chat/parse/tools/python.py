"""Calls that Gemma writes as Python does, in a block of `tool_code`: read when they are complete.

`get_weather(city="Paris")`, several of them line by line or in a list, each maybe within `print()`.
Only literals are read and nothing is ever run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from appliance.chat.events import Tool

MAX_CHARS = 64 * 1024

_Call = tuple[str, Mapping[str, Any]]


def python_calls(text: str, tools: Sequence[Tool]) -> list[_Call] | None:
    """The calls in `text`, all of them of `tools`; None where it is anything else."""
    import ast  # 1 MiB, and few models write so

    if len(text) > MAX_CHARS:
        return None
    try:
        lines = ast.parse(text.strip()).body
        found: list[_Call] = []
        for line in lines:
            if not isinstance(line, ast.Expr):
                return None
            value = line.value
            nodes = value.elts if isinstance(value, ast.List) else [value]
            found += [_call(each, tools) for each in nodes]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return found


def _call(node: Any, tools: Sequence[Tool]) -> _Call:
    """Raises ValueError or TypeError for what is no call of a tool with literals."""
    import ast

    if not isinstance(node, ast.Call):
        raise TypeError("no call")
    name = ast.unparse(node.func)
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None and name == "print" and len(node.args) == 1 and not node.keywords:
        return _call(node.args[0], tools)
    if tool is None or len(node.args) > len(_names(tool)):
        raise ValueError("no tool, or too many arguments")
    arguments = {key: _literal(value) for key, value in zip(_names(tool), node.args, strict=False)}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            raise ValueError("an argument without a name, or twice")
        arguments[keyword.arg] = _literal(keyword.value)
    return name, arguments


def _names(tool: Tool) -> list[str]:
    """Of the tool's parameters, in their order."""
    properties = tool.parameters.get("properties")
    return list(properties) if isinstance(properties, Mapping) else []


def _literal(node: Any) -> Any:
    """A value that JSON has, too; JSON's own words are understood. Raises ValueError."""
    import ast

    words = {"true": True, "false": False, "null": None}
    if isinstance(node, ast.Name) and node.id in words:
        return words[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(each) for each in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_literal(key) for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("a key that is no text")
        return dict(zip(keys, map(_literal, node.values), strict=True))
    value = ast.literal_eval(node)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int) and value in range(-(2**63), 2**63):
        return value
    if isinstance(value, float) and value - value == 0:  # neither infinite nor not a number
        return value
    raise ValueError("no value of JSON")
