"""ext4 file systems from folders, the same bytes from the same files and times."""

import re
from pathlib import Path
from uuid import UUID

from .programs import BuildError, run

_BLOCK = 4096
_INODE = 256
_INODES_SPARE = 64  # of the file system's own, and for an administrator's debugfs
_GROWS_TO = (1 << 40) // _BLOCK  # the data partition may grow to a tebibyte while it is mounted


def make_root(image: Path, folder: Path, size_mib: int, uuid: UUID, epoch: int) -> None:
    """`folder` as a file system that is only ever read: no journal, no reserve, and no larger than
    it must be, since an update writes all of it. Raises BuildError if it takes over `size_mib`."""
    inodes, needed_mib = _extent(folder)
    if needed_mib > size_mib:
        raise BuildError(f"the root takes {needed_mib} MiB, board.toml gives it {size_mib}")
    options = ["-m", "0", "-O", "^has_journal,^resize_inode", "-E", f"hash_seed={uuid}"]
    _make(image, needed_mib, uuid, epoch, [*options, "-N", str(inodes), "-d", folder])
    _set_times(image, epoch)


def make_data(image: Path, size_mib: int, uuid: UUID, epoch: int) -> None:
    """An empty file system that can grow a thousandfold."""
    options = ["-m", "1", "-i", "65536", "-L", "hearth-data"]
    grown = f"hash_seed={uuid},root_owner=0:0,resize={_GROWS_TO}"
    _make(image, size_mib, uuid, epoch, [*options, "-E", grown])


def _extent(folder: Path) -> tuple[int, int]:
    """(inodes, MiB) of a file system that holds `folder`."""
    sizes = {}
    for path in (folder, *folder.rglob("*")):
        facts = path.lstat()
        sizes[facts.st_ino] = facts.st_size  # a file of many names is stored once
    inodes = len(sizes) + _INODES_SPARE
    blocks = sum(-(-size // _BLOCK) for size in sizes.values()) + inodes * _INODE // _BLOCK
    return inodes, blocks * _BLOCK * 102 // 100 // (1 << 20) + 8  # and its maps


def _make(image: Path, size_mib: int, uuid: UUID, epoch: int, options: list) -> None:
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    run(["mke2fs", "-q", "-t", "ext4", "-b", str(_BLOCK), "-U", str(uuid), *options, image],
        extra=_clock(epoch))  # fmt: skip


def _set_times(image: Path, epoch: int) -> None:
    """Give every inode the times of the build: mke2fs takes over the change times of the source."""
    header = run(["debugfs", "-R", "show_super_stats -h", image])
    total, free = (int(re.search(rf"^{name}:\s+(\d+)", header, re.MULTILINE)[1])
                   for name in ("Inode count", "Free inodes"))  # fmt: skip
    # A new file system gives out its inodes in order; 1 and 3 to 10 are its own.
    inodes = [2, *range(11, total - free + 1)]
    lines = [f"sif <{inode}> {name} @{epoch}" for inode in inodes for name in ("ctime", "atime")]
    run(["debugfs", "-w", "-f", "-", image], stdin="\n".join(lines), extra=_clock(epoch))


def _clock(epoch: int) -> dict[str, str]:
    return {"E2FSPROGS_FAKE_TIME": str(epoch)}
