"""Who changed what, and who was refused: a bounded list in the database, written in batches.

No secrets and no prompts; values are one line each. Refusals have a bound of their own, so that
somebody who is refused a million times cannot push out what was done.
"""

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from appliance.db import Database
from appliance.errors import LibraryError

KEPT = {False: 10_000, True: 2_000}  # rows by is_refused
MAX_PENDING = 1_000  # while the disk is full
MAX_VALUE = 200  # characters
REPEAT_S = 600.0  # the same refusal of the same caller is noted once in so long
MAX_REMEMBERED = 1_024


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `at` in seconds since 1970."""

    at: float
    who: str
    action: str
    target: str
    outcome: str
    is_refused: bool


class Audit:
    """The list. `note` is free of waiting; `flush` writes."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now
        self._pending: deque[Entry] = deque(maxlen=MAX_PENDING)
        self._refused_at: dict[tuple[str, str], float] = {}

    def note(
        self, who: str, action: str, target: str, outcome: str, *, is_refused: bool = False
    ) -> bool:
        """Add a line; False if it only repeats a refusal."""
        entry = Entry(
            self._now(), _clean(who), _clean(action), _clean(target), _clean(outcome), is_refused
        )
        if is_refused and self._is_repeated(entry):
            return False
        self._pending.append(entry)
        return True

    async def entries(self, limit: int) -> Sequence[Entry]:
        """The newest lines first, also those that are not written yet."""
        if self._database.is_durable:
            with suppress(LibraryError):  # a full disk: what is pending is told all the same
                await self.flush()
        written = await self._database.read(lambda connection: _newest(connection, limit))
        return [*reversed(self._pending), *written][:limit]

    async def flush(self) -> None:
        """Write what is pending; it stays pending when that fails. Raises LibraryError."""
        batch = list(self._pending)
        if not batch:
            return
        await self._database.write(lambda connection: _write(connection, batch))
        for entry in batch:
            if self._pending and self._pending[0] is entry:
                self._pending.popleft()

    def _is_repeated(self, entry: Entry) -> bool:
        key = (entry.who, entry.action)
        last = self._refused_at.pop(key, None)
        if last is not None and 0 <= entry.at - last < REPEAT_S:
            self._refused_at[key] = last
            return True
        self._refused_at[key] = entry.at
        if len(self._refused_at) > MAX_REMEMBERED:
            del self._refused_at[next(iter(self._refused_at))]
        return False


def _newest(connection: sqlite3.Connection, limit: int) -> list[Entry]:
    rows = connection.execute("SELECT * FROM audit ORDER BY number DESC LIMIT ?", (limit,))
    return [
        Entry(r["at"], r["who"], r["action"], r["target"], r["outcome"], bool(r["is_refused"]))
        for r in rows
    ]


def _write(connection: sqlite3.Connection, batch: Sequence[Entry]) -> None:
    connection.executemany(
        "INSERT INTO audit (at, who, action, target, outcome, is_refused)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [(e.at, e.who, e.action, e.target, e.outcome, int(e.is_refused)) for e in batch],
    )
    for is_refused, kept in KEPT.items():
        connection.execute(
            "DELETE FROM audit WHERE is_refused = ?1 AND number <= (SELECT number FROM audit"
            " WHERE is_refused = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
            (int(is_refused), kept),
        )


def _clean(text: str) -> str:
    """One printable line of bounded length; what is not printable shows as its escape."""
    cut = text[:MAX_VALUE]
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)[:MAX_VALUE]
