"""Media that misbehave: a disk that fails when it is told to, and small real filesystems."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from appliance.bundles.confined import Disk

EIO = OSError(5, "Input/output error")


class PulledDisk(Disk):
    """Gives `budget` bytes, then fails as a stick does that was pulled out."""

    def __init__(self, budget):
        self.budget = budget
        self.bytes_read = 0

    def read(self, file, count, offset):
        if self.bytes_read >= self.budget:
            raise EIO
        data = super().read(file, count, offset)
        self.bytes_read += len(data)
        return data


class DyingDisk(Disk):
    """Fails at the n-th change, and from then on."""

    def __init__(self, calls):
        self.left = calls

    def _count(self):
        self.left -= 1
        if self.left < 0:
            raise EIO

    def write(self, file, data):
        self._count()
        return super().write(file, data)

    def sync(self, file):
        self._count()
        super().sync(file)

    def rename(self, old, new, folder):
        self._count()
        super().rename(old, new, folder)


@contextlib.contextmanager
def small_filesystem(folder: Path, size: str, *options):
    """A tmpfs of `size` at `folder`; skips the test where that takes more rights than we have."""
    folder.mkdir(parents=True, exist_ok=True)
    joined = ",".join([f"size={size}", *options])
    command = ["mount", "-t", "tmpfs", "-o", joined, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("NOT TESTED: a full disk; needs root and a mountable tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
