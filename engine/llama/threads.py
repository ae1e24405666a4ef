"""How many threads a computation gets on this board.

`choose_threads` is pure; `read_board` describes this machine to it. More threads than fast physical
cores slow a token down: every layer waits for the slowest thread, and a thread that the kernel or a
quota keeps off its core stops all others.
"""

import os
from dataclasses import dataclass
from pathlib import Path

MAX_THREADS = 512  # GGML_MAX_N_THREADS
# A core slower than this share of the fastest holds the others up more than it carries.
_MIN_CAPACITY_SHARE = 0.65  # of cpu_capacity: measured speed, from the device tree
_MIN_CLOCK_SHARE = 0.8  # of the highest clock: says less, since small cores do less per cycle
# Threads meet after every operation. A model so small that a core reads its share of the weights
# in the time of those meetings is faster on fewer cores, many times so when others want them too.
_DECODE_BYTES = 16 * 2**20  # weights per thread that are worth one, for a single token
_PREFILL_BYTES = 4 * 2**20  # the same for a batch of tokens, which does more with each weight


@dataclass(frozen=True, slots=True)
class Cpu:
    """One logical processor that this process may run on."""

    number: int
    core: tuple[int, int]  # (package, core): equal for the hardware threads of one core
    capacity: int = 0  # relative speed (arm: cpu_capacity), 0 if unknown
    max_khz: int = 0  # highest clock, 0 if unknown
    is_efficient: bool = False  # the kernel lists it among a hybrid processor's small cores


@dataclass(frozen=True, slots=True)
class Board:
    """What decides the number of threads."""

    cpus: tuple[Cpu, ...]
    quota: float | None = None  # processors' worth of time that the cgroup may use; None: no limit


def choose_threads(board: Board, wanted: int = 0) -> int:
    """`wanted`, or the fast physical cores; never more than processors or quota allow."""
    available = max(1, len(board.cpus))
    if wanted > 0:
        return min(wanted, available, MAX_THREADS)
    threads = len({cpu.core for cpu in _fast_cpus(board.cpus)})
    if board.quota is not None:
        threads = min(threads, int(board.quota))  # down: a throttled thread stops the whole team
    return max(1, min(threads, MAX_THREADS))


def useful_threads(threads: int, weight_bytes: int) -> tuple[int, int]:
    """How many of `threads` a model of this size can use: (to decode, to prefill)."""
    return (
        min(threads, max(1, weight_bytes // _DECODE_BYTES)),
        min(threads, max(1, weight_bytes // _PREFILL_BYTES)),
    )


def board_threads(wanted: int) -> int:
    """`choose_threads` for this machine."""
    return choose_threads(read_board(), wanted)


def read_board(root: Path = Path("/"), allowed: set[int] | None = None) -> Board:
    """Describe the machine whose /sys and /proc are under `root`; unreadable facts stay unknown."""
    numbers = os.sched_getaffinity(0) if allowed is None else allowed
    devices = root / "sys/devices"
    efficient = _parse_list(_text(devices / "cpu_atom/cpus"))
    cpus = tuple(
        _read_cpu(devices / f"system/cpu/cpu{number}", number, number in efficient)
        for number in sorted(numbers)
    )
    return Board(cpus, _read_quota(root))


def _fast_cpus(cpus: tuple[Cpu, ...]) -> list[Cpu]:
    fast = [cpu for cpu in cpus if not cpu.is_efficient] or list(cpus)
    top_capacity = max((cpu.capacity for cpu in fast), default=0)
    if top_capacity and all(cpu.capacity for cpu in fast):
        return [cpu for cpu in fast if cpu.capacity >= _MIN_CAPACITY_SHARE * top_capacity]
    top_khz = max((cpu.max_khz for cpu in fast), default=0)
    if top_khz and all(cpu.max_khz for cpu in fast):
        return [cpu for cpu in fast if cpu.max_khz >= _MIN_CLOCK_SHARE * top_khz]
    return fast


def _read_cpu(folder: Path, number: int, is_efficient: bool) -> Cpu:
    package = _number(folder / "topology/physical_package_id", 0)
    # The first sibling names the core: core_id repeats between the clusters of some ARM boards.
    siblings = _parse_list(_text(folder / "topology/thread_siblings_list"))
    return Cpu(
        number=number,
        core=(package, min(siblings, default=number)),
        capacity=_number(folder / "cpu_capacity", 0),
        max_khz=_number(folder / "cpufreq/cpuinfo_max_freq", 0),
        is_efficient=is_efficient,
    )


def _read_quota(root: Path) -> float | None:
    """The tightest cpu.max between our cgroup and the top (cgroup v2, admin guide "CPU")."""
    path = ""
    for line in _text(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            path = line[3:].strip("/")
    mount = root / "sys/fs/cgroup"
    folder = mount / path
    quotas = []
    while folder.is_relative_to(mount):
        fields = _text(folder / "cpu.max").split()
        if len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit() and int(fields[1]):
            quotas.append(int(fields[0]) / int(fields[1]))
        folder = folder.parent
    return min(quotas, default=None)


def _parse_list(text: str) -> set[int]:
    """A kernel CPU list, such as "0-3,8"."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            found.update(range(int(first), int(last or first) + 1))
    return found


def _number(path: Path, default: int) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else default


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
