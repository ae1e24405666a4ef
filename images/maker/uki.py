"""A unified kernel image: kernel, initramfs, command line and os-release in one EFI program.

Format: systemd's "Unified Kernel Image" specification; the parts are sections that the stub finds.
"""

import re
from pathlib import Path

from .programs import run

_ALIGN = 0x10000


def make(target: Path, stub: Path, parts: dict[str, Path]) -> None:
    """Write `target` from systemd's `stub` and `parts` (section name -> file), kernel last."""
    address = _aligned(_end_of(stub))
    words: list[str | Path] = ["objcopy", "--enable-deterministic-archives"]
    for section, file in parts.items():
        words += ["--add-section", f"{section}={file}",
                  "--change-section-vma", f"{section}={address:#x}"]  # fmt: skip
        # The stub of systemd 252 unpacks the kernel in place: what follows it must be far away.
        room = 4 * file.stat().st_size if section == ".linux" else file.stat().st_size
        address = _aligned(address + room)
    run([*words, stub, target])
    _forget_time(target)


def _forget_time(target: Path) -> None:
    """objcopy writes the time of day into the PE header, and a checksum over it: both become 0."""
    with target.open("r+b") as file:
        file.seek(0x3C)
        start = int.from_bytes(file.read(4), "little")
        for offset in (8, 88):  # TimeDateStamp, CheckSum: four bytes each
            file.seek(start + offset)
            file.write(bytes(4))


def _end_of(stub: Path) -> int:
    sections = re.findall(r"^\s*\d+ \S+\s+([0-9a-f]+)\s+([0-9a-f]+)", run(["objdump", "-h", stub]),
                          re.MULTILINE)  # fmt: skip
    return max(int(size, 16) + int(start, 16) for size, start in sections)


def _aligned(address: int) -> int:
    return -(-address // _ALIGN) * _ALIGN + _ALIGN
