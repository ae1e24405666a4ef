"""Columns and the width of text."""

from appliance.cli.table import render_table, text_width


def test_columns_are_padded_and_followed_by_four_blanks():
    table = render_table([["llama3:latest", "4.7 GB"], ["a", "12 B"]], ("NAME", "SIZE"))
    assert table == (
        "NAME             SIZE      \nllama3:latest    4.7 GB    \na                12 B      \n"
    )


def test_header_stands_alone_when_there_is_nothing():
    assert render_table([], ("NAME", "ID")) == "NAME    ID    \n"
    assert render_table([]) == ""


def test_short_rows_are_filled():
    assert render_table([["", "a", "b"], ["", "c"]]) == "    a    b    \n    c         \n"


def test_wide_characters_keep_the_columns_aligned():
    lines = render_table([["模型", "x"], ["abcd", "y"]]).splitlines()
    assert text_width(lines[0]) == text_width(lines[1])
    assert text_width("e\u0301") == 1
