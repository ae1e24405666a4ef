"""The wheels: Hearth's own, and all that it needs with the `llama` extra."""

import platform
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.release.errors import ReleaseError
from tools.release.pip import Pip

_SOURCES = ("appliance", "engine", "pyproject.toml", "README.md")
_GLIBC = (17, 24, 26, 27, 28, 31, 32, 33, 34, 35)  # of manylinux tags, up to Ubuntu 22.04's own
# Debian 12 and Raspberry Pi OS 12; Ubuntu 24.04; Debian 13: one wheelhouse for all of them.
PYTHONS = ("3.11", "3.12", "3.13")
_OLDEST = 11  # of the minor numbers: pyproject.toml says it to pip
_INTERPRETER = re.compile(r"cpython-(3\.\d+)\.\d+.*-(x86_64|aarch64)\S*linux-gnu.*\.tar\.\w+")


def build_hearth(root: Path, scratch: Path, pip: Pip) -> Path:
    """The wheel of this source tree, built from a copy: a stale build/ adds nothing to it."""
    copy, out = scratch / "source", scratch / "hearth"
    copy.mkdir()
    for name in _SOURCES:
        if (root / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(root / name, copy / name, ignore=ignore)
        else:
            shutil.copy2(root / name, copy / name)
    pip.run("wheel", "--quiet", "--no-deps", "-w", out, copy)
    (wheel,) = out.glob("hearth-*.whl")
    return wheel


def collect(
    folder: Path, mine: Path, engine: Path, pythons: Sequence[str], pip: Pip, machine: str
) -> list[str]:
    """Fill `folder` for `pythons`, like 3.11, on `machine`, like aarch64. Their numbers, the oldest
    first: what that one needs is what all of them get, in the same versions."""
    folder.mkdir()
    for wheel in (mine, engine):
        shutil.copy2(wheel, folder)
    oldest, *others = sorted({*pythons}, key=lambda text: [int(part) for part in text.split(".")])
    is_own = (oldest, machine) == (running(), platform.machine())
    words = [] if is_own else _words_for(oldest, machine)
    pip.run("download", "--quiet", "--only-binary", ":all:", "--find-links", folder, *words,
            "-d", folder, f"hearth[llama] @ {(folder / mine.name).as_uri()}")  # fmt: skip
    pinned = [
        f"{name}=={version}"
        for name, version in sorted({name_and_version(w) for w in folder.glob("*.whl")})
        if name not in {"hearth", "llama-cpp-python"}
    ]
    for python in others:
        pip.run("download", "--quiet", "--no-deps", "--only-binary", ":all:",
                *_words_for(python, machine), "-d", folder, *pinned)  # fmt: skip
    return [oldest, *others]


def running() -> str:
    """The Python that runs this, like 3.11."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _words_for(python: str, machine: str) -> list[str]:
    """What pip must be told to fetch for another Python, or another machine."""
    tags = [*(f"manylinux_2_{n}" for n in _GLIBC), "manylinux2014", "linux"]
    platforms = [f"--platform={tag}_{machine}" for tag in tags]
    return ["--implementation=cp", f"--python-version={python}", *platforms]


def name_and_version(wheel: Path) -> tuple[str, str]:
    """From a wheel's file name (PEP 427), the name as pip normalises it."""
    name, version, *_ = wheel.name.split("-")
    return re.sub(r"[-_.]+", "-", name).lower(), version


def python_of(archive: Path, machine: str) -> str:
    """The Python in an archive of an interpreter, like 3.11; raises ReleaseError if it is not one
    for `machine`."""
    found = _INTERPRETER.fullmatch(archive.name)
    if found is None or not archive.is_file():
        raise ReleaseError(
            f"{archive} is not an interpreter: fetch cpython-3.…-<machine>-unknown-linux-gnu-"
            "install_only.tar.gz of python-build-standalone"
        )
    if found[2] != machine:
        raise ReleaseError(f"{archive.name} is not for {machine}")
    if int(found[1].partition(".")[2]) < _OLDEST:
        raise ReleaseError(f"{archive.name} is Python {found[1]}, Hearth needs 3.{_OLDEST}")
    return found[1]


def add_interpreter(archive: Path, building: Path) -> None:
    """Copy the archive to where the installer looks for it."""
    (building / "interpreter").mkdir()
    shutil.copy2(archive, building / "interpreter")
