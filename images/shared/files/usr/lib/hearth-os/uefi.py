"""Two systems under UEFI: systemd-boot counts the tries of a new one in the name of its entry."""

import os
from pathlib import Path

TRIES = 2
ENTRIES = Path("/efi/EFI/Linux")
COUNTED = Path("/sys/firmware/efi/efivars/"
               "LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")  # fmt: skip
KERNEL = "boot/hearth.efi"


def is_here():
    # Early in a boot that is counted, /efi may not be mounted yet.
    return COUNTED.exists() or ENTRIES.is_dir()


def on_trial(running):
    """Whether this boot was counted and its count has not been taken off yet."""
    return COUNTED.exists() and not (ENTRIES / f"hearth_{running}.efi").exists()


def lines(running):
    for entry in sorted(ENTRIES.glob("hearth_*.efi")):
        yield f"entry     {entry.name}{' (running)' if version_of(entry) == running else ''}"


def forget(running):
    """Take out the entries of the free place, which is about to be written."""
    for entry in ENTRIES.glob("hearth_*.efi"):
        if version_of(entry) != running:
            entry.unlink()


def take(file, manifest, _write_part):
    """Tell the boot loader, as the last step: the name appears when the file is whole."""
    new = ENTRIES / "hearth.new"
    try:
        with new.open("wb") as target:
            target.writelines(file.chunks(KERNEL))
            target.flush()
            os.fsync(target.fileno())
        new.rename(ENTRIES / f"hearth_{manifest['version']}+{TRIES}.efi")
    finally:
        new.unlink(missing_ok=True)
    os.sync()


def begin():
    """systemd-boot has counted this start."""


def commit():
    """systemd-bless-boot takes the count off by itself, once boot-complete.target is reached."""


def given_up():
    """Versions that were started as often as they may be and never became good."""
    return [version_of(each) for each in sorted(ENTRIES.glob("hearth_*+0*.efi"))]


def leave():
    """systemd-boot knows what it tries next."""


def version_of(entry):
    """hearth_<version>[+<tries left>[-<tries done>]].efi, as systemd-boot counts."""
    return entry.name.removeprefix("hearth_").removesuffix(".efi").partition("+")[0]
