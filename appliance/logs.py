"""How log lines look: `key=value` text for people and journald, or one JSON object per line.

A record may carry `fields`, a dict of facts (the request line does); text prints them behind the
message, JSON as members. Knows nothing of what is logged.
"""

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import Any

_PLAIN = re.compile(r"[\w./:@%+,\-\[\]()]+")


def configure(log_format: str, log_level: str) -> None:
    """Send everything to stderr, once, at the start of the process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


class TextFormatter(logging.Formatter):
    """`INFO loaded model=…`; with the time in front unless journald adds it."""

    def __init__(self) -> None:
        super().__init__()
        self._has_clock = "JOURNAL_STREAM" in os.environ

    def format(self, record: logging.LogRecord) -> str:
        parts = [record.levelname, one_line(record.getMessage())]
        if not self._has_clock:
            parts.insert(0, f"{datetime.now().astimezone():%H:%M:%S}")
        parts += [f"{key}={quoted(value)}" for key, value in _fields(record).items()]
        text = " ".join(parts)
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, logger, message, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def one_line(text: str) -> str:
    """The text without line breaks and control characters, so that nobody can forge a log line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def quoted(value: object) -> str:
    """A value for `key=value`: bare if it is plain, else in double quotes."""
    text = one_line(str(value))
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}
