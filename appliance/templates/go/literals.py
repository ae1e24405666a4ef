"""Go's literals: quoted strings, raw strings, runes, numbers."""

import re

MAX_INT = 2**63 - 1
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.?))",
    re.DOTALL,
)
_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def unquote(literal: str) -> str:
    """The text of a string literal with its quotes; raises ValueError for a bad escape."""
    if literal.startswith("`"):
        return literal[1:-1].replace("\r", "")
    return _ESCAPE.sub(_unescape, literal[1:-1])


def _unescape(match: re.Match[str]) -> str:
    letter, byte, short, long, octal, bad = match.groups()
    if bad is not None:
        raise ValueError(f"invalid escape {match[0]} in a string")
    if letter is not None:
        return _LETTERS.get(letter, letter)
    code = int(octal, 8) if octal else int(byte or short or long, 16)
    if code > 0x10FFFF or 0xD800 <= code < 0xE000 or (octal and code > 255):
        raise ValueError(f"invalid escape {match[0]} in a string")
    return chr(code)


def number(literal: str) -> int | float:
    """An int or a float as the literal's form says; a rune is its code point. Raises ValueError."""
    if literal.startswith("'"):
        text = unquote(literal)
        if len(text) != 1:
            raise ValueError(f"malformed character constant: {literal}")
        return ord(text)
    digits = literal.replace("_", "").lower()
    try:
        if digits.lstrip("+-").startswith(("0x", "0b", "0o")):
            value: int | float = int(digits, 0)
        elif "." in digits or "e" in digits:
            value = float(digits)
        else:
            is_octal = len(digits.lstrip("+-")) > 1 and digits.lstrip("+-").startswith("0")
            value = int(digits, 8 if is_octal else 10)
    except ValueError as error:
        raise ValueError(f"bad number syntax: {literal!r}") from error
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise ValueError(f"number out of range: {literal}")
    if isinstance(value, int) and not -MAX_INT - 1 <= value <= MAX_INT:
        raise ValueError("integer overflow")
    return value
