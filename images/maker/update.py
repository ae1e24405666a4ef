"""The update file that boxes with an older image take: the new system, hashed and signed.

Read by update_file.py of shared/files/usr/lib/hearth-os. Signed as releases are
(tools/release/seal.py).
"""

import hashlib
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from .programs import run


def write(
    target: Path, facts: Mapping[str, str], systems: Mapping[str, Path], files: Mapping[str, Path],
    epoch: int, key: Path | None,
) -> None:  # fmt: skip
    """Write `target`: a tar of the sums, their signature by `key` (none without one), the manifest,
    `files` by their names, and file systems, packed.

    facts: board and version. systems: its name in the manifest -> image. Raises BuildError.
    """
    with TemporaryDirectory(dir=target.parent, prefix=".update-") as folder:
        work = Path(folder)
        packed = {f"{file.name}.zst": _packed(file, work) for file in systems.values()}
        digests = {
            name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
            for name, file in systems.items()
        }
        (work / "manifest.json").write_text(json.dumps({**facts, **digests}, indent=1))
        members = {"manifest.json": work / "manifest.json", **files, **packed}
        sums = "".join(f"{sha256(file)}  {name}\n" for name, file in members.items())
        (work / "SHA256SUMS").write_text(sums)
        sealed = ["SHA256SUMS"]
        if key is not None:
            run(["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", key, "-in",
                 work / "SHA256SUMS", "-out", work / "SHA256SUMS.sig"])  # fmt: skip
            sealed.append("SHA256SUMS.sig")
        _write_tar(target, {**{name: work / name for name in sealed}, **members}, epoch)


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _packed(file: Path, folder: Path) -> Path:
    packed = folder / f"{file.name}.zst"
    run(["zstd", "--quiet", "-T0", "-6", file, "-o", packed])
    return packed


def _write_tar(target: Path, members: Mapping[str, Path], epoch: int) -> None:
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, file in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = file.stat().st_size, epoch
            with file.open("rb") as content:
                archive.addfile(entry, content)
