"""JSON schemas as GBNF, in bounded time.

Understood: type, enum, const, properties, required, additionalProperties, items, prefixItems,
minItems, maxItems, minLength, maxLength, pattern, format (date, time, date-time, uuid), anyOf,
oneOf, allOf, and $ref inside the schema, also recursive. Other keywords do not constrain the output
(the same as in Ollama). Properties come in the order of the schema.
"""

import json
from typing import Any
from urllib.parse import unquote

from engine.errors import EngineRequestError
from engine.llama.gbnf import JSON_RULES, MAX_REPETITION
from engine.llama.pattern import pattern_to_gbnf

MAX_SOURCE_BYTES = 64 * 1024
MAX_DEPTH = 64  # nested schemas
MAX_SCHEMAS = 5000
MAX_ENUM = 1000

Schema = dict[str, Any]

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_SHARED = {  # rules that generated ones refer to
    "integer": r'"-"? ("0" | [1-9] [0-9]{0,15})',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "date": '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])',
    "clock": (
        '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,9})?'
        ' ("Z" | [+-] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])'
    ),
}
_QUOTE = r'"\""'
_FORMATS = {
    "date": f"{_QUOTE} date {_QUOTE}",
    "time": f"{_QUOTE} clock {_QUOTE}",
    "date-time": f'{_QUOTE} date "T" clock {_QUOTE}',
    "uuid": f"{_QUOTE} " + ' "-" '.join(f"[0-9a-fA-F]{{{n}}}" for n in (8, 4, 4, 4, 12))
    + f" {_QUOTE}",
}  # fmt: skip


def schema_to_gbnf(source: str) -> str:
    """The grammar of the JSON texts that a schema allows; nothing may follow the value.

    Raises EngineRequestError for what is malformed, beyond the limits or cannot be expressed.
    """
    if len(source) > MAX_SOURCE_BYTES:
        raise _refused(f"it has {len(source)} characters, at most {MAX_SOURCE_BYTES} are allowed")
    try:
        schema = json.loads(source, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _refused(f"it is not JSON ({error})") from error
    if not isinstance(schema, dict):
        raise _refused(f"it must be a JSON object, not {type(schema).__name__}")
    return _Converter(schema).convert()


def _refused(reason: str) -> EngineRequestError:
    return EngineRequestError(f"the JSON schema cannot be used: {reason}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _Converter:
    """Builds named rules; every visit returns an expression that is safe in a sequence."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._rules: dict[str, str] = {}
        self._names: dict[str, str] = {}  # a rule's text → its name, so that equal rules are one
        self._references: dict[str, str] = {}
        self._count = 0

    def convert(self) -> str:
        root = self._visit(self._schema, 0)
        lines = [f"{name} ::= {text}" for name, text in (_SHARED | self._rules).items()]
        return f"root ::= {root}{JSON_RULES}" + "\n".join(lines)

    def _visit(self, schema: Any, depth: int) -> str:
        self._tick()
        if depth > MAX_DEPTH:
            raise _refused(f"it is nested more than {MAX_DEPTH} deep")
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            raise _refused(f"a schema must be an object or true, not {json.dumps(schema)[:40]}")
        if "$ref" in schema:
            return self._reference(schema["$ref"], depth)
        if "const" in schema:
            return _literal(schema["const"])
        if "enum" in schema:
            return self._enum(_list(schema, "enum"))
        if "allOf" in schema:
            return self._visit(self._merged(schema), depth + 1)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._any_of(schema, keyword, depth)
        return self._typed(schema, depth)

    def _tick(self) -> None:
        """Bound the whole work, whatever refers to whatever how often."""
        self._count += 1
        if self._count > MAX_SCHEMAS:
            raise _refused(f"it contains, or its references lead to, over {MAX_SCHEMAS} schemas")

    def _typed(self, schema: Schema, depth: int) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            options = [self._visit({**schema, "type": one}, depth + 1) for one in kind]
            return self._rule(" | ".join(options)) if options else "value"
        if kind is None:
            kind = _implied_type(schema)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind == "string":
            return self._string(schema)
        if kind is None:
            return "value"
        if kind not in _TYPES:
            raise _refused(f"type is {json.dumps(kind)[:40]}; known are {', '.join(_TYPES)}")
        return str(kind)

    def _reference(self, pointer: Any, depth: int) -> str:
        target = self._target(pointer)
        if pointer not in self._references:
            name = self._references[pointer] = f"ref{len(self._references)}"
            self._rules[name] = self._visit(target, depth + 1)
        return self._references[pointer]

    def _target(self, pointer: Any) -> Any:
        """What a JSON pointer (RFC 6901) names in the schema."""
        if not isinstance(pointer, str) or not pointer.startswith("#"):
            raise _refused(f"$ref {json.dumps(pointer)[:80]} points outside of it")
        found: Any = self._schema
        for part in unquote(pointer[1:]).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            else:
                raise _refused(f"$ref {pointer[:80]!r} names nothing in it")
        return found

    def _merged(self, schema: Schema) -> Schema:
        """A schema with its allOf folded in: properties and required add up, later ones win."""
        merged: Schema = {}
        pending: list[Any] = [schema]
        while pending:
            self._tick()
            part = pending.pop()
            if not isinstance(part, dict):
                raise _refused("allOf must contain objects")
            if "$ref" in part:
                pending.append(self._target(part["$ref"]))
                continue
            pending.extend(reversed(_list(part, "allOf")))
            properties = {**_properties(merged), **_properties(part)}
            required = [*_list(merged, "required"), *_list(part, "required")]
            merged.update({key: value for key, value in part.items() if key != "allOf"})
            if properties:
                merged["properties"] = properties
            if required:
                merged["required"] = required
        return merged

    def _any_of(self, schema: Schema, keyword: str, depth: int) -> str:
        options = _list(schema, keyword)
        if not options:
            raise _refused(f"{keyword} is empty, so nothing satisfies it")
        shared = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
        shapes = ("type", "properties", "required", "items", "additionalProperties")
        if any(key in shared for key in shapes):
            parts = [{"allOf": [shared, option]} for option in options]
        else:
            parts = options
        return self._rule(" | ".join(self._visit(part, depth + 1) for part in parts))

    def _enum(self, values: list[Any]) -> str:
        if not values or len(values) > MAX_ENUM:
            raise _refused(f"enum has {len(values)} values; allowed are 1 to {MAX_ENUM}")
        return self._rule(" | ".join(map(_literal, values)))

    def _object(self, schema: Schema, depth: int) -> str:
        properties = _properties(schema)
        required = {name for name in _list(schema, "required") if isinstance(name, str)}
        additional = schema.get("additionalProperties", not properties and not required)
        wanted = {name: properties.get(name, True) for name in (*properties, *sorted(required))}
        if not wanted and additional is True:
            return "object"
        pairs = [
            (f'{_literal(name)} ws ":" ws {self._visit(sub, depth + 1)} ws', name in required)
            for name, sub in wanted.items()
        ]
        first, rest = "", ""
        if additional is not False:
            pair = self._rule(f'string ws ":" ws {self._visit(additional, depth + 1)} ws')
            rest = f'("," ws {pair})*'
            first = f"({pair} {rest})?"
        # From the last property to the first: `first` is what may follow while none has come,
        # `rest` when one has.
        for text, is_required in reversed(pairs):
            pair = self._rule(text)
            started = self._rule(f"{pair} {rest}")
            if is_required:
                first = started
                rest = self._rule(f'"," ws {started}')
            else:
                first = self._rule(f"{first} | {started}") if first else f"({started})?"
                rest = self._rule(f'("," ws {pair})? {rest}')
        return self._rule(f'"{{" ws {first} "}}"')

    def _array(self, schema: Schema, depth: int) -> str:
        fixed = _list(schema, "prefixItems")
        items = schema.get("items", not fixed)
        if isinstance(items, list):  # the older spelling of prefixItems
            fixed, items = items, False
        if fixed:
            heads = ' "," ws '.join(f"{self._visit(item, depth + 1)} ws" for item in fixed)
            tail = ""
            if items is not False:
                tail = f'("," ws {self._visit(items, depth + 1)} ws)*'
            return self._rule(f'"[" ws {heads} {tail} "]"')
        low, high = _bounds(schema, "minItems", "maxItems")
        if high == 0 or items is False:
            return self._rule('"[" ws "]"')
        item = self._visit(items, depth + 1)
        more = f'("," ws {item} ws){_times(max(low - 1, 0), None if high is None else high - 1)}'
        body = f"{item} ws {more}"
        return self._rule(f'"[" ws {body if low else f"({body})?"} "]"')

    def _string(self, schema: Schema) -> str:
        if "pattern" in schema:
            return self._rule(f"{_QUOTE} {pattern_to_gbnf(schema['pattern'])} {_QUOTE}")
        if form := _format(schema):
            return self._rule(form)
        low, high = _bounds(schema, "minLength", "maxLength")
        if low == 0 and high is None:
            return "string"
        return self._rule(f"{_QUOTE} {'' if high == 0 else 'char' + _times(low, high)} {_QUOTE}")

    def _rule(self, text: str) -> str:
        """A name for this text."""
        if text not in self._names:
            self._names[text] = f"r{len(self._names)}"
            self._rules[self._names[text]] = text
        return self._names[text]


def _implied_type(schema: Schema) -> str | None:
    """The type that the keywords of an untyped schema are about."""
    if "properties" in schema or "additionalProperties" in schema or "required" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    return "string" if "pattern" in schema or _format(schema) else None


def _format(schema: Schema) -> str | None:
    """The rule of a string format that is held to."""
    name = schema.get("format")
    return _FORMATS.get(name) if isinstance(name, str) else None


def _properties(schema: Schema) -> Schema:
    found = schema.get("properties", {})
    if not isinstance(found, dict):
        raise _refused("properties must be an object")
    return found


def _literal(value: Any) -> str:
    """A GBNF literal of a value's compact JSON text."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\x7f", "\\x7F")
    return f'"{escaped}"'


def _list(schema: Schema, keyword: str) -> list[Any]:
    value = schema.get(keyword, [])
    if not isinstance(value, list):
        raise _refused(f"{keyword} must be an array")
    return value


def _bounds(schema: Schema, low_name: str, high_name: str) -> tuple[int, int | None]:
    low, high = schema.get(low_name, 0), schema.get(high_name)
    for name, value in ((low_name, low), (high_name, 0 if high is None else high)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _refused(f"{name} is {json.dumps(value)[:40]}; it must be a whole number")
        if value > MAX_REPETITION:
            raise _refused(f"{name} is {value}, at most {MAX_REPETITION} can be held to")
    if high is not None and high < low:
        raise _refused(f"{low_name} is {low} and {high_name} is {high}; nothing satisfies both")
    return low, high


def _times(low: int, high: int | None) -> str:
    return f"{{{low},{'' if high is None else high}}}"
