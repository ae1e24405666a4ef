"""How many tokens each client has used, by day. Pure: days and times are handed in.

A day is a number that grows by one (`date.toordinal`), as the box's clock says it. Clocks of small
boards jump, so a day that the clock takes back gives nobody a fresh budget: what was counted for
later days counts for today too, until the clock has stood behind them for an hour.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

KEPT_DAYS = 7  # shown to the owner
MAX_GUESTS = 2000  # that are remembered; keys are few and always are
SETTLED_S = 3600.0  # from then on the clock is believed, also when it went back
KEY_PREFIX = "key:"

Page = tuple[str, int]  # who, day


@dataclass(slots=True)
class Entry:
    """What one client used on one day."""

    requests: int = 0
    tokens: int = 0
    seen_at: float = 0.0  # seconds since 1970


class Ledger:
    """See the module's text. `changed` are the pages to be written, `gone` those to be deleted."""

    def __init__(self) -> None:
        self.changed: set[Page] = set()
        self.gone: set[Page] = set()
        self._entries: dict[str, dict[int, Entry]] = {}
        self._behind_since: float | None = None

    def load(self, rows: Iterable[tuple[str, int, Entry]]) -> None:
        """Take over what was written earlier."""
        for who, day, entry in rows:
            self._entries.setdefault(who, {})[day] = entry

    def add(self, who: str, day: int, at: float, *, requests: int = 0, tokens: int = 0) -> None:
        """Count for today; `at` is the wall clock's time."""
        if who not in self._entries:
            self._make_room(who)
        days = self._entries.setdefault(who, {})
        entry = days.setdefault(day, Entry())
        entry.requests += requests
        entry.tokens += tokens
        entry.seen_at = at
        self.changed.add((who, day))
        self.gone.discard((who, day))

    def used(self, who: str, day: int) -> Entry:
        """The sum of today and of all days that the clock has taken back."""
        found = Entry()
        for number, entry in self._entries.get(who, {}).items():
            if number >= day:
                found.requests += entry.requests
                found.tokens += entry.tokens
            found.seen_at = max(found.seen_at, entry.seen_at)
        return found

    def guests(self) -> list[str]:
        """Clients without a key that were here lately, the last one first."""
        seen = {
            who: max(entry.seen_at for entry in days.values())
            for who, days in self._entries.items()
            if not who.startswith(KEY_PREFIX) and days
        }
        return sorted(seen, key=lambda who: seen[who], reverse=True)

    def entries(self, pages: Iterable[Page]) -> Iterator[tuple[str, int, Entry]]:
        """What is on these pages, those left out that are gone."""
        for who, day in pages:
            entry = self._entries.get(who, {}).get(day)
            if entry is not None:
                yield who, day, entry

    def turn(self, day: int, now: float) -> None:
        """Forget what is old; call now and then. `now` is a clock that never goes back."""
        later = [
            (who, number) for who, days in self._entries.items() for number in days if number > day
        ]
        if not later:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        elif now - self._behind_since >= SETTLED_S:
            for who, number in later:
                self._move(who, number, day)
            self._behind_since = None
        for who in list(self._entries):
            for number in [n for n in self._entries[who] if n <= day - KEPT_DAYS]:
                self._drop(who, number)

    def _move(self, who: str, old: int, new: int) -> None:
        entry = self._entries[who][old]
        self.add(who, new, entry.seen_at, requests=entry.requests, tokens=entry.tokens)
        self._drop(who, old)

    def _drop(self, who: str, day: int) -> None:
        days = self._entries[who]
        del days[day]
        if not days:
            del self._entries[who]
        self.changed.discard((who, day))
        self.gone.add((who, day))

    def _make_room(self, who: str) -> None:
        if who.startswith(KEY_PREFIX) or len(self._entries) < MAX_GUESTS:
            return
        for old in self.guests()[MAX_GUESTS - 1 :]:
            for day in list(self._entries[old]):
                self._drop(old, day)
