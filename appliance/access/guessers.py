"""Who sends wrong keys, by address: bounded, so that a flood of addresses costs nothing.

It only decides how a wrong key is answered. A right one never comes here.
"""

from collections import OrderedDict
from dataclasses import dataclass

WRONG_KEYS = 10  # of one address, until it is told to wait
PERIOD_S = 600.0
MAX_GUESSERS = 1024  # the one that was quiet for longest is forgotten


@dataclass(slots=True)
class _Guesser:
    tries: int
    since: float


class Guessers:
    """Wrong keys by `site`, an address or an IPv6 /64."""

    def __init__(self) -> None:
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()

    def __len__(self) -> int:
        return len(self._guessers)

    def count(self, site: str, now: float) -> int:
        """Count one more; how many seconds this site shall wait, 0 if it may go on."""
        guesser = self._guessers.pop(site, None)
        if guesser is None or not 0 <= now - guesser.since < PERIOD_S:
            guesser = _Guesser(0, now)
        guesser.tries += 1
        self._guessers[site] = guesser
        if len(self._guessers) > MAX_GUESSERS:
            self._guessers.popitem(last=False)
        if guesser.tries <= WRONG_KEYS:
            return 0
        return max(1, round(guesser.since + PERIOD_S - now))
