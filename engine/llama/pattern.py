"""Regular expressions of JSON schemas ("pattern") as GBNF, for use inside a JSON string.

The subset that a grammar can follow: characters, classes, `.`, groups, alternatives, repetitions,
`\\d \\w \\s` and anchors at the ends. A pattern that is not anchored is held to as a whole, as
llama.cpp does it. Look-around, back references and word borders are refused.
"""

import re
from typing import Any

from engine.errors import EngineRequestError
from engine.llama.gbnf import MAX_DEPTH

MAX_LENGTH = 1000

_SETS = {"d": "0-9", "w": "0-9A-Za-z_", "s": " "}
_CONTROLS = {"n": r"\\n", "t": r"\\t", "r": r"\\r", "f": r"\\f"}  # as JSON escapes in a literal
_REPETITION = re.compile(r"[*+?]|\{[0-9]{1,9}(?:,[0-9]{0,9})?\}")
_UNPRINTABLE = r"\x00-\x1F\x7F"


def pattern_to_gbnf(pattern: Any) -> str:
    """An expression in parentheses. Raises EngineRequestError for what cannot be followed."""
    if not isinstance(pattern, str) or len(pattern) > MAX_LENGTH:
        raise EngineRequestError(f"pattern must be a string of at most {MAX_LENGTH} characters")
    return _Reader(pattern).read()


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._text = pattern.removeprefix("^")
        if self._text.endswith("$") and not self._text.endswith("\\$"):
            self._text = self._text[:-1]
        self._at = 0

    def read(self) -> str:
        found = self._alternatives(0)
        if self._at < len(self._text):
            raise self._refused("an unmatched )")
        return found

    def _alternatives(self, depth: int) -> str:
        if depth > MAX_DEPTH // 2:
            raise self._refused("too many nested groups")
        options = [self._sequence(depth)]
        while self._peek() == "|":
            self._at += 1
            options.append(self._sequence(depth))
        return f"({' | '.join(options)})"

    def _sequence(self, depth: int) -> str:
        items = []
        while (here := self._peek()) and here not in "|)":
            item = self._item(depth)
            if found := _REPETITION.match(self._text, self._at):
                self._at = found.end()
                item += found[0]
                if self._peek() in ("?", "+"):  # lazy or possessive: the same language, or refused
                    raise self._refused("lazy and possessive repetitions")
            items.append(item)
        return " ".join(items)

    def _item(self, depth: int) -> str:
        here = self._take()
        if here == "(":
            if self._text.startswith("?:", self._at):
                self._at += 2
            elif self._peek() == "?":
                raise self._refused("look-around and named groups")
            inner = self._alternatives(depth + 1)
            if self._take() != ")":
                raise self._refused("a group that is not closed")
            return inner
        if here == "[":
            return self._class()
        if here == ".":
            return "char"
        if here == "\\":
            return self._escape()
        if here in "*+?{^$":
            raise self._refused(f"{here!r} in this place")
        return _character(here)

    def _escape(self) -> str:
        code = self._take()
        if code in _SETS:
            return f"[{_SETS[code]}]"
        if code.lower() in _SETS:
            return f'[^"\\\\{_UNPRINTABLE}{_SETS[code.lower()]}]'
        if code in _CONTROLS:
            return f'"{_CONTROLS[code]}"'
        if code.isalnum() or not code:
            raise self._refused(f"\\{code}")
        return _character(code)

    def _class(self) -> str:
        is_negated = self._peek() == "^"
        self._at += is_negated
        parts: list[str] = []
        escaped: set[str] = set()  # members that JSON spells with a backslash
        while (here := self._take()) != "]" or not (parts or escaped):
            if not here:
                raise self._refused("a class that is not closed")
            first, is_set = self._member(here)
            last = first
            if is_set:
                parts.append(first)
                continue
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                last = self._range_end()
            if ord(last) < ord(first):
                raise self._refused("a range that runs backwards")
            parts += _plain_ranges(ord(first), ord(last))
            escaped |= {one for one in '"\\' if first <= one <= last}
        if is_negated:
            return f'[^"\\\\{_UNPRINTABLE}{"".join(parts)}]'
        options = [f"[{''.join(parts)}]"] if parts else []
        return f"({' | '.join(options + [_character(one) for one in sorted(escaped)])})"

    def _member(self, here: str) -> tuple[str, bool]:
        """One member of a class, and whether it is a set of its own."""
        if here != "\\":
            return here, False
        code = self._take()
        if code in _SETS:
            return _SETS[code], True
        if not code or code.isalnum():
            raise self._refused(f"\\{code} inside [ ]")
        return code, False

    def _range_end(self) -> str:
        end, is_set = self._member(self._take())
        if is_set or not end:
            raise self._refused("a range that ends in a set")
        return end

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        here = self._peek()
        self._at += len(here)
        return here

    def _refused(self, what: str) -> EngineRequestError:
        return EngineRequestError(
            f"the JSON schema cannot be used: pattern {self._pattern[:60]!r} has {what}, which"
            " is not supported; use a simpler pattern"
        )


def _plain_ranges(first: int, last: int) -> list[str]:
    """The range without the characters that cannot stand bare in a JSON string."""
    ranges = []
    for low, high in ((32, 33), (35, 91), (93, 126), (128, 0x10FFFF)):
        start, end = max(first, low), min(last, high)
        if start <= end:
            ranges.append(f"{_in_class(start)}-{_in_class(end)}")
    return ranges


def _character(one: str) -> str:
    """A literal of one character as JSON writes it inside a string."""
    if one in '"\\':
        return f'"\\\\\\{one}"'
    if ord(one) < 32 or one == "\x7f":
        return f'"\\\\u{ord(one):04x}"'
    return f'"{one}"'


def _in_class(code: int) -> str:
    return chr(code) if chr(code).isalnum() else f"\\U{code:08X}"
