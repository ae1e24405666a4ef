"""A folder whose content changes as one: after a crash at any moment it is the old or the new.

    states/<n>/     complete sets of files; never changed once they have their name
    floor.json      the commit point: names the state that counts, and what it proved
    floor.json.bak  the same, written second; either copy suffices
    lock            one writer at a time, across processes

Knows names, bytes and the order of writes; nothing of signatures.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from appliance.errors import DiskFullError, LibraryError
from appliance.library.blobs import fsync_folder, make_folders
from appliance.trust.floor import Floor

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAX_FLOOR_BYTES = 1 << 20
_READ_TRIES = 5


class Disk:
    """Every change to the disk, one method each, so that a test can stop after any of them."""

    def make_folder(self, path: Path) -> None:
        make_folders(path)

    def write(self, path: Path, data: bytes) -> None:
        """Create or replace the file and make its content durable."""
        with path.open("wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def sync_folder(self, path: Path) -> None:
        fsync_folder(path)

    def remove_tree(self, path: Path) -> None:
        shutil.rmtree(path)


class StateFolder:
    """See the module. Reading needs no lock; `commit` must run inside `locked()`."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.root = root
        self._states = root / "states"
        self._floors = (root / "floor.json", root / "floor.json.bak")
        self._disk = disk or Disk()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only writer, and first clear away what a crash left; waits for another one."""
        with _disk_errors():
            self._disk.make_folder(self._states)
            lock = (self.root / "lock").open("wb")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with _disk_errors():
                self._sweep()
            yield

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for work before a commit; after a crash the next `locked()` removes it."""
        path = self._states / f".scratch-{secrets.token_hex(8)}"
        with _disk_errors():
            path.mkdir()
            try:
                yield path
            finally:
                shutil.rmtree(path)

    def floor(self) -> Floor | None:
        """The newer of the two copies; None if this folder never committed, or lost both."""
        found = [floor for path in self._floors if (floor := _read_floor(path))]
        return max(found, key=lambda floor: floor.state, default=None)

    def read(self) -> dict[str, bytes]:
        """The files of the state that counts, by relative path; empty if there is none."""
        for _ in range(_READ_TRIES):
            state = self._current()
            if state is None:
                return {}
            paths = (path for path in state.rglob("*") if path.is_file() and not path.is_symlink())
            # a writer may have committed twice since, and removed the state that we are in
            with contextlib.suppress(FileNotFoundError):
                return {str(path.relative_to(state)): path.read_bytes() for path in paths}
        raise LibraryError(f"trust metadata in {self.root.name} changes faster than it can be read")

    def commit(self, files: Mapping[str, bytes], floor: Floor) -> Floor:
        """Make `files` the state that counts; returns the floor with the state's number."""
        number = max(self._numbers(), default=0)
        number = max(number, (self.floor() or floor).state) + 1
        numbered = replace(floor, state=number)
        with _disk_errors():
            self._write_state(files, number)
            self._write_floor(self._floors[0], numbered)  # from here on the new state counts
            self._write_floor(self._floors[1], numbered)
            self._sweep()
        return numbered

    def _write_state(self, files: Mapping[str, bytes], number: int) -> None:
        draft = self._states / f".new-{secrets.token_hex(8)}"
        for folder in sorted({(draft / name).parent for name in files} | {draft}):
            self._disk.make_folder(folder)
        for name, data in files.items():
            self._disk.write(draft / name, data)
        for folder in {(draft / name).parent for name in files}:
            self._disk.sync_folder(folder)
        self._disk.rename(draft, self._states / str(number))
        self._disk.sync_folder(self._states)

    def _write_floor(self, path: Path, floor: Floor) -> None:
        temp = path.with_name(f".{path.name}.new")
        self._disk.write(temp, floor.encode())
        self._disk.rename(temp, path)
        self._disk.sync_folder(self.root)

    def _sweep(self) -> None:
        """Make both floors say the same, and remove all states but this one and the one before.

        The one before stays for readers that are just in it.
        """
        floor = self.floor()
        if floor is not None:
            for path in self._floors:
                if _read_floor(path) != floor:
                    self._write_floor(path, floor)
        current = floor.state if floor else max(self._numbers(), default=0)
        keep = {str(current), str(max((n for n in self._numbers() if n < current), default=0))}
        for entry in list(os.scandir(self._states)):
            if entry.name not in keep:
                self._disk.remove_tree(Path(entry.path))

    def _current(self) -> Path | None:
        floor = self.floor()
        number = floor.state if floor else max(self._numbers(), default=0)
        state = self._states / str(number)
        return state if state.is_dir() else None

    def _numbers(self) -> list[int]:
        if not self._states.is_dir():
            return []
        return [int(e.name) for e in os.scandir(self._states) if e.name.isdecimal()]


def _read_floor(path: Path) -> Floor | None:
    try:
        with path.open("rb") as file:
            return Floor.decode(file.read(_MAX_FLOOR_BYTES))
    except OSError:
        return None


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise DiskFullError(
                "no space left for trust metadata; nothing was changed",
                hint="remove models with `hearth rm`, or add storage",
            ) from error
        raise LibraryError(f"trust metadata could not be written: {error.strerror}") from error
