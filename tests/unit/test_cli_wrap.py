"""Word wrap, judged by what a terminal shows."""

import re

from hypothesis import given
from hypothesis import strategies as st

from appliance.cli.table import text_width
from appliance.cli.wrap import WordWrap

TOKEN = re.compile(r"\x1b\[(\d*)([DK])|(.)", re.DOTALL)


def screen(output, width):
    """The lines on a terminal that fails the test when text runs over its edge."""
    lines, column = [""], 0
    for count, move, char in TOKEN.findall(output):
        if move == "D":
            column -= int(count)
            assert column >= 0
        elif move == "K":
            lines[-1] = lines[-1][:column]
        elif char == "\n":
            lines.append("")
            column = 0
        else:
            lines[-1] = lines[-1][:column] + char
            column += 1
            assert text_width(lines[-1]) <= width
    return lines


def wrap(pieces, width):
    wrapper = WordWrap(width)
    return screen("".join(wrapper.feed(piece) for piece in pieces), width)


def test_word_that_crosses_the_edge_moves_to_the_next_line():
    assert wrap(["the quick brown fox"], 16) == ["the quick brown", "fox"]
    assert wrap(["the quick br", "own", " fox jumps"], 14) == ["the quick ", "brown fox ", "jumps"]


def test_blank_at_the_edge_becomes_the_line_break():
    assert wrap(["abcdefghijklmno pq"], 16) == ["abcdefghijklmno", "pq"]


def test_word_longer_than_a_line_is_broken():
    assert wrap(["x" * 25], 13) == ["x" * 12, "x" * 12, "x"]


def test_newlines_of_the_text_stay():
    assert wrap(["one\n\ntwo three four"], 12) == ["one", "", "two three ", "four"]


def test_wide_characters_break_anywhere():
    assert wrap(["日本語のとても長い文"], 12) == ["日本語のと", "ても長い文"]


def test_narrow_terminal_is_left_alone():
    text = "a text that is far too long for six columns"
    assert WordWrap(6).feed(text) == text


@given(st.lists(st.text("abc défg日本\n", max_size=12), max_size=12), st.integers(12, 40))
def test_nothing_is_lost_and_pieces_do_not_matter(pieces, width):
    text = "".join(pieces)
    lines = wrap(pieces, width)
    assert "".join(lines).replace(" ", "") == text.replace("\n", "").replace(" ", "")
    assert lines == wrap([text], width)
