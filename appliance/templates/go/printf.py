"""`printf` as Go's fmt has it, for the verbs that a text can want. Wrong arguments show in the
output (`%!d(string=hi)`), as in Go; widths and the whole output are bounded."""

import re

from appliance.templates.go.errors import CallError
from appliance.templates.go.values import Struct, Value, formatted, type_name
from appliance.templates.gojson import go_string

MAX_WIDTH = 10_000  # characters; Go allows a million
_VERB = re.compile(r"%([-+# 0]*)(\*|\d*)(?:\.(\*|\d*))?(.?)", re.DOTALL)
_INTEGER_VERBS = {"b": "b", "o": "o", "d": "d", "x": "x", "X": "X"}


def printf(text: str, args: tuple[Value, ...], limit: int) -> str:
    """At most `limit` characters; raises CallError for more."""
    printer = _Printer(args)
    parts: list[str] = []
    size = end = 0
    for match in _VERB.finditer(text):
        parts += text[end : match.start()], printer.one(match)
        size += match.start() - end + len(parts[-1])
        end = match.end()
        if size > limit:
            raise CallError(f"the text is longer than {limit} characters")
    parts += text[end:], printer.rest()
    return "".join(parts)


class _Printer:
    def __init__(self, args: tuple[Value, ...]) -> None:
        self._args = args
        self._used = 0

    def one(self, match: re.Match[str]) -> str:
        flags, width_text, precision_text, verb = match.groups()
        width = self._count(width_text)
        precision = self._count(precision_text) if precision_text is not None else None
        if precision_text == "":
            precision = 0
        if verb == "%":
            return "%"
        if not verb:
            return "%!(NOVERB)"
        if self._used >= len(self._args):
            return f"%!{verb}(MISSING)"
        value = self._args[self._used]
        self._used += 1
        body = _verb(verb, flags, precision, value)
        if body is None:
            return f"%!{verb}({_typed(value)})"
        return _padded(body, flags, width, is_number=not isinstance(value, str))

    def rest(self) -> str:
        extra = self._args[self._used :]
        return f"%!(EXTRA {', '.join(map(_typed, extra))})" if extra else ""

    def _count(self, text: str) -> int | None:
        if text == "*":
            value = self._args[self._used] if self._used < len(self._args) else None
            self._used += 1
            if not isinstance(value, int) or isinstance(value, bool):
                return None
            count = value
        elif text:
            if len(text) > 9:
                raise CallError(f"a width or precision is at most {MAX_WIDTH}")
            count = int(text)
        else:
            return None
        if abs(count) > MAX_WIDTH:
            raise CallError(f"a width or precision of {count}; at most {MAX_WIDTH} is allowed")
        return count


def _typed(value: Value) -> str:
    if value is None:
        return "<nil>"
    return f"{type_name(value)}={formatted(value)}"


def _verb(verb: str, flags: str, precision: int | None, value: Value) -> str | None:
    """The value by this verb, or None when the two do not fit."""
    if verb == "v":
        return go_quoted(value) if "#" in flags and isinstance(value, str) else formatted(value)
    if verb == "T":
        return type_name(value)
    if isinstance(value, list | dict | Struct):
        return _compound(verb, value)
    if isinstance(value, bool):
        return formatted(value) if verb == "t" else None
    if isinstance(value, str):
        return _text_verb(verb, precision, value)
    if isinstance(value, int):
        return _integer_verb(verb, flags, value)
    if isinstance(value, float) and verb in {"e", "E", "f", "F", "g", "G"}:
        if precision is None and verb in {"g", "G"}:
            return formatted(value)
        sign = "+" if "+" in flags else ""
        return f"{value:{sign}.{6 if precision is None else precision}{verb}}"
    return None


def _compound(verb: str, value: Value) -> str | None:
    if verb == "q":
        return formatted(value, go_quoted)
    return formatted(value) if verb == "s" else None


def _text_verb(verb: str, precision: int | None, text: str) -> str | None:
    cut = text if precision is None else text[:precision]
    match verb:
        case "s":
            return cut
        case "q":
            return go_quoted(cut)
        case "x" | "X":
            digits = cut.encode(errors="replace").hex()
            return digits.upper() if verb == "X" else digits
    return None


def _integer_verb(verb: str, flags: str, value: int) -> str | None:
    if verb in _INTEGER_VERBS:
        sign = "+" if "+" in flags else " " if " " in flags else ""
        alternate = "#" if "#" in flags and verb in {"x", "X", "o"} else ""
        return f"{value:{sign}{alternate}{verb}}"
    is_rune = 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000
    match verb:
        case "c":
            return chr(value) if is_rune else "\ufffd"
        case "q":
            return f"'{chr(value)}'" if is_rune else "'\ufffd'"
        case "U":
            return f"U+{value:04X}"
    return None


def go_quoted(text: str) -> str:
    """A text as a Go literal (`%q`)."""
    quoted = go_string(text)
    for escaped, plain in (("\\u003c", "<"), ("\\u003e", ">"), ("\\u0026", "&")):
        quoted = quoted.replace(escaped, plain)
    return quoted


def _padded(body: str, flags: str, width: int | None, *, is_number: bool) -> str:
    if width is None:
        return body
    if "-" in flags or width < 0:
        return body.ljust(abs(width))
    if "0" in flags and is_number:
        return body.zfill(width)
    return body.rjust(width)
