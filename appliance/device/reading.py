"""What the board says about itself, as plain values. None or empty: the board does not tell."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.hardware import Memory
from appliance.trust.clock import ClockState


@dataclass(frozen=True, slots=True)
class Zone:
    """A temperature sensor. Degrees Celsius; `passive` is where the kernel begins to slow down."""

    name: str
    celsius: float
    passive: float | None = None


@dataclass(frozen=True, slots=True)
class Throttling:
    """Reasons for being slowed down: undervoltage, freq_cap, thermal, soft_temp_limit,
    over_current. `since_boot` holds also those that are past."""

    now: tuple[str, ...] = ()
    since_boot: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rail:
    """A supply whose power is measured."""

    name: str
    watts: float


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system that a folder of ours lies on, and the device below it. Bytes."""

    mount: Path
    device: str  # "mmcblk0", "nvme0n1", …; empty if it is none that the kernel lists
    kind: str  # sd, emmc, nvme, ssd, hdd, usb or other
    free_bytes: int
    total_bytes: int
    life_used: float | None = None  # share of the guaranteed writes; over 1: past it
    is_worn: bool = False  # it says itself that its spare blocks run out
    written_bytes: int | None = None  # since boot
    is_read_only: bool = False  # by the kernel, after an error: it was mounted for writing
    errors: int = 0  # that the file system has counted
    is_failing: bool = False  # as the disk itself says (SMART)


@dataclass(frozen=True, slots=True)
class Stall:
    """Share of the last 10 and 60 seconds, in percent, in which a task waited for a resource
    ("some") or all did ("full")."""

    some10: float
    some60: float
    full10: float


@dataclass(frozen=True, slots=True)
class Swap:
    """Bytes, and pages per second that were swapped since the reading before (None: the first)."""

    total: int
    used: int
    pages_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Board:
    """What does not change while the machine runs."""

    model: str = ""
    page_bytes: int = 4096
    governor: str = ""  # how the kernel chooses the CPU's clock
    watchdog: str = ""  # active, inactive, or empty without one


@dataclass(frozen=True, slots=True)
class Clock:
    is_synced: bool
    state: ClockState


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """Everything, at one moment."""

    memory: Memory
    clock: Clock
    zones: tuple[Zone, ...] = ()
    throttling: Throttling = Throttling()
    rails: tuple[Rail, ...] = ()
    disks: tuple[Disk, ...] = ()
    stalls: Mapping[str, Stall] = field(default_factory=dict)  # by cpu, memory, io
    swap: Swap | None = None
    oom_kills: int | None = None  # of the whole machine since boot
    board: Board = Board()
    better_disks: tuple[str, ...] = ()  # devices that models would be better on than on a card
    remounted: tuple[str, ...] = ()  # other mount points that the kernel made read-only

    @property
    def hottest(self) -> Zone | None:
        return max(self.zones, key=lambda zone: zone.celsius, default=None)

    @property
    def power_watts(self) -> float | None:
        """Of the rails that feed all others, else of all."""
        if not self.rails:
            return None
        inputs = [rail for rail in self.rails if rail.name.upper() in INPUT_RAILS]
        return round(sum(rail.watts for rail in inputs or self.rails), 3)


# Jetson's name for what comes in from the supply, by board (NVIDIA's Developer Guide, power)
INPUT_RAILS = frozenset({"VDD_IN", "POM_5V_IN", "SYS_5V0_IN"})
