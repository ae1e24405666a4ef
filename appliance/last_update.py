"""How the last update of Hearth itself ended: the record that the installer's health gate leaves.

Lines `name=value` in /opt/hearth/last-update: `at` (seconds since 1970), `from` and `to` (releases;
`from` is empty at a first installation), `result`, and `reason` unless all is well. Written by
tools/install/switch.sh when the new release has answered or the one before is back, and by
`hearth update --unattended` for what was brought and refused.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

NAME = "last-update"
MAX_BYTES = 16_384  # a version or two, and one line of a log
MAX_REASON = 500


class Result(StrEnum):
    """How it ended."""

    SERVES = "serves"  # the new release answered
    RETURNED = "returned"  # it did not, and the one before is back and answers
    FAILED = "failed"  # it did not, and none before it answered either
    REFUSED = "refused"  # it was brought, and nothing of it ran


@dataclass(frozen=True, slots=True)
class LastUpdate:
    """One record."""

    at_s: int
    old: str  # the release before; empty: there was none
    new: str
    result: Result
    reason: str = ""


def home_of_releases(prefix: str = sys.prefix) -> Path | None:
    """The folder above the release that runs; None where the installer did not put it."""
    folder = Path(prefix).resolve().parent
    return folder.parent if folder.name == "releases" else None


def read(home: Path | None) -> LastUpdate | None:
    """The record; None without one, or if it cannot be read. Blocking."""
    if home is None:
        return None
    try:
        with (home / NAME).open(encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_BYTES)
        return _parse(dict(line.split("=", 1) for line in text.splitlines() if "=" in line))
    except (OSError, ValueError, KeyError):
        return None


def write(home: Path, record: LastUpdate) -> None:
    """Replace the record by one rename. Blocking."""
    reason = " ".join(record.reason.split())[:MAX_REASON]
    lines = {"at": record.at_s, "from": record.old, "to": record.new,
             "result": record.result, "reason": reason}  # fmt: skip
    half = home / f".{NAME}.new"
    with half.open("w", encoding="utf-8") as file:
        file.write("".join(f"{name}={value}\n" for name, value in lines.items()))
        file.flush()
        os.fsync(file.fileno())
    half.replace(home / NAME)


def _parse(lines: Mapping[str, str]) -> LastUpdate:
    return LastUpdate(
        int(lines["at"]), lines["from"], lines["to"], Result(lines["result"]), lines["reason"]
    )
