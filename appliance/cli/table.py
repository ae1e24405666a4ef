"""Columns of text in Ollama's layout, and how wide text is on a terminal."""

import unicodedata
from collections.abc import Sequence

GAP = "    "


def text_width(text: str) -> int:
    """Terminal columns that `text` takes: wide characters two, combining and format ones none."""
    if text.isascii():
        return len(text)
    return sum(map(char_width, text))


def char_width(char: str) -> int:
    """Terminal columns of one character: 0, 1 or 2."""
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def render_table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Left-aligned columns, each padded to its widest cell and followed by four blanks, also the
    last one (Ollama's `list`, `ps` and `show`). Returns "" without rows and header.
    """
    lines = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    columns = max(map(len, lines), default=0)
    padded = [line + [""] * (columns - len(line)) for line in lines]
    widths = [max(text_width(line[i]) for line in padded) for i in range(columns)]
    return "".join(_line(line, widths) for line in padded)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        cell + " " * (width - text_width(cell)) + GAP
        for cell, width in zip(cells, widths, strict=True)
    )
    return "".join(padded) + "\n"
