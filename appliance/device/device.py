"""The one who reads the board. Blocking: some dozens of small files, about a millisecond."""

import os
import re
from pathlib import Path

from appliance.config import Settings
from appliance.device.files import text
from appliance.device.health_file import read_health
from appliance.device.load import SwapMeter, oom_kills, read_stalls
from appliance.device.power import PowerMeter, read_throttling
from appliance.device.reading import Board, Clock, DeviceReading
from appliance.device.storage import read_better_disks, read_disks
from appliance.device.thermal import read_zones
from appliance.hardware import read_memory
from appliance.trust.clock import TIMESYNCD_MARK, judge_clock, read_clock

ROOT = Path("/")


class Device:
    """This machine; `root` holds proc, sys and dev. Rates are told from the second reading on."""

    def __init__(self, settings: Settings, root: Path = ROOT) -> None:
        self.root = root
        self._folders = (settings.models_dir, settings.state)
        self._power = PowerMeter()
        self._swap = SwapMeter()

    def read(self) -> DeviceReading:
        root = self.root
        clock = read_clock(root / "sys/class/rtc", root / str(TIMESYNCD_MARK)[1:])
        probed = read_health(root)
        disks = read_disks(root, self._folders, probed.disks)
        ours = {str(disk.mount) for disk in disks}
        return DeviceReading(
            memory=read_memory(
                root / "proc/meminfo", root / "sys/fs/cgroup", root / "proc/self/cgroup"
            ),
            clock=Clock(clock.is_synced, judge_clock(clock).state),
            zones=read_zones(root),
            throttling=read_throttling(root, probed.throttled),
            rails=self._power.read(root, probed.rails),
            disks=disks,
            stalls=read_stalls(root),
            swap=self._swap.read(root),
            oom_kills=oom_kills(root),
            board=read_board(root),
            better_disks=read_better_disks(root),
            remounted=tuple(mount for mount in probed.remounted if mount not in ours),
        )


def read_board(root: Path) -> Board:
    """The model as its firmware tells it: device tree on boards, DMI on PCs."""
    model = text(root / "proc/device-tree/model") or text(
        root / "sys/devices/virtual/dmi/id/product_name"
    )
    return Board(
        model=model or "",
        page_bytes=_page_bytes(root),
        governor=text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "",
        watchdog=text(root / "sys/class/watchdog/watchdog0/state") or "",
    )


def _page_bytes(root: Path) -> int:
    """Of the running kernel; smaps tells it for a folder of files as well."""
    if root == ROOT:
        return os.sysconf("SC_PAGESIZE")
    match = re.search(r"KernelPageSize:\s+(\d+) kB", text(root / "proc/self/smaps") or "")
    return int(match[1]) * 1024 if match else 4096
