"""Debian's part of a root, as an archive that is made once per list of packages and kept."""

import fcntl
import hashlib
import os
from pathlib import Path

from .board import Board
from .programs import run

_KEPT = 4
_EXCLUDED = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*")


def cache() -> Path:
    """Where archives stay between builds."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hearth-images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def archive(board: Board, epoch: int, *, fresh: bool) -> Path:
    """The archive for `board`: from the cache, or made by mmdebstrap (minutes, needs Debian)."""
    words = _words(board)
    key = hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
    target = cache() / f"base-{board.architecture}-{key}.tar"
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if fresh or not target.exists():
            making = target.with_suffix(".making")
            # INITRD: Debian's own initramfs would take a minute, and is not used.
            run([*words, board.suite, "--format=tar", making, *board.apt],
                extra={"INITRD": "No", "SOURCE_DATE_EPOCH": str(epoch)})  # fmt: skip
            making.rename(target)
    os.utime(target)
    _forget_oldest()
    return target


def _words(board: Board) -> list[str]:
    return [
        "mmdebstrap", "--quiet", "--variant=minbase", f"--architectures={board.architecture}",
        f"--include={','.join(board.packages)}",
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={each}" for each in _EXCLUDED),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    ]  # fmt: skip


def _forget_oldest() -> None:
    archives = sorted(cache().glob("base-*.tar"), key=lambda each: each.stat().st_mtime)
    for each in archives[:-_KEPT]:
        each.unlink()
