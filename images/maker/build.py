"""One image from start to end: packages, root, boot files, disk, update file, checksums."""

import shutil
import sys
import tempfile
from pathlib import Path

from . import base, disk, ext4, stage, uki, update
from .board import Board
from .programs import BuildError, as_root, require, run

BOOT_LABEL = "OS-HEARTH"  # and a number; what begins with HEARTH is a stick with models (udev rule)
_PYTHON = (3, 11)  # of Debian 12: byte code is written here and read there


def build(
    board: Board, out: Path, wheels: Path, version: str, epoch: int, *, fresh: bool,
    key: Path | None = None,
) -> Path:  # fmt: skip
    """Build the image of `board` into `out`; its path. The update file, signed by `key`, the parts
    list and the checksums lie beside it. Raises BuildError."""
    if sys.version_info[:2] != _PYTHON:
        raise BuildError(f"needs Debian 12's Python 3.11; this is {sys.version.split()[0]}")
    if not (wheels / "RELEASE").is_file():
        raise BuildError(f"{wheels} is no wheelhouse; make one with: "
                         f"tools/wheelhouse --arch {board.architecture}")  # fmt: skip
    if key and not (wheels / "release.pub").is_file():
        raise BuildError(f"{wheels} is not signed, so boxes would trust no key; make it with: "
                         f"tools/wheelhouse --arch {board.architecture} --sign {key}")  # fmt: skip
    require(board.architecture, board.scheme)
    out.mkdir(parents=True, exist_ok=True)
    debian = base.archive(board, epoch, fresh=fresh)
    with tempfile.TemporaryDirectory(dir=out, prefix=".work-") as folder:
        work = Path(folder)
        work.chmod(0o755)
        run([*as_root(), sys.executable, Path(stage.__file__), work, debian, board.name, wheels,
             version, str(epoch)])  # fmt: skip
        return _finish(board, out, work, version, epoch, key)


def _finish(
    board: Board, out: Path, work: Path, version: str, epoch: int, key: Path | None
) -> Path:
    name = f"hearth-{board.name}-{version}"
    image, offer, parts = (out / f"{name}.{each}" for each in ("img", "update", "cdx.json"))
    files = boot_files(board, work, version)
    fats = {"boot": files} if board.scheme == "uefi" else {"boot": files, "select": _select(board)}
    for number, (holds, inside) in enumerate(sorted(fats.items())):
        size = board.size_mib(holds)
        disk.make_fat(work / f"{holds}.fat", inside, size, f"{BOOT_LABEL}{number}", epoch)
    ext4.make_data(work / "data.ext4", board.size_mib("data"), _data_uuid(board), epoch)
    contents = {holds: work / f"{holds}.fat" for holds in fats}
    contents |= {"root": work / "root.ext4", "data": work / "data.ext4"}
    disk.assemble(work / "disk", board, contents)
    facts = {"board": board.name, "version": version}
    systems = {"root": work / "root.ext4"}
    if board.scheme == "uefi":
        kernels = {"boot/hearth.efi": work / "boot/hearth.efi"}
    else:  # the whole partition: the firmware finds there what belongs to the root
        kernels, systems = {}, {**systems, "boot": work / "boot.fat"}
    update.write(offer, facts, systems, kernels, epoch, key)
    shutil.move(work / "sbom.json", parts)
    (work / "disk").rename(image)
    sums = "".join(f"{update.sha256(each)}  {each.name}\n" for each in (image, offer, parts))
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


def _data_uuid(board: Board):
    return disk.uuid5(disk.NAMES, f"{board.name} data")
