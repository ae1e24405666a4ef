"""How log lines look: `key=value` text for people and journald, or one JSON object per line.

A record whose only argument is a `Fields` prints as text and becomes members in JSON. A line never
breaks, whatever a client sent. Knows nothing of what is logged.
"""

import json
import logging
import os
import re
import sys
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

RECENT_LINES, RECENT_CHARACTERS = 400, 500  # at most so much is kept in memory
MAX_VALUE = 200  # characters; a path or a model name may be as long as the client likes
_BARE = re.compile(r"[A-Za-z0-9_.:/@+-]+")


class Fields:
    """The facts of one log line, in order; prints as `key=value key=value`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = {key: value for key, value in values.items() if value is not None}

    def __str__(self) -> str:
        return " ".join(f"{key}={_quoted(value)}" for key, value in self.values.items())


class Recent(logging.Handler):
    """The latest lines, kept in memory for whoever asks for support. Bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        self._lines: deque[str] = deque(maxlen=RECENT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        self._lines.append(f"{at} {self.format(record)}"[:RECENT_CHARACTERS])

    def lines(self) -> list[str]:
        """Oldest first, each as one line."""
        return [line.replace("\n", " | ") for line in self._lines.copy()]


def configure(log_format: str, log_level: str) -> Recent:
    """Send everything to stderr, once, at the start of the process; also to what is returned."""
    handler, recent = logging.StreamHandler(sys.stderr), Recent()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=log_level.upper(), handlers=[handler, recent], force=True)
    return recent


class TextFormatter(logging.Formatter):
    """`INFO loaded model=…`; with the time in front unless journald adds it."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(message)s")
        self._has_clock = "JOURNAL_STREAM" in os.environ

    def format(self, record: logging.LogRecord) -> str:
        head, *traceback = super().format(record).split("\n", 1)
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in head)
        if not self._has_clock:
            line = f"{datetime.now().astimezone():%H:%M:%S} {line}"
        return "\n".join([line, *traceback]) if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, logger, and the record's fields or message."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        args = record.args if isinstance(record.args, tuple) else ()
        if len(args) == 1 and isinstance(args[0], Fields):
            line |= {"event": str(record.msg).partition(" ")[0], **args[0].values}
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _quoted(value: object) -> str:
    text = str(value)[:MAX_VALUE]
    return text if _BARE.fullmatch(text) else json.dumps(text)
