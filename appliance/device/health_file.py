"""What the probe wrote that only root may read (probe.py), believed as far as it makes sense.

The file is root's, in a folder of root's, and still is checked: an older or a newer release may
have written it, and it may be left from a probe that no longer runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from appliance.device.files import text
from appliance.device.probe import FORMAT

FILE = Path("run/hearth-health/health.json")  # hearth-health.service, RuntimeDirectory=
STALE_S = 360.0  # three of its turns

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+\Z")]
_Path = Annotated[str, msgspec.Meta(max_length=4096)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Rail(msgspec.Struct):
    name: _Name
    watts: Annotated[float, msgspec.Meta(ge=0, le=10_000)]


class _DiskHealth(msgspec.Struct):
    is_failing: bool
    life_used: Annotated[float, msgspec.Meta(ge=0, le=10)] | None = None
    errors: _Count = 0


class _File(msgspec.Struct):
    format: int
    uptime_s: Annotated[float, msgspec.Meta(ge=0)]
    throttled: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    rails: Annotated[list[_Rail], msgspec.Meta(max_length=64)] = []
    disks: Annotated[dict[_Name, _DiskHealth], msgspec.Meta(max_length=256)] = {}
    remounted: Annotated[list[_Path], msgspec.Meta(max_length=256)] = []


@dataclass(frozen=True, slots=True)
class DiskHealth:
    """What a disk says of itself; `life_used` as in Disk, `errors` it could not read."""

    is_failing: bool
    life_used: float | None
    errors: int


@dataclass(frozen=True, slots=True)
class Probed:
    """The newest run of the probe, or nothing."""

    throttled: str = ""  # as vcgencmd prints it
    rails: Mapping[str, float] = field(default_factory=dict)  # watts by name
    disks: Mapping[str, DiskHealth] = field(default_factory=dict)  # by device
    remounted: tuple[str, ...] = ()  # mount points


def read_health(root: Path) -> Probed:
    """Blocking. Empty where there is no file, a stale one, or one that makes no sense."""
    told = text(root / FILE)
    uptime = (text(root / "proc/uptime") or "").split()
    if not told or not uptime:
        return Probed()
    try:
        found = msgspec.json.decode(told, type=_File)
    except msgspec.MsgspecError:
        return Probed()
    if found.format != FORMAT or not 0 <= float(uptime[0]) - found.uptime_s <= STALE_S:
        return Probed()
    return Probed(
        throttled=found.throttled or "",
        rails={rail.name: rail.watts for rail in found.rails},
        disks={
            name: DiskHealth(disk.is_failing, disk.life_used, disk.errors)
            for name, disk in found.disks.items()
        },
        remounted=tuple(found.remounted),
    )
