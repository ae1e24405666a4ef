"""pip as a program: that of this interpreter, else one in an environment made for the run."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.release.errors import ReleaseError

# pip says it in a warning only; its error is that there is no such package
_BROKEN = re.compile(r"connection broken by '(\w+)(?:.*?\[Errno -?\d+\] ([\w ]+))?")


class Pip:
    """Runs pip with a Python that has it."""

    def __init__(self, python: str) -> None:
        self.python = python

    @classmethod
    def find(cls, scratch: Path) -> "Pip":
        """This interpreter's own pip, or a new one in `scratch`; raises ReleaseError."""
        if importlib.util.find_spec("pip") is not None:
            return cls(sys.executable)
        made = subprocess.run(
            [sys.executable, "-m", "venv", scratch / "pip"], capture_output=True, check=False
        )
        if made.returncode:
            raise ReleaseError("pip is missing: sudo apt-get install python3-venv")
        return cls(str(scratch / "pip/bin/python"))

    def run(self, *arguments: str | Path, environ: Mapping[str, str] | None = None) -> None:
        """Run one command of pip; raises ReleaseError with what it said last."""
        command = [self.python, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
        if done.returncode:
            text = done.stdout + done.stderr
            if broken := _BROKEN.search(text):
                raise ReleaseError(
                    f"the package index cannot be reached ({broken[2] or broken[1]}): connect this"
                    " machine, or make the wheelhouse on another one and bring it"
                )
            said = "\n".join(text.strip().splitlines()[-12:])
            raise ReleaseError(f"pip {arguments[0]} failed; it said:\n{said}")

    def fetch_itself(self, folder: Path) -> None:
        """A wheel of pip, which the installer runs from the file: no box needs pip."""
        self.run("download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", folder, "pip")
