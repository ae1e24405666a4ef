"""Calls that some families write in a notation of their own, read when they are complete."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.chat.events import Tool
from appliance.chat.parse.json_scan import MAX_DEPTH

_FUNCTION = re.compile(r"\s*(?:<function=)?([\w.:-]+)>(.*?)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
_GEMMA_CALL = re.compile(r"\s*call:([\w.:-]+)\s*(?=\{)")
_GEMMA_KEY = re.compile(r"\s*([\w.$-]+)\s*:\s*")
_GEMMA_TEXT = re.compile(r"<escape>(.*?)<escape>", re.DOTALL)
_GEMMA_WORD = re.compile(r"[^,{}\[\]<>]+")


def qwen_coder(text: str, tools: Sequence[Tool]) -> list[tuple[str, Mapping[str, Any]]] | None:
    """`<function=name><parameter=key>value</parameter>…</function>`, values without quotes."""
    found = _FUNCTION.fullmatch(text)
    if found is None:
        return None
    name, body = found.groups()
    schema = next((tool.parameters for tool in tools if tool.name == name), {})
    properties = schema.get("properties")
    arguments: dict[str, Any] = {}
    at = 0
    while parameter := _PARAMETER.match(body, at):
        key, value = parameter.groups()
        wanted = properties.get(key) if isinstance(properties, Mapping) else None
        arguments[key] = _typed(value, wanted)
        at = parameter.end()
    return [(name, arguments)] if not body[at:].strip() else None


def _typed(value: str, schema: Any) -> Any:
    """The value as its schema has it; as it stands where that is a string or unknown."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind in (None, "string"):
        return value
    try:
        return json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def function_gemma(text: str, tools: Sequence[Tool]) -> list[tuple[str, Mapping[str, Any]]] | None:
    """`call:name{key:<escape>text<escape>,other:1}`."""
    found = _GEMMA_CALL.match(text)
    if found is None:
        return None
    try:
        value, end = _gemma_value(text, found.end(), 0)
    except ValueError:
        return None
    return [(found[1], value)] if not text[end:].strip() else None


def _gemma_value(text: str, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    if text.startswith("{", at):
        return _gemma_object(text, at + 1, depth)
    if text.startswith("[", at):
        return _gemma_array(text, at + 1, depth)
    if quoted := _GEMMA_TEXT.match(text, at):
        return quoted[1], quoted.end()
    word = _GEMMA_WORD.match(text, at)
    if word is None:
        raise ValueError("no value")
    try:
        return json.loads(word[0], parse_constant=_no_constant), word.end()
    except ValueError:
        return word[0].strip(), word.end()


def _gemma_object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while not text.startswith("}", at):
        key = _GEMMA_KEY.match(text, at)
        if key is None:
            raise ValueError("no key")
        found[key[1]], at = _gemma_value(text, key.end(), depth + 1)
        at = _gemma_next(text, at, "}")
    return found, at + 1


def _gemma_array(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    found = []
    while not text.startswith("]", at):
        value, at = _gemma_value(text, at, depth + 1)
        found.append(value)
        at = _gemma_next(text, at, "]")
    return found, at + 1


def _gemma_next(text: str, at: int, close: str) -> int:
    """Behind a comma, or at the closing bracket."""
    if text.startswith(",", at):
        return at + 1
    if text.startswith(close, at):
        return at
    raise ValueError("neither a comma nor an end")
