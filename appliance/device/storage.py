"""The disks that our folders lie on: room, wear, what was written, and errors.

    mounts         proc/self/mountinfo (proc_pid_mountinfo(5)); the device is found by its number,
                   sys/dev/block/MAJOR:MINOR
    eMMC           device/life_time (two types of cells, in tenths, 0x01 to 0x0b) and
                   device/pre_eol_info (0x01 normal, 0x02 80 %, 0x03 90 % of the spare blocks used)
                   (Linux, drivers/mmc/core/mmc.c; JEDEC 84-B50, EXT_CSD 267 to 269)
    SD             device/type is SD; a card tells nothing of its wear
    other disks    sys/block, size in sectors, removable (Documentation/ABI/stable/sysfs-block)
    bytes written  stat, field 7, in sectors of 512 bytes (Documentation/block/stat.rst)
    errors         sys/fs/ext4/DEVICE/errors_count (Documentation/ABI/testing/sysfs-fs-ext4)

A file system that was mounted for writing and that the kernel made read-only says rw among the
options of its mount and ro among those of its super block.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.device.files import number, text
from appliance.device.health_file import DiskHealth
from appliance.device.reading import Disk

_SECTOR_BYTES = 512
_WORN = 2  # of pre_eol_info, from here on
_LIFE_STEPS = range(1, 12)  # 0x0b: past its life
_ROOMY_BYTES = 16 << 30  # a disk that is worth moving models to has at least so much
_BETTER_KINDS = {"nvme", "ssd", "usb"}


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo."""

    number: str  # of its device, "179:2"
    path: Path
    is_writable: bool  # as it was asked for
    is_super_writable: bool  # as the kernel lets it be
    source: str


def parse_mounts(mountinfo: str) -> list[Mount]:
    """All mounts, later ones last: of two on one folder the later hides the other."""
    found = []
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(rest) < 3:
            continue
        found.append(
            Mount(
                number=fields[2],
                path=Path(_unescaped(fields[4])),
                is_writable="rw" in fields[5].split(","),
                is_super_writable="rw" in rest[2].split(","),
                source=_unescaped(rest[1]),
            )
        )
    return found


def mount_of(folder: Path, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that `folder`, an absolute path, lies on."""
    holders = [mount for mount in mounts if mount.path == folder or mount.path in folder.parents]
    return max(reversed(holders), key=lambda mount: len(mount.path.parts), default=None)


def read_disks(
    root: Path, folders: Iterable[Path], health: Mapping[str, DiskHealth]
) -> tuple[Disk, ...]:
    """One entry per file system; folders that do not exist yet count as their nearest parent.

    health  by device, what the root-only probe found
    """
    mounts = parse_mounts(text(root / "proc/self/mountinfo") or "")
    found: dict[Path, Disk] = {}
    for folder in folders:
        existing = _existing(folder)
        mount = mount_of(existing, mounts)
        if mount is not None and mount.path not in found:
            try:
                room = os.statvfs(existing)
            except OSError:
                continue
            free, total = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
            found[mount.path] = _disk(root, mount, (free, total), health)
    return tuple(found.values())


def read_better_disks(root: Path) -> tuple[str, ...]:
    """Fast disks with room that stay in the box, whether anything of ours is on them or not."""
    found = []
    for link in sorted((root / "sys/block").glob("*")):
        size = (number(link / "size") or 0) * _SECTOR_BYTES
        if size >= _ROOMY_BYTES and not number(link / "removable"):
            device = link.resolve()
            if _kind(device) in _BETTER_KINDS:
                found.append(device.name)
    return tuple(found)


def _disk(
    root: Path, mount: Mount, room: tuple[int, int], health: Mapping[str, DiskHealth]
) -> Disk:
    """room  bytes free, and in all"""
    partition, device = _block_folders(root, mount.number)
    probed = health.get(device.name) if device else None
    life_used = _life_used(device)
    if life_used is None and probed is not None:
        life_used = probed.life_used
    written = _written(device)
    errors = number(root / "sys/fs/ext4" / partition.name / "errors_count") if partition else None
    return Disk(
        mount=mount.path,
        device=device.name if device else "",
        kind=_kind(device) if device else "other",
        free_bytes=room[0],
        total_bytes=room[1],
        life_used=life_used,
        is_worn=device is not None and (number(device / "device/pre_eol_info") or 0) >= _WORN,
        written_bytes=written,
        is_read_only=mount.is_writable and not mount.is_super_writable,
        errors=errors or 0,
        is_failing=probed is not None and probed.is_failing,
    )


def _block_folders(root: Path, device_number: str) -> tuple[Path | None, Path | None]:
    """The folders below /sys/block of a partition and of its whole device."""
    link = root / "sys/dev/block" / device_number
    if not link.exists():
        return None, None
    folder = link.resolve()
    return folder, folder.parent if (folder / "partition").exists() else folder


def _kind(device: Path) -> str:
    name = device.name
    if name.startswith("mmcblk"):
        return "sd" if text(device / "device/type") == "SD" else "emmc"
    if name.startswith("nvme"):
        return "nvme"
    if "/usb" in str(device):
        return "usb"
    if not name.startswith(("sd", "hd")):
        return "other"  # of a virtual machine's disks the kernel knows nothing
    return "hdd" if number(device / "queue/rotational") else "ssd"


def _life_used(device: Path | None) -> float | None:
    """The worse of the eMMC's two types of cells: at most so much of its life is used."""
    told = text(device / "device/life_time") if device else None
    if told is None or not re.fullmatch(r"0x[0-9a-fA-F]{2}( 0x[0-9a-fA-F]{2})*", told):
        return None
    steps = [int(value, 16) for value in told.split(" ")]
    return max((step / 10 for step in steps if step in _LIFE_STEPS), default=None)


def _written(device: Path | None) -> int | None:
    fields = (text(device / "stat") or "").split() if device else []
    return int(fields[6]) * _SECTOR_BYTES if len(fields) > 6 and fields[6].isdecimal() else None


def _existing(folder: Path) -> Path:
    folder = folder.resolve()
    return next((path for path in (folder, *folder.parents) if path.exists()), folder)


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
