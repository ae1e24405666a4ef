"""How hard the machine is pressed: stalls, swapping, kills.

stalls   proc/pressure/{cpu,memory,io} (Documentation/accounting/psi.rst)
swap     proc/meminfo SwapTotal, SwapFree; proc/vmstat pswpin, pswpout, in pages
kills    proc/vmstat oom_kill (Linux 4.13)
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.device.files import text
from appliance.device.reading import Stall, Swap

RESOURCES = ("cpu", "memory", "io")


def parse_stall(pressure: str) -> Stall | None:
    """The two lines `some avg10=0.00 avg60=… total=…` and `full …`; a CPU may have no full."""
    shares: dict[str, dict[str, float]] = {}
    try:
        for line in pressure.splitlines():
            word, *pairs = line.split()
            shares[word] = {
                key: float(value) for key, _, value in (p.partition("=") for p in pairs)
            }
        some = shares["some"]
        return Stall(some["avg10"], some["avg60"], shares.get("full", {}).get("avg10", 0.0))
    except (KeyError, ValueError):
        return None


def read_stalls(root: Path) -> Mapping[str, Stall]:
    """By resource; empty where the kernel does not tell (psi=0, or built without)."""
    found = {name: text(root / "proc/pressure" / name) for name in RESOURCES}
    stalls = {name: parse_stall(told) for name, told in found.items() if told}
    return {name: stall for name, stall in stalls.items() if stall is not None}


def oom_kills(root: Path) -> int | None:
    """Processes that the kernel took on this machine since boot."""
    return _table(root / "proc/vmstat").get("oom_kill")


class SwapMeter:
    """Swap, with the rate since the reading before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before: tuple[float, int] | None = None

    def read(self, root: Path) -> Swap | None:
        memory, events = _table(root / "proc/meminfo"), _table(root / "proc/vmstat")
        if "SwapTotal" not in memory:
            return None
        pages = events.get("pswpin", 0) + events.get("pswpout", 0)
        now = self._clock()
        before, self._before = self._before, (now, pages)
        rate = None
        if before is not None and now > before[0]:
            rate = round((pages - before[1]) / (now - before[0]), 1)
        total = memory["SwapTotal"] * 1024
        return Swap(total, total - memory.get("SwapFree", 0) * 1024, rate)


def _table(path: Path) -> dict[str, int]:
    """Lines of a name, a number and perhaps a unit."""
    found = {}
    for line in (text(path) or "").splitlines():
        name, *rest = line.replace(":", " ").split()
        if rest and rest[0].isdecimal():
            found[name] = int(rest[0])
    return found
