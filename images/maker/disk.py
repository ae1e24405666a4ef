"""Partitioned disks and FAT file systems as plain files."""

from pathlib import Path
from uuid import UUID, uuid5

from .board import Board
from .programs import run

NAMES = UUID("5f3c7f0e-41c6-4c0f-9d5b-6d1f6f2d8a10")  # of everything that an image names by number
_MIB = 1 << 20
_SECTOR = 512


def make_fat(image: Path, files: dict[str, Path], size_mib: int, label: str, epoch: int) -> None:
    """A FAT32 image that holds `files` (path inside -> file)."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size_mib * _MIB)
    clock = {"SOURCE_DATE_EPOCH": str(epoch), "MTOOLS_SKIP_CHECK": "1"}
    serial = uuid5(NAMES, label).hex[:8]
    run(["mformat", "-i", image, "-F", "-v", label, "-N", serial, "::"], extra=clock)
    folders = {str(up) for name in files for up in Path(name).parents if str(up) != "."}
    for folder in sorted(folders):
        run(["mmd", "-i", image, f"::{folder}"], extra=clock)
    for name, source in sorted(files.items()):
        run(["mcopy", "-i", image, source, f"::{name}"], extra=clock)


def assemble(disk: Path, board: Board, parts: dict[str, Path]) -> None:
    """The whole disk: a GPT as board.toml draws it, `parts` (what it holds -> image) in place."""
    lines = ["label: gpt", f"label-id: {uuid5(NAMES, board.name)}", "first-lba: 2048"]
    for each in board.partitions:
        uuid = uuid5(NAMES, f"{board.name} {each.name}")
        lines.append(f'size={each.size_mib}MiB, type={each.type}, name="{each.name}", uuid={uuid}')
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate((sum(each.size_mib for each in board.partitions) + 2) * _MIB)
    run(["sfdisk", "--quiet", disk], stdin="\n".join(lines))
    offset = _MIB
    for each in board.partitions:
        if each.holds in parts:
            _copy_sparse(parts[each.holds], disk, offset)
        offset += each.size_mib * _MIB


def _copy_sparse(source: Path, disk: Path, offset: int) -> None:
    """Copy what is not zero; the target is all zero."""
    with source.open("rb") as read, disk.open("r+b") as write:
        while block := read.read(_MIB):
            if block.count(0) != len(block):
                write.seek(offset)
                write.write(block)
            offset += len(block)
