"""Token budgets by day: who may go on, what each has used, kept in the database.

Counted in memory and written some minutes later, all changes at once, so that no request waits for
the disk and no card wears out; a stop writes the rest, a crash forgets those minutes at most.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil

from appliance.access.caller import Caller, KeyFacts
from appliance.access.ledger import KEY_PREFIX, Entry, Ledger, Page
from appliance.access.limits import CROWD_FACTOR
from appliance.access.shares import Share, share_of
from appliance.db import Database
from appliance.errors import BudgetSpentError, LibraryError

log = logging.getLogger("hearth.usage")

_Row = tuple[str, int, int, int, float]  # of the table `usage`

FLUSH_S = 900.0  # each write wears a card by about 50 kB; a power cut forgets so much at most
RETRY_S = 60.0  # after a write that failed
_UPSERT = (
    "INSERT INTO usage (who, day, requests, tokens, seen_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT"
    " (who, day) DO UPDATE SET requests = excluded.requests, tokens = excluded.tokens,"
    " seen_at = excluded.seen_at"
)


def wall_clock() -> datetime:
    """The box's own time, in its own zone: a budget's day is that of the people around it."""
    return datetime.now(UTC).astimezone()


@dataclass(frozen=True, slots=True)
class Guest:
    """A client without a key that was here lately; counts are today's."""

    address: str  # IPv6: the network, whose addresses are one guest
    requests: int
    tokens: int
    seen_at: float  # seconds since 1970


class Usage:
    """`load` first; run `run_forever` as a task; `close` writes the rest."""

    def __init__(
        self,
        database: Database,
        guest_tokens_per_day: int,
        clock: Callable[[], datetime] = wall_clock,
    ) -> None:
        """guest_tokens_per_day  0: no limit"""
        self.database = database
        self._guest_tokens = guest_tokens_per_day
        self._clock = clock
        self._ledger = Ledger()
        self._dirty = asyncio.Event()

    async def load(self) -> None:
        """Read what was counted before the start."""
        rows = await self.database.read(lambda c: c.execute("SELECT * FROM usage").fetchall())
        self._ledger.load(
            (row["who"], row["day"], Entry(row["requests"], row["tokens"], row["seen_at"]))
            for row in rows
        )
        self._ledger.turn(self._today, time.monotonic())

    def share_of(self, caller: Caller) -> Share:
        """The share of a caller, whose jobs are charged to it."""
        if caller.key is None and caller.is_local:
            return share_of(caller)
        return share_of(caller, _Account(self, caller))

    def count(self, caller: Caller) -> None:
        """Note a request that will use a model. Raises BudgetSpentError if nothing is left."""
        if caller.key is not None or not caller.is_local:
            self.check(caller)
            self._add(_name_of(caller), requests=1)

    def check(self, caller: Caller) -> None:
        """Raise BudgetSpentError if the day's tokens are used up."""
        limit, who = self._budget(caller)
        if not limit:
            return
        used = self._ledger.used(_name_of(caller), self._today).tokens
        if used >= limit:
            again = _next_midnight(self._clock())
            raise BudgetSpentError(
                f"{who} used {used} tokens today, of {limit} a day",
                retry_after_s=max(1, ceil((again - self._clock()).total_seconds())),
                hint=f"go on from {again:%Y-%m-%d %H:%M} by the box's clock, or ask the owner for"
                f" {'more' if caller.key else 'a key'}",
            )

    def charge(self, caller: Caller, tokens: int) -> None:
        """Count what a job of this caller has computed."""
        self._add(_name_of(caller), tokens=tokens)

    def tokens_today(self, key: KeyFacts) -> int:
        """What a key has used today."""
        return self._ledger.used(KEY_PREFIX + key.id, self._today).tokens

    def guests(self) -> list[Guest]:
        """Those without a key, the last one first."""
        found = []
        for who in self._ledger.guests():
            entry = self._ledger.used(who, self._today)
            found.append(Guest(who, entry.requests, entry.tokens, entry.seen_at))
        return found

    async def run_forever(self) -> None:
        """Write changes some minutes after they were made; sleeps while there are none."""
        while True:
            await self._dirty.wait()
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except LibraryError as error:
                log.warning("budgets are not written: %s", error)
                await asyncio.sleep(RETRY_S)

    async def flush(self) -> None:
        """Write all changes in one transaction. Raises LibraryError; they are kept then."""
        self._dirty.clear()
        ledger = self._ledger
        ledger.turn(self._today, time.monotonic())
        changed, gone = set(ledger.changed), set(ledger.gone)
        rows = [
            (who, day, entry.requests, entry.tokens, entry.seen_at)
            for who, day, entry in ledger.entries(changed)
        ]
        ledger.changed.clear()
        ledger.gone.clear()
        try:
            await self.database.write(lambda connection: _write(connection, rows, list(gone)))
        except LibraryError:
            ledger.changed |= changed
            ledger.gone |= gone - ledger.changed
            self._dirty.set()
            raise

    async def close(self) -> None:
        """Write what is left; what cannot be written is said."""
        try:
            await self.flush()
        except LibraryError as error:
            log.warning("budgets are not written: %s", error)

    @property
    def _today(self) -> int:
        return self._clock().toordinal()

    def _add(self, who: str, *, requests: int = 0, tokens: int = 0) -> None:
        now = self._clock()
        self._ledger.add(who, now.toordinal(), now.timestamp(), requests=requests, tokens=tokens)
        self._dirty.set()

    def _budget(self, caller: Caller) -> tuple[int, str]:
        """Tokens a day, 0 for any number, and who has them, in words."""
        if caller.key is not None:
            return caller.key.tokens_per_day or 0, f"the key {caller.key.name!r}"
        if caller.is_local:
            return 0, ""
        crowd = _name_of(caller)
        if crowd == caller.address:
            return self._guest_tokens, "this guest"
        return CROWD_FACTOR * self._guest_tokens, f"the guests of the network {crowd}"


@dataclass(frozen=True, slots=True)
class _Account:
    """The budget that one caller's jobs are paid from."""

    usage: Usage
    caller: Caller

    def check(self) -> None:
        self.usage.check(self.caller)

    def charge(self, tokens: int) -> None:
        self.usage.charge(self.caller, tokens)


def _name_of(caller: Caller) -> str:
    """Who pays: the key, or the guest, in IPv6 with all of its network."""
    return share_of(caller).salt


def _next_midnight(now: datetime) -> datetime:
    return (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)


def _write(connection: sqlite3.Connection, rows: Sequence[_Row], gone: Sequence[Page]) -> None:
    connection.executemany(_UPSERT, rows)
    connection.executemany("DELETE FROM usage WHERE who = ? AND day = ?", gone)
