"""What only root may read of the board, written to one small file for everybody who asks.

A program of its own, `python -m appliance.device.probe FILE`, which hearth-health.timer starts: it
needs rights that the service must not have. health_file.py reads what it wrote. It imports little,
as it starts anew each time; times are seconds since boot, so that no wrong clock makes them old.

    throttled  vcgencmd get_throttled, which asks the firmware through /dev/vcio
    rails      powercap's energy counters (Documentation/power/powercap/powercap.rst): average watts
               since the run before, too coarse to learn secrets from
    disks      NVMe by its own health log (nvme.py); others by smartctl, where that is installed,
               once an hour
    remounted  file systems that were mounted for writing and that the kernel made read-only
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.device.files import number, text

FORMAT = 1
SMART_S = 3600.0  # between two looks of smartctl at a disk, which may be slow to answer
COMMAND_S = 20.0
LEAST_S = 1.0  # between two readings of an energy counter

# attributes of ATA disks whose normalised value is what is left of an SSD's life, in percent
_LIFE_LEFT = (231, 202, 233, 177)

Found = dict[str, Any]


def probe(root: Path, before: Mapping[str, Any]) -> Found:
    """Everything; `before` is what the run before this one found, or empty."""
    uptime_s = float((text(root / "proc/uptime") or "0").split()[0])
    energy = read_energy(root, uptime_s)
    return {
        "format": FORMAT,
        "uptime_s": uptime_s,
        "throttled": _run("vcgencmd", "get_throttled") if (root / "dev/vcio").exists() else None,
        "rails": rails(before.get("energy", {}), energy),
        "energy": energy,
        "disks": read_disks(root, uptime_s, before.get("disks", {})),
        "remounted": remounted(text(root / "proc/1/mountinfo") or ""),
    }


def main(arguments: list[str]) -> int:
    file = Path(arguments[0])
    try:
        before = json.loads(file.read_bytes())
    except (OSError, ValueError):  # the first run since boot
        before = {}
    found = probe(Path("/"), before)
    temp = file.with_suffix(".new")
    temp.write_text(json.dumps(found))
    temp.chmod(0o644)  # whatever the umask is
    temp.replace(file)
    return 0


# -- power -----------------------------------------------------------------------------------


def read_energy(root: Path, uptime_s: float) -> dict[str, list[float]]:
    """By package: when, microjoules so far, and where the counter begins anew."""
    found = {}
    for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]*")):
        name, energy = text(folder / "name"), number(folder / "energy_uj")
        if name and energy is not None and folder.name.count(":") == 1:  # no part of a package
            found[name] = [uptime_s, energy, number(folder / "max_energy_range_uj") or 0]
    return found


def rails(before: Mapping[str, list[float]], now: Mapping[str, list[float]]) -> list[Found]:
    """Average watts of each package since the run before."""
    found = []
    for name, (at_s, energy, wrap) in now.items():
        if name not in before or at_s - before[name][0] < LEAST_S:
            continue
        used = energy - before[name][1]
        used += wrap if used < 0 else 0
        found.append({"name": name, "watts": round(used / 1e6 / (at_s - before[name][0]), 3)})
    return found


# -- disks -----------------------------------------------------------------------------------


def read_disks(root: Path, uptime_s: float, before: Mapping[str, Any]) -> dict[str, Found]:
    """By device: the share of its life that is used, and whether it says that it fails."""
    found = {}
    for folder in sorted((root / "sys/block").glob("*")):
        name = folder.name
        if name.startswith("nvme"):
            from appliance.device.nvme import read_nvme  # most boards have none

            health = read_nvme(root / "dev" / name[: name.index("n", len("nvme"))])
        elif name.startswith("sd"):
            known = before.get(name)
            is_fresh = known and uptime_s - known["at_s"] < SMART_S
            health = known if is_fresh else _smartctl(root / "dev" / name, uptime_s)
        else:
            continue  # eMMC tells everybody, cards tell nobody
        if health:
            found[name] = health
    return found


def _smartctl(device: Path, uptime_s: float) -> Found | None:
    told = _run("smartctl", "--json", "--nocheck=standby", "-H", "-A", str(device))
    try:
        return None if told is None else parse_smart(json.loads(told), uptime_s)
    except ValueError:
        return None


def parse_smart(told: Mapping[str, Any], uptime_s: float) -> Found | None:
    """What matters of smartctl's JSON; None where the disk has no such thing, or sleeps."""
    status = told.get("smart_status")
    if not isinstance(status, dict):
        return None
    table = told.get("ata_smart_attributes", {}).get("table", [])
    values = {each["id"]: each["value"] for each in table}
    is_solid = told.get("rotation_rate") == 0
    left = next((values[each] for each in _LIFE_LEFT if is_solid and each in values), None)
    return {
        "at_s": uptime_s,
        "life_used": None if left is None else (100 - left) / 100,
        "is_failing": status.get("passed") is False,
        "errors": 0,
    }


def remounted(mountinfo: str) -> list[str]:
    """Mount points that say rw, on file systems that say ro (proc_pid_mountinfo(5))."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        is_asked = len(fields) > 5 and "rw" in fields[5].split(",")
        if is_asked and len(rest) > 2 and "ro" in rest[2].split(","):
            found.append(fields[4])
    return found


def _run(program: str, *arguments: str) -> str | None:
    """What a program prints; None where it is not installed or does not answer."""
    path = shutil.which(program)
    if path is None:
        return None
    import subprocess  # most boards need it at no run

    try:
        done = subprocess.run(  # noqa: S603 - fixed programs, without a shell
            [path, *arguments],
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
