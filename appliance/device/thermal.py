"""Temperatures: /sys/class/thermal/thermal_zone*/{type,temp,trip_point_*}, in thousandths of a
degree (Linux, Documentation/driver-api/thermal/sysfs-api.rst); the same on a Pi, a Jetson, a PC."""

from pathlib import Path

from appliance.device.files import number, text
from appliance.device.reading import Zone

_SANE = range(-40_000, 200_001)  # a sensor that is switched off tells nonsense


def read_zones(root: Path) -> tuple[Zone, ...]:
    """All sensors, in the kernel's order; two of one type are told apart by their number."""
    found: list[Zone] = []
    names: set[str] = set()
    for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*"), key=_index):
        temperature = number(folder / "temp")
        if temperature is None or temperature not in _SANE:
            continue
        name = text(folder / "type") or folder.name
        if name in names:
            name = f"{name}-{_index(folder)}"
        names.add(name)
        found.append(Zone(name, temperature / 1000, _passive(folder)))
    return tuple(found)


def _passive(folder: Path) -> float | None:
    """The lowest temperature from which on the kernel slows the machine down."""
    points = []
    for kind in folder.glob("trip_point_*_type"):
        if text(kind) == "passive":
            value = number(kind.with_name(kind.name.replace("_type", "_temp")))
            if value is not None and value > 0:
                points.append(value / 1000)
    return min(points, default=None)


def _index(folder: Path) -> int:
    digits = folder.name.removeprefix("thermal_zone")
    return int(digits) if digits.isdecimal() else 0
