"""Reading small files of the kernel: text or a number, or nothing where there is none."""

import contextlib
from pathlib import Path

MAX_BYTES = 1 << 20


def text(path: Path) -> str | None:
    """The file's text without the white space around it; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode(errors="replace").strip("\0 \n\t")
    except OSError:
        return None


def number(path: Path) -> int | None:
    """A whole number, decimal or with 0x."""
    found = text(path)
    with contextlib.suppress(ValueError):
        return None if found is None else int(found, 0)
    return None
