"""A Go template's text as tokens, by the rules of text/template/parse/lex.go."""

import re
from dataclasses import dataclass

from appliance.templates.go.errors import GoParseError

_BLANK = " \t\r\n"
_TRIM_RIGHT = re.compile(r"[ \t\r\n]+-\}\}")
_COMMENT_END = re.compile(r"\*/([ \t\r\n]-)?\}\}")
_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\n]+)
    | (?P<declare>:=) | (?P<assign>=) | (?P<pipe>\|) | (?P<comma>,)
    | (?P<open>\() | (?P<close>\))
    | (?P<string>"(?:[^"\\\n]|\\.)*") | (?P<raw>`[^`]*`) | (?P<char>'(?:[^'\\\n]|\\.)*')
    | (?P<number>[+-]?(?:
          0[xX][0-9a-fA-F_]+ | 0[bB][01_]+ | 0[oO][0-7_]+
        | (?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]+)?))
    | (?P<field>\.[^\W\d]\w*) | (?P<variable>\$\w*) | (?P<dot>\.)
    | (?P<word>[^\W\d]\w*)
    """,
    re.VERBOSE,
)
_UNENDED = {'"': "unterminated quoted string", "`": "unterminated raw quoted string"}
_UNENDED["'"] = "unterminated character constant"
# What may follow a name, number or field without a blank between.
_AFTER_NAME = frozenset(" \t\r\n.,|:=()}-")
_NAMES = frozenset({"number", "field", "variable", "word"})


@dataclass(frozen=True, slots=True)
class Token:
    """`kind` is "text", "left" and "right" for the braces, "end" at the end of the text, or the
    name of a group of the pattern above."""

    kind: str
    pos: int
    text: str


def line_of(source: str, pos: int) -> int:
    """The line of a position, from 1."""
    return source.count("\n", 0, pos) + 1


def tokens_of(source: str) -> list[Token]:
    """All tokens, "end" last; raises GoParseError."""
    found: list[Token] = []
    pos = 0
    trims_left = False
    while True:
        left = source.find("{{", pos)
        text = source[pos:] if left < 0 else source[pos:left]
        start = pos
        if trims_left:
            stripped = text.lstrip(_BLANK)
            start, text = start + len(text) - len(stripped), stripped
        if left >= 0 and source.startswith("-", left + 2) and _is_blank(source, left + 3):
            text = text.rstrip(_BLANK)
        if text:
            found.append(Token("text", start, text))
        if left < 0:
            found.append(Token("end", len(source), "EOF"))
            return found
        pos, trims_left = _action(source, left, found)


def _is_blank(source: str, pos: int) -> bool:
    return pos < len(source) and source[pos] in _BLANK


def _action(source: str, left: int, found: list[Token]) -> tuple[int, bool]:
    """Tokens of one `{{ … }}`; where it ends, and whether it trims the text behind it."""
    pos = left + 2
    if source.startswith("-", pos) and _is_blank(source, pos + 1):
        pos += 2
    if source.startswith("/*", pos):
        return _comment(source, pos)
    found.append(Token("left", left, "{{"))
    depth = 0
    while True:
        trims = _TRIM_RIGHT.match(source, pos)
        if trims or source.startswith("}}", pos):
            if depth:
                raise _error(source, pos, "unclosed left paren")
            found.append(Token("right", pos, "}}"))
            return (trims.end() if trims else pos + 2), trims is not None
        token = _token(source, left, pos)
        depth += (token.kind == "open") - (token.kind == "close")
        if depth < 0:
            raise _error(source, pos, "unexpected right paren")
        found.append(token)
        pos += len(token.text)


def _comment(source: str, pos: int) -> tuple[int, bool]:
    if source.find("*/", pos + 2) < 0:
        raise _error(source, pos, "unclosed comment")
    end = _COMMENT_END.match(source, source.find("*/", pos + 2))
    if end is None:
        raise _error(source, pos, "comment ends before closing delimiter")
    return end.end(), end[1] is not None


def _token(source: str, left: int, pos: int) -> Token:
    match = _TOKEN.match(source, pos)
    if match is None:
        if pos >= len(source):
            started = line_of(source, left)
            where = "" if started == line_of(source, pos) else f" started at :{started}"
            raise _error(source, pos, f"unclosed action{where}")
        bad = source[pos]
        message = _UNENDED.get(bad) or f"unexpected {bad!r} in an action"
        raise _error(source, pos, message)
    token = Token(match.lastgroup or "", pos, match[0])
    after = source[match.end() : match.end() + 1]
    if token.kind in _NAMES and after and after not in _AFTER_NAME:
        if token.kind == "number":
            raise _error(source, pos, f'bad number syntax: "{token.text}{after}"')
        raise _error(source, pos, f"bad character U+{ord(after):04X} {after!r}")
    return token


def _error(source: str, pos: int, message: str) -> GoParseError:
    return GoParseError(line_of(source, pos), message)
