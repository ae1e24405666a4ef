"""Word wrap for text that arrives in pieces and is shown at once.

Knows columns, not the terminal: `feed` returns what to write, escapes included.
"""

from appliance.cli.table import char_width, text_width

_MIN_WIDTH = 10
_ERASE_TO_END = "\x1b[K"


class WordWrap:
    """Breaks between words at `width` columns. A word that crosses the edge is taken back from the
    screen and written again on the next line; one longer than a line is broken anywhere.
    """

    def __init__(self, width: int) -> None:
        # One column stays free: a full line leaves the cursor in a state where moving back errs.
        self._limit = width - 1
        self._column = 0
        self._word = ""

    def feed(self, text: str) -> str:
        """What to write for the next piece of text."""
        if self._limit < _MIN_WIDTH:
            return text
        return "".join(map(self._place, text))

    def _place(self, char: str) -> str:
        if char == "\n":
            return self._new_line()
        before = ""
        if self._column + char_width(char) > self._limit:
            if char == " ":
                return self._new_line()  # the break stands for the blank
            ends_word = char_width(char) == 2
            before = self._new_line() if ends_word else self._take_back()
        self._column += char_width(char)
        self._word = "" if char in " \t" or char_width(char) == 2 else self._word + char
        return before + char

    def _new_line(self) -> str:
        self._column, self._word = 0, ""
        return "\n"

    def _take_back(self) -> str:
        width = text_width(self._word)
        if not width or width >= self._column:  # nothing to take back, or it would not help
            return self._new_line()
        self._column = width
        return f"\x1b[{width}D{_ERASE_TO_END}\n{self._word}"
