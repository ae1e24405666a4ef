"""Values as Go has them: structs, truth, names of types, printing, JSON.

A value is None, a bool, an int, a float, a str, a list, a dict with text keys (a Go map: ordered by
key whenever it is walked) or a `Struct`.
"""

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from appliance.templates.gojson import go_float, go_string

Value = Any  # the union above; spelling it out helps nobody, as values come from JSON


class Struct:
    """A Go struct. `json_names` maps fields to their JSON keys, a `?` in front: omitted if empty.

    `shows_json`  it prints as JSON (Go: it has a String method that does)
    """

    __slots__ = ("fields", "json_names", "shows_json", "type_name")

    def __init__(
        self,
        type_name: str,
        fields: dict[str, Value],
        json_names: dict[str, str] | None = None,
        *,
        shows_json: bool = False,
    ) -> None:
        self.type_name = type_name
        self.fields = fields
        self.json_names = json_names
        self.shows_json = shows_json


class JsonList(list[Value]):
    """A list that prints as JSON."""

    __slots__ = ()


class JsonMap(dict[str, Value]):
    """A map that prints as JSON."""

    __slots__ = ()


class Words(list[str]):
    """Names of types: one prints, and is encoded, as the text alone."""

    __slots__ = ()


def truth(value: Value) -> bool:
    """What `if` thinks of it: false for nil, false, 0, "" and what is empty; a struct is true."""
    return bool(value) if not isinstance(value, Struct) else True


def type_name(value: Value) -> str:
    """Go's name of its type, for messages."""
    match value:
        case None:
            return "interface {}"
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float64"
        case str():
            return "string"
        case Struct():
            return value.type_name
        case list():
            return "[]interface {}"
        case _:
            return "map[string]interface {}"


def shown(value: Value) -> str:
    """What an action prints: as `%v`, but nothing at all is `<no value>`."""
    return "<no value>" if value is None else formatted(value)


def formatted(value: Value, inner: Callable[[str], str] | None = None) -> str:
    """`%v` of fmt; `inner` changes each text (for `%q`)."""
    match value:
        case str():
            return inner(value) if inner else value
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return float_text(value)
        case JsonList() | JsonMap():
            return json_text(value)
        case Struct() if value.shows_json:
            return json_text(value)
        case Words() if len(value) < 2:
            return formatted("".join(value), inner)
        case list():
            return "[" + " ".join(formatted(item, inner) for item in value) + "]"
        case Struct():
            return "{" + " ".join(formatted(v, inner) for v in value.fields.values()) + "}"
        case _:
            pairs = (
                f"{formatted(k, inner)}:{formatted(v, inner)}" for k, v in sorted(value.items())
            )
            return "map[" + " ".join(pairs) + "]"


def float_text(number: float) -> str:
    """`%v` of a float: shortest digits, an exponent below 1e-4 and from 1e6
    (strconv.FormatFloat(…, 'g', -1, 64))."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int)
    if not number:
        return "-0" if sign else "0"
    power = len(digits) - 1 + exponent
    if -4 <= power < 6:
        return format(Decimal(repr(number)).normalize(), "f")
    text = "".join(map(str, digits))
    head = text[0] + (f".{text[1:]}" if len(text) > 1 else "")
    return f"{'-' if sign else ''}{head}e{'-' if power < 0 else '+'}{abs(power):02d}"


def json_text(value: Value) -> str:
    """Compact JSON as encoding/json writes it: maps by key, structs by field, `<>&` escaped.

    Raises ValueError for a number that is none.
    """
    match value:
        case str():
            return go_string(value)
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return go_float(value)
        case Words() if len(value) == 1:
            return go_string(value[0])
        case list():
            return "[" + ",".join(map(json_text, value)) + "]"
        case Struct():
            return "{" + ",".join(_members(value)) + "}"
        case _:
            pairs = (f"{go_string(key)}:{json_text(item)}" for key, item in sorted(value.items()))
            return "{" + ",".join(pairs) + "}"


def _members(struct: Struct) -> list[str]:
    members = []
    for field, value in struct.fields.items():
        name = (struct.json_names or {}).get(field, field)
        if name.startswith("?"):
            if not truth(value):
                continue
            name = name[1:]
        members.append(f"{go_string(name)}:{json_text(value)}")
    return members
