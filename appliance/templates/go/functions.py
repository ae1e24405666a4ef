"""What a template may call: Go's builtins and Ollama's own functions.

Each takes the running `Run` (for the clock and the budget) and its arguments; it raises CallError.
`and`, `or` are in the compiler, as they do not evaluate all arguments.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from appliance.templates.go.errors import CallError
from appliance.templates.go.printf import printf
from appliance.templates.go.values import Struct, Value, formatted, json_text, truth, type_name
from appliance.templates.gojson import go_string

if TYPE_CHECKING:
    from appliance.templates.go.program import Run

_LONG = 4096  # characters from which on comparing two texts is charged
_ESCAPES = str.maketrans({"'": "&#39;", '"': "&#34;"})
_TYPESCRIPT = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


@dataclass(frozen=True, slots=True)
class Builtin:
    """`most` None: any number of arguments."""

    call: Callable[..., Value]
    least: int
    most: int | None


def _joined(run: "Run", args: tuple[Value, ...], *, spaced: bool) -> str:
    """fmt.Sprint, or with `spaced` fmt.Sprintln without its line end."""
    parts: list[str] = []
    for index, arg in enumerate(args):
        is_apart = spaced or not (isinstance(arg, str) or isinstance(args[index - 1], str))
        if index and is_apart:
            parts.append(" ")
        parts.append(formatted(arg))
        run.charge(len(parts[-1]))
    return "".join(parts)


def _print(run: "Run", *args: Value) -> str:
    return _joined(run, args, spaced=False)


def _println(run: "Run", *args: Value) -> str:
    return _joined(run, args, spaced=True) + "\n"


def _printf(run: "Run", text: Value, *args: Value) -> str:
    if not isinstance(text, str):
        raise CallError(f"wrong type for value; expected string; got {type_name(text)}")
    return printf(text, args, run.largest_value)


def _len(run: "Run", value: Value) -> int:
    if isinstance(value, str):
        run.charge(len(value))
        return len(value) if value.isascii() else len(value.encode(errors="replace"))
    if isinstance(value, list | dict):
        return len(value)
    if value is None:
        raise CallError("len of nil pointer")
    raise CallError(f"len of type {type_name(value)}")


def _index(run: "Run", value: Value, *keys: Value) -> Value:
    for key in keys:
        match value:
            case dict():
                if not isinstance(key, str):
                    raise CallError(f"value has type {type_name(key)}; should be string")
                value = value.get(key)
            case list() | str():
                data = _bytes(run, value)
                value = data[_place(key, len(data) - 1)]
            case None:
                raise CallError("index of untyped nil")
            case _:
                raise CallError(f"can't index item of type {type_name(value)}")
    return value


def _slice(run: "Run", value: Value, *bounds: Value) -> Value:
    if not isinstance(value, list | str):
        raise CallError(f"can't slice item of type {type_name(value)}")
    if isinstance(value, str) and len(bounds) == 3:
        raise CallError("cannot 3-index slice a string")
    data = _bytes(run, value)
    places = [_place(bound, len(data)) for bound in bounds]
    first, last = (places + [0, len(data)][len(places) :])[:2] if len(places) < 2 else places[:2]
    if first > last:
        raise CallError(f"invalid slice index: {first} > {last}")
    run.charge(last - first)
    part = data[first:last]
    return part.decode(errors="replace") if isinstance(part, bytes) else part


def _bytes(run: "Run", value: Value) -> Any:
    """Go's texts are bytes, also to `index` and `slice`."""
    if not isinstance(value, str):
        return value
    run.charge(len(value))
    return value.encode(errors="replace")


def _place(key: Value, most: int) -> int:
    if isinstance(key, bool) or not isinstance(key, int):
        what = "nil" if key is None else f"type {type_name(key)}"
        raise CallError(f"cannot index slice/array with {what}")
    if not 0 <= key <= most:
        raise CallError(f"index out of range: {key}")
    return key


def _not(_run: "Run", value: Value) -> bool:
    return not truth(value)


def _eq(run: "Run", first: Value, *others: Value) -> bool:
    return any(_is_equal(run, first, other) for other in others)


def _is_equal(run: "Run", first: Value, second: Value) -> bool:
    if type(first) is str and type(second) is str:
        if len(first) == len(second) > _LONG:
            run.charge(len(first))
        return first == second
    if first is None or second is None:
        return first is second
    kind = _kind(first)
    if kind != _kind(second):
        raise CallError("incompatible types for comparison")
    return bool(first == second)


def _kind(value: Value) -> str:
    match value:
        case bool():
            return "bool"
        case int() | float():  # Go tells them apart, but its numbers from JSON are all floats
            return "number"
        case str():
            return "text"
    raise CallError(f"non-comparable type {type_name(value)}")


def _lt(run: "Run", first: Value, second: Value) -> bool:
    kind = _kind(first) if first is not None else None
    if kind != (_kind(second) if second is not None else None):
        raise CallError("incompatible types for comparison")
    if kind in {"bool", None}:
        raise CallError("invalid type for comparison")
    if kind == "text":
        run.charge(min(len(first), len(second)))
    return bool(first < second)


def _le(run: "Run", first: Value, second: Value) -> bool:
    return _lt(run, first, second) or _is_equal(run, first, second)


def _json(_run: "Run", value: Value) -> str:
    try:
        return json_text(value)
    except ValueError:  # a number that is none: Go's json.Marshal fails, and Ollama prints nothing
        return ""


def _html(run: "Run", *args: Value) -> str:
    text = html.escape(_print(run, *args), quote=False).replace("\0", "\ufffd")
    return text.translate(_ESCAPES)


def _js(run: "Run", *args: Value) -> str:
    text = go_string(_print(run, *args))[1:-1]
    return text.replace("'", "\\'").replace("=", "\\u003D").replace("\\u003c", "\\u003C")


def _urlquery(run: "Run", *args: Value) -> str:
    return quote_plus(_print(run, *args).encode(errors="replace"))


def _date(run: "Run", *_: Value, back: int) -> str:
    return (run.now() - timedelta(days=back)).strftime("%Y-%m-%d")


def _typescript(_run: "Run", value: Value) -> str:
    """The TypeScript type of a tool's property (Ollama API, ToolProperty)."""
    if not isinstance(value, Struct) or value.type_name != "api.ToolProperty":
        return "any"
    fields = value.fields
    if fields["AnyOf"]:
        return " | ".join(_typescript(_run, option) for option in fields["AnyOf"])
    return " | ".join(_TYPESCRIPT.get(name, "any") for name in fields["Type"]) or "any"


BUILTINS = {
    "print": Builtin(_print, 0, None),
    "println": Builtin(_println, 0, None),
    "printf": Builtin(_printf, 1, None),
    "len": Builtin(_len, 1, 1),
    "index": Builtin(_index, 1, None),
    "slice": Builtin(_slice, 1, 4),
    "not": Builtin(_not, 1, 1),
    "eq": Builtin(_eq, 2, None),
    "ne": Builtin(lambda run, a, b: not _is_equal(run, a, b), 2, 2),
    "lt": Builtin(_lt, 2, 2),
    "le": Builtin(_le, 2, 2),
    "gt": Builtin(lambda run, a, b: not _le(run, a, b), 2, 2),
    "ge": Builtin(lambda run, a, b: not _lt(run, a, b), 2, 2),
    "html": Builtin(_html, 0, None),
    "js": Builtin(_js, 0, None),
    "urlquery": Builtin(_urlquery, 0, None),
    "json": Builtin(_json, 1, 1),
    "currentDate": Builtin(partial(_date, back=0), 0, None),
    "yesterdayDate": Builtin(partial(_date, back=1), 0, None),
    "toTypeScriptType": Builtin(_typescript, 1, 1),
}
NAMES = frozenset(BUILTINS) | {"and", "or"}
