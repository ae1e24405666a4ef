"""One JSON value followed character by character, so that its end and its faults are known at once.

RFC 8259, but control characters inside strings are taken as the escapes that the model forgot.
"""

import math
import re

MAX_DEPTH = 64
_MAX_WORD = 64  # characters of a number or literal

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_BLANK = re.compile(r"[ \t\r\n]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORD = re.compile(r"[-+.0-9A-Za-z]+")
_WANT_VALUE, _WANT_FIRST, _WANT_KEY, _WANT_FIRST_KEY, _WANT_COLON, _WANT_NEXT = range(6)


class JsonScanner:
    """Feed it until `is_done` or `is_broken`; neither depends on how the text is cut."""

    def __init__(self) -> None:
        self.is_done = False
        self.is_broken = False
        self._open: list[str] = []  # the brackets that are open
        self._want = _WANT_VALUE
        self._word = ""
        self._is_string = False
        self._is_key = False
        self._escape = 0  # characters of an escape that are to come; 5: all but the backslash

    def feed(self, text: str, at: int) -> tuple[int, str]:
        """Read on from `text[at]`: how far it came, and what it read, as valid JSON text.

        Stops behind the value, or before the character that cannot be.
        """
        pieces: list[str] = []
        while at < len(text) and not (self.is_done or self.is_broken):
            if self._is_string:
                end, piece = self._string(text, at)
            elif self._word or text[at] in "-0123456789tfn":
                end, piece = self._in_word(text, at)
            elif blank := _BLANK.match(text, at):
                end, piece = blank.end(), blank[0]
            else:
                end, piece = self._bracket(text, at)
            pieces.append(piece)
            at = end
        return at, "".join(pieces)

    def _string(self, text: str, at: int) -> tuple[int, str]:
        if self._escape:
            return self._escaped(text, at)
        if plain := _PLAIN.match(text, at):
            return plain.end(), plain[0]
        one = text[at]
        if one == "\\":
            self._escape = 5
        elif one == '"':
            self._is_string = False
            if self._is_key:
                self._want = _WANT_COLON
            else:
                self._end_value()
        else:
            return at + 1, f"\\u{ord(one):04x}"
        return at + 1, one

    def _escaped(self, text: str, at: int) -> tuple[int, str]:
        one = text[at]
        if self._escape == 5:
            if one not in '"\\/bfnrtu':
                return self._fail(at)
            self._escape = 4 if one == "u" else 0
        elif one in "0123456789abcdefABCDEF":
            self._escape -= 1
        else:
            return self._fail(at)
        return at + 1, one

    def _in_word(self, text: str, at: int) -> tuple[int, str]:
        """A number or literal, whose end only the next character shows."""
        if not self._word and self._want not in (_WANT_VALUE, _WANT_FIRST):
            return self._fail(at)
        found = _WORD.match(text, at)
        piece = found[0][: _MAX_WORD - len(self._word)] if found else ""
        self._word += piece
        at += len(piece)
        if at < len(text):
            if not _is_value(self._word):
                return self._fail(at)[0], piece
            self._word = ""
            self._end_value()
        return at, piece

    def _bracket(self, text: str, at: int) -> tuple[int, str]:
        one, want = text[at], self._want
        if one == '"' and want not in (_WANT_COLON, _WANT_NEXT):
            self._is_string = True
            self._is_key = want in (_WANT_KEY, _WANT_FIRST_KEY)
        elif one in "{[" and want in (_WANT_VALUE, _WANT_FIRST) and len(self._open) < MAX_DEPTH:
            self._open.append(one)
            self._want = _WANT_FIRST_KEY if one == "{" else _WANT_FIRST
        elif (one == "}" and self._may_close("{", _WANT_FIRST_KEY)) or (
            one == "]" and self._may_close("[", _WANT_FIRST)
        ):
            self._open.pop()
            self._end_value()
        elif one == ":" and want == _WANT_COLON:
            self._want = _WANT_VALUE
        elif one == "," and want == _WANT_NEXT:
            self._want = _WANT_KEY if self._open[-1] == "{" else _WANT_VALUE
        else:
            return self._fail(at)
        return at + 1, one

    def _may_close(self, opened: str, empty: int) -> bool:
        return self._open[-1:] == [opened] and self._want in (_WANT_NEXT, empty)

    def _end_value(self) -> None:
        self._want = _WANT_NEXT
        self.is_done = not self._open

    def _fail(self, at: int) -> tuple[int, str]:
        self.is_broken = True
        return at, ""


def _is_value(word: str) -> bool:
    if word in ("true", "false", "null"):
        return True
    return bool(_NUMBER.fullmatch(word)) and math.isfinite(float(word))
