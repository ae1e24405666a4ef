"""engine/text.py: nothing is shown too early, nothing is lost, whatever the pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text import TextAssembler


def assemble(pieces, stop=()):
    assembler = TextAssembler(stop)
    sent = [assembler.feed(piece) for piece in pieces]
    return sent, assembler.finish(), assembler.stopped_by


def cut(data, places):
    bounds = [0, *sorted(p % (len(data) + 1) for p in places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


def test_character_split_over_pieces_is_held_back_until_it_is_whole():
    sent, rest, _ = assemble([b"a\xf0\x9f", b"\x8e", b"\x89b"])
    assert sent == ["a", "", "🎉b"]
    assert rest == ""


def test_bytes_that_never_become_a_character_are_shown_as_replacement():
    sent, rest, _ = assemble([b"a\xf0\x9f", b"b"])
    assert "".join(sent) + rest == "a\ufffdb"
    assert assemble([b"x\xe2\x82"]) == (["x"], "\ufffd", None)


def test_stop_string_across_pieces_is_never_shown():
    sent, rest, stopped_by = assemble([b"Hello <", b"|e", b"nd|", b"> more"], ["<|end|>"])
    assert "".join(sent) + rest == "Hello "
    assert stopped_by == "<|end|>"


def test_beginning_of_a_stop_string_is_shown_once_it_turns_out_otherwise():
    sent, rest, stopped_by = assemble([b"a <|e", b"lse"], ["<|end|>"])
    assert sent == ["a ", "<|else"]
    assert (rest, stopped_by) == ("", None)


def test_stop_string_that_is_complete_first_wins():
    assert assemble([b"one two three"], ["three", "two"])[2] == "two"
    assert assemble([b"abcdef"], ["bcd", "bc", "c"])[2] == "bc"
    assert assemble([b"a<<<"], ["<", "a<<"]) == (["a"], "", "<")


def test_overlapping_candidate_of_itself_is_found():
    sent, rest, stopped_by = assemble([b"aa", b"ab"], ["aab"])
    assert "".join(sent) + rest == "a"
    assert stopped_by == "aab"


@given(st.text(max_size=60), st.lists(st.integers(0, 300), max_size=12))
def test_any_cut_gives_the_same_text(text, places):
    pieces = cut(text.encode(), places)
    sent, rest, _ = assemble(pieces)
    assert "".join(sent) + rest == text


@given(
    st.text("ab<|", max_size=40),
    st.lists(st.text("ab<|", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 300), max_size=12),
)
def test_text_before_the_stop_does_not_depend_on_the_cut(text, stop, places):
    whole = assemble([text.encode()], stop)
    parts = assemble(cut(text.encode(), places), stop)
    shown = "".join(parts[0]) + parts[1]
    assert (shown, parts[2]) == ("".join(whole[0]) + whole[1], whole[2])
    assert text.startswith(shown)
    assert (whole[2] is None) == (not any(s in text for s in stop))


@pytest.mark.parametrize("stop", [[], [""]])
def test_no_stop_strings_hold_nothing_back(stop):
    assert assemble([b"<|end"], stop)[0] == ["<|end"]
