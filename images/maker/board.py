"""What `images/<board>/board.toml` says; unknown or missing words are errors."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .programs import BuildError

IMAGES = Path(__file__).parents[1]
SHARED = IMAGES / "shared"
_SCHEMES = ("uefi", "tryboot")


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition, in the order of the disk.

    holds: "select", "boot", "root", "data", or "spare" (the other system's place, empty)
    """

    name: str
    type: str
    size_mib: int
    holds: str


@dataclass(frozen=True, slots=True)
class Board:
    name: str
    architecture: str  # as Debian says it
    suite: str
    scheme: str  # how two systems take turns: "uefi" or "tryboot"
    packages: tuple[str, ...]
    modules: tuple[str, ...]  # of the kernel, in the initramfs
    cmdline: str
    apt: tuple[str, ...]  # more lines for mmdebstrap (the board vendor's archive)
    partitions: tuple[Partition, ...]

    @property
    def folder(self) -> Path:
        return IMAGES / self.name

    def size_mib(self, holds: str) -> int:
        return next(each.size_mib for each in self.partitions if each.holds == holds)


def names() -> list[str]:
    """The boards that have an image."""
    return sorted(each.parent.name for each in IMAGES.glob("*/board.toml"))


def load(name: str) -> Board:
    """The board `name`. Raises BuildError if there is none or its file is wrong."""
    if name not in names():
        hint = " (jetson is an overlay: see images/jetson/README.md)" if name == "jetson" else ""
        raise BuildError(f"no board '{name}'{hint}; boards: {', '.join(names())}")
    file = IMAGES / name / "board.toml"
    try:
        document = tomllib.loads(file.read_text())
        shared = tuple((SHARED / "packages").read_text().split())
        board = _parsed(name, document, shared)
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise BuildError(f"{file}: {type(error).__name__}: {error}") from error
    if board.scheme not in _SCHEMES:
        raise BuildError(f"{file}: scheme '{board.scheme}'; known: {', '.join(_SCHEMES)}")
    return board


def _parsed(name: str, document: dict[str, Any], shared: tuple[str, ...]) -> Board:
    partitions = tuple(Partition(**each) for each in document.pop("partitions"))
    packages = tuple(sorted({*shared, *document.pop("packages")}))
    return Board(
        name=name, partitions=partitions, packages=packages,
        modules=tuple(document.pop("modules")), apt=tuple(document.pop("apt")), **document,
    )  # fmt: skip
