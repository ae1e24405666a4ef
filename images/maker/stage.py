"""The part of a build that must own its files as root: from Debian's archive to a root file system.

Run as a program of its own, under `unshare` where the caller is not root:
stage.py WORK BASE BOARD WHEELHOUSE VERSION EPOCH; it leaves root.ext4, boot/ and sbom.json in WORK.
"""

import os
import shutil
import sys
from pathlib import Path
from uuid import UUID, uuid5

sys.path.insert(0, str(Path(__file__).parents[2]))

from images.maker import board as boards
from images.maker import ext4, initramfs, sbom
from images.maker.disk import NAMES
from images.maker.programs import BuildError, run


def root_uuid(board: str, version: str) -> UUID:
    """The number by which a kernel finds the root file system that it was built with."""
    return uuid5(NAMES, f"{board} root {version}")


def build(work: Path, base: Path, board: boards.Board, wheels: Path, version: str, epoch: int):
    root = work / "root"
    root.mkdir()
    try:
        # Nodes cannot be made in a user namespace, and the kernel makes those of /dev itself.
        run(["tar", "-C", root, "-xf", base, "--numeric-owner", "--exclude=./dev/*"])
        for hook in sorted((boards.SHARED / "hooks").glob("*.sh")):
            run(["bash", hook, root], extra={
                "BOARD": board.name, "IMAGES": str(boards.IMAGES), "VERSION": version,
                "WHEELHOUSE": str(wheels), "PYTHON": sys.executable, "ARCH": board.architecture,
                "SOURCE_DATE_EPOCH": str(epoch),
            })  # fmt: skip
        _keep_boot_files(root, work / "boot", board, epoch)
        name = f"hearth-{board.name}"
        (work / "sbom.json").write_text(sbom.document(root, name, version, epoch))
        size = board.size_mib("root")
        ext4.make_root(work / "root.ext4", root, size, root_uuid(board.name, version), epoch)
    finally:
        shutil.rmtree(root)


def _keep_boot_files(root: Path, boot: Path, board: boards.Board, epoch: int) -> None:
    """What the boot partition is made of; the root itself needs none of it."""
    boot.mkdir()
    kernel = initramfs.kernel_version(root)
    shutil.move(root / f"boot/vmlinuz-{kernel}", boot / "vmlinuz")
    init = boards.SHARED / "initramfs/init"
    (boot / "initrd").write_bytes(initramfs.make(root, init, board.modules, epoch))
    shutil.copy(root / "usr/lib/os-release", boot / "os-release")
    for name in ("usr/lib/systemd/boot/efi", f"usr/lib/linux-image-{kernel}/broadcom"):
        if (root / name).exists():
            shutil.copytree(root / name, boot / Path(name).name)
    for left in (root / "boot").iterdir():
        if not left.is_dir():  # one where a partition will appear
            left.unlink()
    os.utime(root / "boot", (epoch, epoch))


if __name__ == "__main__":
    _work, _base, _board, _wheels, _version, _epoch = sys.argv[1:]
    try:
        build(Path(_work), Path(_base), boards.load(_board), Path(_wheels), _version, int(_epoch))
    except BuildError as error:
        sys.exit(str(error))
