"""One image from start to end: packages, root, boot files, disk, update file, checksums."""

import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from . import base, disk, ext4, stage, uki
from .board import Board
from .programs import BuildError, as_root, require, run

_PYTHON = (3, 11)  # of Debian 12: byte code is written here and read there


def build(board: Board, out: Path, wheels: Path, version: str, epoch: int, *, fresh: bool) -> Path:
    """Build the image of `board` into `out`; its path. The update file, the parts list and the
    checksums lie beside it. Raises BuildError."""
    if sys.version_info[:2] != _PYTHON:
        raise BuildError(f"needs Debian 12's Python 3.11; this is {sys.version.split()[0]}")
    if not (wheels / "RELEASE").is_file():
        raise BuildError(f"{wheels} is no wheelhouse; make one with: "
                         f"tools/wheelhouse --arch {board.architecture}")  # fmt: skip
    require(board.architecture, board.scheme)
    out.mkdir(parents=True, exist_ok=True)
    debian = base.archive(board, epoch, fresh=fresh)
    with tempfile.TemporaryDirectory(dir=out, prefix=".work-") as folder:
        work = Path(folder)
        work.chmod(0o755)
        run([*as_root(), sys.executable, Path(stage.__file__), work, debian, board.name, wheels,
             version, str(epoch)])  # fmt: skip
        return _finish(board, out, work, version, epoch)


def _finish(board: Board, out: Path, work: Path, version: str, epoch: int) -> Path:
    name = f"hearth-{board.name}-{version}"
    image, update, parts = (out / f"{name}.{each}" for each in ("img", "update", "cdx.json"))
    files = boot_files(board, work, version)
    fats = {"boot": files} if board.scheme == "uefi" else {"boot": files, "select": _select(board)}
    for number, (holds, inside) in enumerate(sorted(fats.items())):
        label = f"HEARTHOS{number}"
        size = board.size_mib(holds)
        disk.make_fat(work / f"{holds}.fat", inside, size, label, epoch)
    ext4.make_data(work / "data.ext4", board.size_mib("data"), _data_uuid(board), epoch)
    contents = {holds: work / f"{holds}.fat" for holds in fats}
    contents |= {"root": work / "root.ext4", "data": work / "data.ext4"}
    disk.assemble(work / "disk", board, contents)
    _write_update(update, board, work, files, version, epoch)
    shutil.move(work / "sbom.json", parts)
    (work / "disk").rename(image)
    sums = "".join(f"{_sha256(each)}  {each.name}\n" for each in (image, update, parts))
    (out / f"{name}.sha256").write_text(sums)
    return image


def boot_files(board: Board, work: Path, version: str) -> dict[str, Path]:
    """What the boot partition holds: path inside -> file."""
    boot = work / "boot"
    # Without "ro", systemd-gpt-auto-generator has the root remounted for writing.
    words = f"hearth.root={stage.root_uuid(board.name, version)} ro {board.cmdline}"
    (boot / "cmdline").write_text(words)
    if board.scheme == "tryboot":
        (boot / "cmdline.txt").write_text(words + "\n")
        trees = {f"{each.name}": each for each in (boot / "broadcom").glob("bcm2*.dtb")}
        own = {name: boot / name for name in ("vmlinuz", "initrd", "cmdline.txt")}
        return {**trees, **own, "config.txt": board.folder / "config.txt"}
    efi = boot / "efi"
    parts = {".osrel": boot / "os-release", ".cmdline": boot / "cmdline",
             ".initrd": boot / "initrd", ".linux": boot / "vmlinuz"}  # fmt: skip
    uki.make(boot / "hearth.efi", efi / "linuxx64.efi.stub", parts)
    return {
        "EFI/BOOT/BOOTX64.EFI": efi / "systemd-bootx64.efi",
        f"EFI/Linux/hearth_{version}.efi": boot / "hearth.efi",
        "loader/loader.conf": board.folder / "loader.conf",
    }


def _select(board: Board) -> dict[str, Path]:
    return {"autoboot.txt": board.folder / "autoboot.txt"}


def _write_update(
    target: Path, board: Board, work: Path, files: dict[str, Path], version: str, epoch: int
) -> None:
    """What `hearth-os update` reads: a tar of manifest.json, boot/ and root.ext4.zst, in order."""
    root, packed = work / "root.ext4", work / "root.ext4.zst"
    run(["zstd", "--quiet", "-T0", "-6", "-f", root, "-o", packed])
    kept = {"hearth.efi": work / "boot/hearth.efi"} if board.scheme == "uefi" else files
    manifest = {
        "board": board.name, "version": version,
        "root": {"bytes": root.stat().st_size, "sha256": _sha256(root)},
        "boot": {name: _sha256(file) for name, file in sorted(kept.items())},
    }  # fmt: skip
    (work / "manifest.json").write_text(json.dumps(manifest, indent=1))
    members = {"manifest.json": work / "manifest.json"}
    members |= {f"boot/{name}": file for name, file in sorted(kept.items())}
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, file in {**members, "root.ext4.zst": packed}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = file.stat().st_size, epoch
            with file.open("rb") as content:
                archive.addfile(entry, content)


def _data_uuid(board: Board):
    return disk.uuid5(disk.NAMES, f"{board.name} data")


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
