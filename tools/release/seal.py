"""Hashes over everything, the signature over the hashes, and the folder as one file."""

import hashlib
import os
import subprocess
import tarfile
import time
from pathlib import Path

from tools.release.errors import ReleaseError

SUMS, SIGNATURE, PUBLIC = "SHA256SUMS", "SHA256SUMS.sig", "release.pub"


def seal(folder: Path, key: Path | None) -> None:
    """Write SHA256SUMS (the format of sha256sum) and, with a key, its signature. The public key
    lies among the files, so a release that one key signs may bring the next one."""
    if key is not None:
        _openssl("pkey", "-in", str(key), "-pubout", "-out", str(folder / PUBLIC))
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names
    ]
    (folder / SUMS).write_text("".join(lines))
    if key is not None:
        _openssl("pkeyutl", "-sign", "-rawin", "-inkey", str(key), "-in", str(folder / SUMS),
                 "-out", str(folder / SIGNATURE))  # fmt: skip


def tar(folder: Path, target: Path) -> Path:
    """The folder as a tar: sorted, owned by root, of one moment (SOURCE_DATE_EPOCH, else now)."""
    moment = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        info.mtime = moment
        info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
        return info

    half = target.with_name(f".{target.name}.{os.getpid()}")
    with tarfile.open(half, "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in [folder, *sorted(folder.rglob("*"))]:
            name = str(path.relative_to(folder.parent))
            archive.add(path, name, recursive=False, filter=plain)
    half.rename(target)
    return target


def _openssl(*arguments: str) -> None:
    done = subprocess.run(
        ["openssl", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
        check=False,
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ReleaseError(
            f"openssl {arguments[0]} failed ({said}); the key is made by"
            " `openssl genpkey -algorithm ed25519 -out release.key`"
        )
