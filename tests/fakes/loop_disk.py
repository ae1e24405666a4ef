"""Small file systems of their own, as root: one that can lose its power, and one that gets full."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

# what a power cut does most harm to: no early writing of replaced files, data in any order
TRIES = 50  # of a copy until nothing was written meanwhile
HARSH = "noauto_da_alloc,data=writeback,commit=1"


def require_root(*programs):
    """Skips loudly, except in CI as root, where it must be possible."""
    missing = [program for program in programs if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs root and {', '.join(programs)} (missing: {', '.join(missing) or '-'})")


class LoopDisk:
    """An ext4 file system in a file below `folder`, mounted at `mount`."""

    def __init__(self, folder, mib):
        self.image, self.mount = folder / "disk.img", folder / "disk"
        self._mib = mib

    def __enter__(self):
        require_root("mkfs.ext4", "mount", "findmnt")
        with self.image.open("wb") as file:
            file.truncate(self._mib << 20)
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)
        mount_image(self.image, self.mount, HARSH)
        source = run("findmnt", "-n", "-o", "SOURCE", "--target", self.mount)
        self.device = Path(source.strip()).name
        return self

    def __exit__(self, *_):
        unmount(self.mount)

    def cut(self, copy, writer):
        """What the disk holds at this moment, without what the kernel has not written yet.

        `copy` is a new file each time: a loop device that is not quite gone would be used again for
        a file that it knows, and show blocks of the cut before from the kernel's memory.
        The process `writer` stands still meanwhile, and a copy during which the kernel itself
        wrote is made again: a mix of two moments is something that no power cut leaves.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(writer, signal.SIGSTOP)
        try:
            for _ in range(TRIES):
                before = self._writes()
                shutil.copyfile(self.image, copy)
                if before == self._writes() and before["in_flight"] == 0:
                    return
            raise AssertionError(f"the disk is never still: {before}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(writer, signal.SIGCONT)

    def _writes(self):
        """Requests to the loop device so far, and under way (Documentation/block/stat.rst)."""
        fields = (Path("/sys/block") / self.device / "stat").read_text().split()
        writes, in_flight, flushes = fields[4], fields[8], fields[15] if len(fields) > 15 else 0
        return {"writes": writes, "in_flight": int(in_flight), "flushes": flushes}


@contextlib.contextmanager
def mounted(image, mount):
    """The file system after the power came back: the journal is replayed."""
    mount_image(image, mount, "defaults")
    try:
        yield mount
    finally:
        unmount(mount)


@contextlib.contextmanager
def small_disk(folder, mib):
    """A tmpfs of that size."""
    require_root("mount")
    mount = folder / "small"
    mount.mkdir()
    attempt = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", mount],
        capture_output=True,
        text=True,
    )
    if attempt.returncode:
        pytest.skip(f"no file system can be mounted here: {attempt.stderr.strip()}")
    try:
        yield mount
    finally:
        unmount(mount)


def fill(path):
    """Use up every byte of the disk that `path` is on."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def mount_image(image, mount, options):
    Path(mount).mkdir(exist_ok=True)
    attempt = subprocess.run(
        ["mount", "-o", f"loop,{options}", image, mount], capture_output=True, text=True
    )
    if attempt.returncode:
        pytest.skip(f"no file system can be mounted here: {attempt.stderr.strip()}")


def unmount(mount):
    """A process that was just killed may hold it for a moment."""
    for _ in range(200):
        if subprocess.run(["umount", mount], capture_output=True).returncode == 0:
            return
        time.sleep(0.05)
    run("umount", mount)


def run(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
