"""Room on the disk of the models: what must stay free, and no byte is taken where it would not.

A full disk harms everything on a box, so a part of it is never given to models. Who wants to bring
bytes asks first, once, for all of them.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from appliance.library.blobs import disk_full, make_folders

MIB = 1 << 20
LEAST_BYTES = 2 << 30
SHARE = 20  # a twentieth of the disk stays free, and no less than the least
MOST_SHARE = 4  # though of a small disk no more than a quarter

MakeRoom = Callable[[int], None]  # is told how many bytes are missing


def reserve_bytes(disk_bytes: int, reserve_mib: int | None) -> int:
    """What of a disk of that size models leave free; None: what suits its size."""
    if reserve_mib is not None:
        return reserve_mib * MIB
    return min(max(LEAST_BYTES, disk_bytes // SHARE), disk_bytes // MOST_SHARE)


class Space:
    """The disk below one folder. Blocking; safe for threads."""

    def __init__(self, folder: Path, reserve_mib: int | None = None) -> None:
        self.folder = folder
        self._reserve_mib = reserve_mib
        self.make_room: MakeRoom = lambda _: None  # called before a refusal

    def require(self, wanted: int, what: str) -> None:
        """Raise DiskFullError with the exact bytes unless `wanted` may be taken for `what`."""
        make_folders(self.folder)
        for is_last in (False, True):
            disk = shutil.disk_usage(self.folder)
            kept = self.reserve(disk.total)
            if (missing := wanted + kept - disk.free) <= 0:
                return
            if not is_last:
                self.make_room(missing)
        needs = f"{what} needs {wanted} bytes and" if wanted else f"{what} is refused:"
        raise disk_full(
            f"{needs} {kept} must stay free (disk_reserve_mib), the disk has {disk.free}"
        )

    def missing(self) -> int:
        """Bytes that must become free again for the reserve to be whole; 0 or less: none."""
        make_folders(self.folder)
        disk = shutil.disk_usage(self.folder)
        return self.reserve(disk.total) - disk.free

    def reserve(self, disk_bytes: int) -> int:
        return reserve_bytes(disk_bytes, self._reserve_mib)
