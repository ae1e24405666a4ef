"""Regular files below one folder, by relative path: no links, no devices, no way out.

Every step down is an openat that follows nothing, so what a stick holds (links, FIFOs, device
nodes, `..`) leads nowhere and blocks nobody, and cannot be swapped between a check and its use.
Every write: temp file in the same folder, data, fsync, rename, fsync of the folder. Knows paths and
bytes; what the files mean is `layout.py`'s business. Synchronous.
"""

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from appliance.errors import RegistryError, RegistryNotFoundError, RegistryUnreachableError
from appliance.library.blobs import disk_errors

MAX_NAMES = 100_000  # entries of one folder

_TEMP_PREFIX = ".hearth-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # or a FIFO would stop us
_DRAFT = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_MISSING = frozenset({errno.ENOENT, errno.ENAMETOOLONG})
_WRONG_KIND = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ENODEV})
_FAT = 0x4D44  # statfs(2), MSDOS_SUPER_MAGIC
_FAT_FILE_BYTES = (4 << 30) - (1 << 20)  # FAT32 holds 4 GiB less one byte; this is aligned


class Disk:
    """The calls that may fail or be the last before a power cut: one method each, for tests."""

    def read(self, file: int, count: int, offset: int) -> bytes:
        return os.pread(file, count, offset)

    def write(self, file: int, data: memoryview) -> int:
        return os.write(file, data)

    def sync(self, file: int) -> None:
        os.fsync(file)

    def rename(self, old: str, new: str, folder: int) -> None:
        os.replace(old, new, src_dir_fd=folder, dst_dir_fd=folder)

    def largest_file(self, folder: Path) -> int:
        """Bytes that one file of this filesystem can have, as far as it matters to us."""
        return _FAT_FILE_BYTES if filesystem_type(folder) == _FAT else sys.maxsize


class ConfinedFolder:
    """See the module. The last step to `root` must not be a link either: resolve it if you trust
    it. Reading raises RegistryNotFoundError, RegistryUnreachableError when the medium fails, and
    RegistryError for what is no regular file; writing raises DiskFullError or LibraryError."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.root = root
        self.disk = disk or Disk()

    # -- reading ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[int]:
        """The descriptor of a regular file, for `disk.read`."""
        with self.folder(path) as folder, _reading(path):
            file = os.open(_parts(path)[-1], _FILE, dir_fd=folder)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise _wrong_kind(path)
            yield file
        finally:
            os.close(file)

    def size(self, path: str) -> int:
        with self.open(path) as file:
            return os.fstat(file).st_size

    def has(self, path: str) -> bool:
        """Whether `path` is a regular file; a link or a device is none."""
        try:
            return self.size(path) >= 0
        except RegistryUnreachableError:
            raise
        except RegistryError:
            return False

    def read(self, path: str, max_bytes: int) -> bytes:
        """A whole small file; RegistryError when it has more than `max_bytes`."""
        data = bytearray()
        with self.open(path) as file:
            while chunk := self.pread(file, path, max_bytes + 1 - len(data), len(data)):
                data += chunk
        if len(data) > max_bytes:
            raise RegistryError(f"{path} has more than the {max_bytes} bytes allowed for it")
        return bytes(data)

    def pread(self, file: int, path: str, count: int, offset: int) -> bytes:
        """Bytes of an open file; `path` is for the message."""
        with _reading(path):
            return self.disk.read(file, count, offset)

    def names(self, path: str) -> list[str]:
        """What lies in a folder, '' for the root, sorted; nothing where it is missing."""
        try:
            with (
                self.folder(_join(path, "-")) as folder,
                _reading(path),
                os.scandir(folder) as entries,
            ):
                names = [entry.name for entry in itertools.islice(entries, MAX_NAMES + 1)]
        except RegistryNotFoundError:
            return []
        if len(names) > MAX_NAMES:
            raise RegistryError(f"{path} has more than the {MAX_NAMES} entries that are allowed")
        return sorted(names)

    @contextlib.contextmanager
    def folder(self, path: str, *, create: bool = False) -> Iterator[int]:
        """The descriptor of the folder that `path` lies in, reached without following a link."""
        with _reading(str(self.root)):
            here = os.open(self.root, _FOLDER)
        try:
            for part in _parts(path)[:-1]:
                if create:
                    self._make(part, here)
                with _reading(path):
                    below = os.open(part, _FOLDER, dir_fd=here)
                os.close(here)
                here = below
            yield here
        finally:
            os.close(here)

    def _make(self, name: str, folder: int) -> None:
        with disk_errors(name), contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
            self.disk.sync(folder)

    # -- writing ----------------------------------------------------------------------------

    def write(self, path: str, data: bytes) -> None:
        """Replace a file durably; readers see the old content or the new."""
        with self.draft(path) as draft:
            draft.write(data)
            draft.finish(path)

    @contextlib.contextmanager
    def draft(self, path: str) -> Iterator["Draft"]:
        """A file under way in the folder of `path`; unless it is finished nothing is left."""
        with self.folder(path, create=True) as folder:
            draft = Draft(self.disk, folder)
            try:
                yield draft
            finally:
                draft.close()

    def remove(self, path: str) -> None:
        """Remove a file if it is there, durably."""
        with (
            contextlib.suppress(RegistryNotFoundError),
            self.folder(path) as folder,
            disk_errors(path),
            contextlib.suppress(FileNotFoundError),
        ):
            os.unlink(_parts(path)[-1], dir_fd=folder)
            self.disk.sync(folder)

    def sweep(self, path: str) -> None:
        """Remove temp files in a folder whose writer is dead; a living one holds a lock."""
        for name in self.names(path):
            temp = _join(path, name)
            if name.startswith(_TEMP_PREFIX) and self.has(temp):
                with contextlib.suppress(BlockingIOError), self.open(temp) as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self.remove(temp)


class Draft:
    """A temp file being written: `write`, then `finish` once; `close` removes what is not."""

    def __init__(self, disk: Disk, folder: int) -> None:
        self.written = 0
        self._disk = disk
        self._folder = folder
        self._temp = f"{_TEMP_PREFIX}{secrets.token_hex(8)}"
        with disk_errors("a temporary file"):
            self._file = os.open(self._temp, _DRAFT, 0o644, dir_fd=folder)
            fcntl.flock(self._file, fcntl.LOCK_EX)  # tells `sweep` that the writer is alive

    def write(self, data: bytes | memoryview) -> None:
        """Append; raises DiskFullError, LibraryError."""
        view = memoryview(data)
        with disk_errors("the medium"):
            while view:
                view = view[self._disk.write(self._file, view) :]
        self.written += len(data)

    def sync(self) -> None:
        with disk_errors("the medium"):
            self._disk.sync(self._file)

    def finish(self, path: str) -> None:
        """Make the data durable, then give the file its name in the same folder."""
        self.sync()
        with disk_errors(path):
            self._disk.rename(self._temp, _parts(path)[-1], self._folder)
            self._temp = ""
            self._disk.sync(self._folder)

    def close(self) -> None:
        if self._temp:
            with contextlib.suppress(OSError):  # the medium may be gone
                os.unlink(self._temp, dir_fd=self._folder)
        os.close(self._file)


def filesystem_type(folder: Path) -> int:
    """The magic number of statfs(2), which Python's own statvfs leaves out; 0 if it fails."""
    answer = (ctypes.c_long * 64)()  # struct statfs is smaller; its first word is f_type
    failed = ctypes.CDLL(None).statfs(os.fsencode(folder), answer)
    return 0 if failed else answer[0]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _parts(path: str) -> list[str]:
    """The steps of a relative path; RegistryError for one that could lead elsewhere."""
    parts = path.split("/")
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise RegistryError(f"{path[:200]!r} is not a path inside the folder")
    return parts


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _MISSING:
            raise RegistryNotFoundError(f"{path[:200]} is missing") from error
        if error.errno in _WRONG_KIND:
            raise _wrong_kind(path) from error
        raise RegistryUnreachableError(
            f"{path[:200]} cannot be read: {error.strerror}",
            hint="check that the medium is plugged in and whole, then try again",
        ) from error


def _wrong_kind(path: str) -> RegistryError:
    return RegistryError(
        f"{path[:200]} is a link, a device or of another wrong kind",
        hint="a medium holds plain files and folders only; copy it again",
    )
