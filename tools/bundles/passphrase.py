"""Where passphrases come from: never from the command line, which everyone on a machine can read.

In this order: the environment variable `BUNDLE_PASSPHRASE_<KEY>` (the key's name in capitals, all
else as `_`), `BUNDLE_PASSPHRASE`, the first line of an open file descriptor, the terminal.
"""

import os
import re
import sys
from collections.abc import Mapping

import click

from tools.bundles.errors import KeyFileError

MIN_CHARS = 12
VARIABLE = "BUNDLE_PASSPHRASE"

_MAX_BYTES = 4096


class Passphrases:
    """Asks for one passphrase at a time; `fd` is a descriptor to read one from, for all keys."""

    def __init__(self, environ: Mapping[str, str] = os.environ, fd: int | None = None) -> None:
        self._environ = environ
        self._fd = fd
        self._from_fd: str | None = None

    def existing(self, key: str) -> str:
        """The passphrase of a key that there is; raises KeyFileError if nobody can be asked."""
        return self._given(key) or self._ask(f"Passphrase of {key}")

    def new(self, key: str) -> str:
        """A passphrase for a new key, typed twice; raises KeyFileError for one too short."""
        chosen = self._given(key)
        if not chosen:
            chosen = self._ask(f"New passphrase for {key}")
            if self._ask("The same again") != chosen:
                raise KeyFileError("the two passphrases differ; no key was made")
        if len(chosen) < MIN_CHARS:
            raise KeyFileError(
                f"a passphrase of {len(chosen)} characters is too short",
                hint=f"take {MIN_CHARS} or more: four or five words that do not belong together",
            )
        return chosen

    def _given(self, key: str) -> str:
        own = f"{VARIABLE}_{re.sub('[^A-Z0-9]', '_', key.upper())}"
        return self._environ.get(own) or self._environ.get(VARIABLE) or self._read_fd()

    def _read_fd(self) -> str:
        if self._fd is None:
            return ""
        if self._from_fd is None:
            try:
                with os.fdopen(self._fd, "rb", closefd=False) as file:
                    self._from_fd = file.readline(_MAX_BYTES).decode().rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise KeyFileError(f"descriptor {self._fd} gives no passphrase: {error}") from error
        return self._from_fd

    def _ask(self, question: str) -> str:
        if not sys.stdin.isatty():
            raise KeyFileError(
                f"{question}: there is no terminal to ask at",
                hint=f"set {VARIABLE}, or use --passphrase-fd",
            )
        answer: str = click.prompt(question, hide_input=True, err=True)
        return answer
