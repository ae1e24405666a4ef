"""Supply and throttling, each from where its board tells it.

Raspberry Pi   sys/devices/platform/soc/soc:firmware/get_throttled (Raspberry Pi's kernel,
               drivers/firmware/raspberrypi.c), else `vcgencmd get_throttled`; else the alarm of
               hwmon rpi_volt, in0_lcrit_alarm (Documentation/hwmon/raspberrypi-hwmon.rst)
Jetson         hwmon ina3221: in*_label, in*_input (mV), curr*_input (mA)
               (Documentation/hwmon/ina3221.rst); oc*_event_cnt of soctherm_oc (NVIDIA's
               Developer Guide, "Over-Current Event")
x86            powercap intel-rapl:*/energy_uj, which only root may read, so that a service that
               is not root goes by what the probe found (probe.py)
               (Documentation/power/powercap/powercap.rst); cpu*/thermal_throttle/*_count
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from appliance.device.files import number, text
from appliance.device.reading import Rail, Throttling

# bit: reason; the same 16 bits higher: since boot (Raspberry Pi's documentation of vcgencmd)
PI_BITS = {0: "undervoltage", 1: "freq_cap", 2: "thermal", 3: "soft_temp_limit"}
_VCGENCMD_S = 2.0


def parse_throttled(output: str) -> Throttling | None:
    """`throttled=0x50005` of vcgencmd, or the bare number of sysfs, which has no 0x."""
    match = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})", output.strip())
    if match is None:
        return None
    bits = int(match[1], 16)
    now = tuple(reason for bit, reason in PI_BITS.items() if bits >> bit & 1)
    past = tuple(reason for bit, reason in PI_BITS.items() if bits >> bit & 0x1_0001)
    return Throttling(now, past)


def read_throttling(root: Path, probed: str = "") -> Throttling:
    """Of whatever board this is; `probed` is what vcgencmd told the root-only probe."""
    firmware = text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    reported = firmware or probed or _vcgencmd(root)
    if reported and (found := parse_throttled(reported)):
        return found
    alarms = [folder / "in0_lcrit_alarm" for folder in _hwmon(root, "rpi_volt")]
    events = [p for folder in _hwmon(root, "soctherm_oc") for p in folder.glob("oc*_event_cnt")]
    cores = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    now = ("undervoltage",) if any(map(number, alarms)) else ()
    counted = {"over_current": events, "thermal": cores}
    past = [reason for reason, files in counted.items() if any(map(number, files))]
    return Throttling(now, (*now, *past))


def _vcgencmd(root: Path) -> str | None:
    """Only on the Pi itself: the program asks the firmware through a device file."""
    program = shutil.which("vcgencmd")
    if program is None or root != Path("/") or not (root / "dev/vcio").exists():
        return None
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command, without a shell
            [program, "get_throttled"],
            capture_output=True,
            text=True,
            timeout=_VCGENCMD_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout


class PowerMeter:
    """Watts of each rail. Of energy counters only the second reading tells anything."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before: dict[str, tuple[float, int]] = {}  # when, microjoules

    def read(
        self, root: Path, probed: Mapping[str, float] = MappingProxyType({})
    ) -> tuple[Rail, ...]:
        """probed  watts by name, of counters that only root may read"""
        own = self._rapl(root)
        known = {rail.name for rail in own}
        others = [Rail(name, watts) for name, watts in probed.items() if name not in known]
        return (*_ina3221(root), *own, *others)

    def _rapl(self, root: Path) -> list[Rail]:
        found = []
        for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]*")):
            energy, name = number(folder / "energy_uj"), text(folder / "name")
            if energy is None or name is None or ":" in folder.name.removeprefix("intel-rapl:"):
                continue  # for root alone, or a part of a package that is counted already
            now = self._clock()
            before, self._before[name] = self._before.get(name), (now, energy)
            if before is None or now <= before[0]:
                continue
            used = energy - before[1]
            if used < 0:
                used += number(folder / "max_energy_range_uj") or 0
            found.append(Rail(name, round(used / 1e6 / (now - before[0]), 3)))
        return found


def _ina3221(root: Path) -> list[Rail]:
    found = []
    for folder in _hwmon(root, "ina3221"):
        for label in sorted(folder.glob("in[0-9]*_label")):
            channel = label.name[2 : -len("_label")]
            millivolts = number(folder / f"in{channel}_input")
            milliamperes = number(folder / f"curr{channel}_input")
            if millivolts is not None and milliamperes is not None:
                watts = round(millivolts * milliamperes / 1e6, 3)
                found.append(Rail(text(label) or channel, watts))
    return found


def _hwmon(root: Path, name: str) -> list[Path]:
    folders = sorted((root / "sys/class/hwmon").glob("hwmon*"))
    return [folder for folder in folders if text(folder / "name") == name]
