"""The initramfs: busybox, our init and the kernel modules that lead to the disk.

Written here, not by Debian's scripts inside the root: the same bytes from the same root,
in a second, also for a machine whose programs this one cannot run.
"""

import gzip
import re
from dataclasses import dataclass, field
from pathlib import Path

from .programs import BuildError

_FILE, _FOLDER, _NODE = 0o100000, 0o040000, 0o020000
_CONSOLE = (5, 1)


@dataclass(slots=True)
class _Archive:
    """A cpio archive as the kernel reads it (its Documentation: initramfs buffer format)."""

    epoch: int
    data: bytearray = field(default_factory=bytearray)
    entries: int = 0

    def add(self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)):
        self.entries += 1
        words = (self.entries, mode, 0, 0, 1, self.epoch, len(content), 0, 0, *device,
                 len(name) + 1, 0)  # fmt: skip
        header = "070701" + "".join(f"{each:08X}" for each in words)
        self._append(header.encode() + name.encode() + b"\0")
        self._append(content)

    def end(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return bytes(self.data)

    def _append(self, part: bytes) -> None:
        self.data += part + b"\0" * (-len(part) % 4)


def kernel_version(root: Path) -> str:
    """The one kernel that `root` has modules of."""
    found = sorted(each.name for each in (root / "usr/lib/modules").iterdir())
    if len(found) != 1:
        raise BuildError(f"the root has {len(found)} kernels ({', '.join(found)}); one is needed")
    return found[0]


def make(root: Path, init: Path, modules: tuple[str, ...], epoch: int) -> bytes:
    """A compressed initramfs for the kernel in `root`. Raises BuildError for an unknown module."""
    library = root / "usr/lib/modules" / kernel_version(root)
    inside = f"usr/lib/modules/{library.name}"
    files = _with_needs(library, modules)
    contents = {f"{inside}/{each}": (library / each).read_bytes() for each in files}
    contents |= {f"{inside}/{name}": text for name, text in _indexes(library, files).items()}
    archive = _Archive(epoch)
    folders = {str(up) for name in contents for up in Path(name).parents if str(up) != "."}
    for folder in sorted({*folders, "bin", "dev"}):
        archive.add(folder, _FOLDER | 0o755)
    archive.add("dev/console", _NODE | 0o600, device=_CONSOLE)
    archive.add("lib", 0o120777, b"usr/lib")
    archive.add("init", _FILE | 0o755, init.read_bytes())
    archive.add("bin/busybox", _FILE | 0o755, (root / "usr/bin/busybox").read_bytes())
    for name, content in sorted(contents.items()):
        archive.add(name, _FILE | 0o644, content)
    return gzip.compress(archive.end(), compresslevel=6, mtime=0)


def _with_needs(library: Path, modules: tuple[str, ...]) -> list[str]:
    """Paths of these modules and of all that they need."""
    needs = {}
    for line in (library / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {_name(path): path for path in needs}
    built_in = {_name(line) for line in (library / "modules.builtin").read_text().splitlines()}
    soft = _soft_needs(library)
    found, waiting = set(), list(modules)
    while waiting:
        name = waiting.pop().replace("-", "_")
        path = by_name.get(name)
        if path is None and name in modules and name not in built_in:
            raise BuildError(f"kernel {library.name} has no module '{name}' (board.toml)")
        if path is not None and path not in found:
            found.add(path)
            waiting += [*map(_name, needs[path]), *soft.get(name, ())]
    return sorted(found)


def _soft_needs(library: Path) -> dict[str, list[str]]:
    needs: dict[str, list[str]] = {}
    for line in (library / "modules.softdep").read_text().splitlines():
        if match := re.match(r"softdep (\S+) pre: (.*?)(?: post:.*)?$", line):
            needs.setdefault(match[1].replace("-", "_"), []).extend(match[2].split())
    return needs


def _indexes(library: Path, files: list[str]) -> dict[str, bytes]:
    """What modprobe reads, for these modules alone."""
    names = {_name(each) for each in files}
    dependencies = [
        line for line in (library / "modules.dep").read_text().splitlines()
        if line.partition(":")[0] in files
    ]  # fmt: skip
    aliases = [
        line for line in (library / "modules.alias").read_text().splitlines()
        if line.rpartition(" ")[2] in names
    ]  # fmt: skip
    texts = {"modules.dep": dependencies, "modules.alias": aliases, "modules.symbols": []}
    indexes = {name: "".join(f"{line}\n" for line in lines) for name, lines in texts.items()}
    return {name: text.encode() for name, text in indexes.items()}


def _name(path: str) -> str:
    return Path(path).name.partition(".ko")[0].replace("-", "_")
