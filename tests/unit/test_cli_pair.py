"""The screen of `hearth pair`: its QR code says what segno says, in characters."""

import pytest
import segno

from appliance.cli.pair import pair_screen, qr_code

URL = "http://192.168.178.123:11434/#claim=ABCD-EFGH"
CELLS = {"\u2588": (0, 0), "\u2580": (0, 1), "\u2584": (1, 0), " ": (1, 1)}


def modules():
    return [
        list(map(bool, row))
        for row in segno.make(URL, error="l", micro=False).matrix_iter(border=2)
    ]


def test_the_code_in_half_blocks():
    rows = []
    for line in qr_code(URL).splitlines():
        pairs = [CELLS[character] for character in line]
        rows += [[bool(top) for top, _ in pairs], [bool(bottom) for _, bottom in pairs]]
    expected = modules()
    assert rows[: len(expected)] == expected
    assert len(rows[0]) <= 80


def test_the_code_in_plain_characters():
    rows = [
        [line[i] == "#" for i in range(0, len(line), 2)]
        for line in qr_code(URL, ascii_only=True).split("\n")[:-1]
    ]
    assert rows == modules()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"claimed": True, "code": None, "urls": [URL]}, "hearth keys create"),
        ({"claimed": False, "code": "ABCD-EFGH", "urls": [URL]}, "ABCD-EFGH"),
        ({"claimed": False, "code": None, "urls": [URL]}, "hearth doctor"),
        ({"claimed": True, "code": None, "urls": []}, "HEARTH_HOST=0.0.0.0"),
    ],
)
def test_the_screen(body, says):
    assert says in pair_screen(body)


def test_a_hostile_answer_cannot_paint_the_terminal():
    body = {"claimed": True, "code": None, "urls": ["http://x\x1b[2J"]}
    assert "\x1b" not in pair_screen(body)
