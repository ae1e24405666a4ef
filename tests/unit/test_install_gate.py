"""The installer's gate: what it says of a release that ended, by systemd and the journal."""

import subprocess
import sys
from pathlib import Path

import pytest

GATE = Path(__file__).parents[2] / "tools/install/gate.py"


def said(folder, journal):
    """Run the gate where the service ended three times and left these lines."""
    for name, text in {"systemctl": "3", "journalctl": journal}.items():
        (folder / f"{name}.txt").write_text(text)
        (folder / name).write_text(f"#!/bin/sh\nexec /bin/cat '{folder}/{name}.txt'\n")
        (folder / name).chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-I", GATE, "1.2.3", "5"],
        capture_output=True, text=True, env={"PATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == 1
    return done.stdout


@pytest.mark.parametrize(
    ("journal", "words"),
    [
        ("ready\nError: the disk is full\n  add storage\nStopped Hearth.\n",
         "Error: the disk is full; add storage"),
        ('Traceback\n  File "x"\nKeyError: 7\nhearth.service: Failed\n', "KeyError: 7"),
        ("Started Hearth.\n", "it said nothing"),
    ],
)  # fmt: skip
def test_it_tells_the_last_words_with_the_cure(tmp_path, journal, words):
    assert said(tmp_path, journal) == f"it ended 3 times: {words}\n"
