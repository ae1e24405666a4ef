"""Content-addressed files in Ollama's layout, written so that a power cut leaves old or new.

Order of every write: temp file in the same folder, data, fsync, rename, fsync of the folder.
Beside each blob of several chunks goes its map (chunks.py), made while the bytes come in. Knows
digests and bytes; which model a blob belongs to is `library.py`'s business.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from appliance.errors import (
    BadRequestError,
    DigestMismatchError,
    DiskFullError,
    LibraryError,
    ReadOnlyError,
)
from appliance.library.chunks import MAX_MAP_BYTES, ChunkHasher, ChunkMap
from appliance.library.manifest import Digest

log = logging.getLogger("hearth.library")

CHUNK_BYTES = 1 << 20

_TEMP_PREFIX = ".hearth-"
_HEX = re.compile(r"[0-9a-f]{64}")
_BLOB = re.compile(r"sha256-[0-9a-f]{64}")
_OLD_BLOB = re.compile(r"sha256:[0-9a-f]{64}")
# EFBIG is what a file size limit of the service manager gives
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class BlobStore:
    """The `blobs` folder. Safe for threads and for several processes."""

    def __init__(self, root: Path, maps: Path | None = None) -> None:
        """maps  the folder of chunk maps; without one none are kept"""
        self.root = root
        self._maps = maps

    def path(self, digest: Digest) -> Path:
        return self.root / digest.filename

    def has(self, digest: Digest) -> bool:
        return self.path(digest).is_file()

    def size(self, digest: Digest) -> int:
        """Bytes of a stored blob; raises LibraryError when it is missing."""
        try:
            return self.path(digest).stat().st_size
        except OSError as error:
            raise missing_blob(digest) from error

    def stored_at(self, digest: Digest) -> float:
        """When a blob came in, in seconds since 1970; 0 if it is missing."""
        try:
            return self.path(digest).stat().st_mtime
        except OSError:
            return 0.0

    def head(self, digest: Digest, count: int) -> bytes:
        """The first `count` bytes, or fewer; raises LibraryError when the blob is missing."""
        try:
            with self.path(digest).open("rb") as file:
                return file.read(count)
        except OSError as error:
            raise missing_blob(digest) from error

    def read(self, digest: Digest, limit: int) -> bytes:
        """A small blob's content; raises LibraryError when missing or over `limit` bytes."""
        data = self.head(digest, limit + 1)
        if len(data) > limit:
            raise LibraryError(f"blob {digest} is larger than the {limit} bytes allowed for it")
        return data

    def writer(self, expected: Digest | None = None, size: int | None = None) -> "BlobWriter":
        """A new blob of `expected` digest and `size` bytes, where they are known beforehand."""
        return BlobWriter(self, expected, size)

    def put_bytes(self, data: bytes) -> tuple[Digest, int]:
        """Store `data`; returns its digest and size."""
        digest = Digest.of(data)
        if not self.has(digest):
            with self.writer(digest, len(data)) as writer:
                writer.write(data)
                writer.commit()
        return digest, len(data)

    def put_file(self, source: Path) -> tuple[Digest, int]:
        """Store a copy of `source`; its owner may change or delete it afterwards."""
        with source.open("rb") as file, self.writer(size=source.stat().st_size) as writer:
            while chunk := file.read(CHUNK_BYTES):
                writer.write(chunk)
            return writer.commit(), writer.written

    def stored(self) -> Iterator[Digest]:
        """The digests of all blobs; partial downloads and other files are passed over."""
        if self.root.is_dir():
            for entry in os.scandir(self.root):
                if _BLOB.fullmatch(entry.name):
                    yield Digest.parse(entry.name)

    def remove(self, digest: Digest) -> None:
        """Remove a blob, also one that was set aside, and its map."""
        self.path(digest).unlink(missing_ok=True)
        self.drop_damaged(digest)
        if self._maps is not None:
            (self._maps / digest.hex).unlink(missing_ok=True)

    def chunk_map(self, digest: Digest) -> ChunkMap | None:
        """The hashes of a blob's chunks, if they were kept; the blob may be damaged or gone."""
        if self._maps is None:
            return None
        try:
            with (self._maps / digest.hex).open("rb") as file:
                return ChunkMap.parse(file.read(MAX_MAP_BYTES), digest)
        except OSError:
            return None

    def save_map(self, digest: Digest, chunks: ChunkMap) -> None:
        """Keep the map of a blob whose digest is right, if it tells more than the digest does.

        It is only a help: failing is no error.
        """
        if self._maps is None or (len(chunks.hashes) < 2 and not chunks.source):
            return
        try:
            atomic_write(self._maps / digest.hex, chunks.encode(digest))
        except LibraryError as error:
            log.warning("no map of a blob's chunks is kept blob=%s: %s", digest, error)

    def set_aside(self, digest: Digest) -> None:
        """Take bytes that are not those of `digest` out of use; kept until good ones replace them.

        They may be the only copy of somebody's work, nearly all of it whole.
        """
        with contextlib.suppress(FileNotFoundError):
            self.path(digest).replace(self.damaged_path(digest))
        fsync_folder(self.root)

    def drop_damaged(self, digest: Digest) -> None:
        """Remove what was set aside of a blob, if anything was."""
        self.damaged_path(digest).unlink(missing_ok=True)

    def damaged_path(self, digest: Digest) -> Path:
        """Where bytes that are not those of `digest` are kept."""
        return self.root / f"damaged-{digest.filename}"

    def sweep(self) -> None:
        """Remove what a crash left behind, and give blobs of old Ollama versions today's names."""
        self.root.mkdir(parents=True, exist_ok=True)
        for entry in list(os.scandir(self.root)):
            if _OLD_BLOB.fullmatch(entry.name):
                Path(entry.path).rename(self.root / entry.name.replace(":", "-", 1))
        sweep_temps(self.root)
        fsync_folder(self.root)
        self._sweep_maps()

    def _sweep_maps(self) -> None:
        """Remove the maps of blobs that somebody else removed."""
        if self._maps is None or not self._maps.is_dir():
            return
        sweep_temps(self._maps)
        for name in [entry.name for entry in os.scandir(self._maps) if _HEX.fullmatch(entry.name)]:
            digest = Digest(name)
            if not self.has(digest) and not self.damaged_path(digest).exists():
                (self._maps / name).unlink(missing_ok=True)


class BlobWriter:
    """One blob being received. Leaving the context without `commit` leaves nothing behind."""

    def __init__(self, store: BlobStore, expected: Digest | None, size: int | None) -> None:
        self.written = 0
        self._store = store
        self._expected = expected
        self._size = size
        self._hash = sha256()
        self._chunks = ChunkHasher(size)
        self._temp: Path | None = None
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        with disk_errors("the blob"):
            make_folders(self._store.root)
            require_space(self._store.root, self._size or 0)
            self._temp = self._store.root / f"{_TEMP_PREFIX}{secrets.token_hex(8)}"
            self._file = self._temp.open("xb", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX)  # tells `sweep` that the writer is alive
        return self

    def write(self, chunk: bytes) -> None:
        """Append; raises DiskFullError, or BadRequestError past the announced size."""
        if self._file is None:
            raise ValueError("write outside of the writer's context")
        if self._size is not None and self.written + len(chunk) > self._size:
            raise BadRequestError(f"the blob is longer than the announced {self._size} bytes")
        with disk_errors("the blob"):
            _write_all(self._file, chunk)
        self._hash.update(chunk)
        self._chunks.update(chunk)
        self.written += len(chunk)

    def commit(self) -> Digest:
        """Check the digest and make the blob durable; raises DigestMismatchError."""
        if self._file is None or self._temp is None:
            raise ValueError("commit outside of the writer's context")
        digest = Digest(self._hash.hexdigest())
        if self._expected not in {None, digest}:
            raise DigestMismatchError(
                f'digest mismatch, expected "{self._expected}", got "{digest}"',
                hint="the bytes were changed or cut on the way; send them again",
            )
        with disk_errors("the blob"):
            os.fchmod(self._file.fileno(), 0o644)
            os.fsync(self._file.fileno())
            # replaced even if there: these bytes are verified, those on disk may have rotted
            self._temp.replace(self._store.path(digest))
            self._temp = None
            self._store.drop_damaged(digest)
            fsync_folder(self._store.root)
        return digest

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._temp is not None:
            self._temp.unlink(missing_ok=True)
        if self._file is not None:
            self._file.close()
        self._file = self._temp = None


def atomic_write(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replace the file at `path` durably; readers see the old content or the new.

    mode  its permissions from its first byte on, less the process's umask
    """
    temp = path.parent / f"{_TEMP_PREFIX}{secrets.token_hex(8)}"
    with disk_errors(path.name):
        make_folders(path.parent)
        try:
            opened = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(opened, "wb", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                _write_all(file, data)
                os.fsync(file.fileno())
                temp.replace(path)
        finally:
            temp.unlink(missing_ok=True)
        fsync_folder(path.parent)


def make_folders(path: Path) -> None:
    """Create `path` and its parents, durably."""
    if path.is_dir():
        return
    make_folders(path.parent)
    path.mkdir(exist_ok=True)
    fsync_folder(path.parent)


def fsync_folder(path: Path) -> None:
    """Make renames and removals in `path` survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sweep_temps(folder: Path) -> None:
    """Remove temp files whose writer is dead; a living one holds a lock."""
    for entry in list(os.scandir(folder)):
        if entry.name.startswith(_TEMP_PREFIX) and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(BlockingIOError), Path(entry.path).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Path(entry.path).unlink(missing_ok=True)


def sweep_temps_below(folder: Path) -> None:
    """As `sweep_temps`, in the folder, if there is one, and in all below it."""
    for here, _, _ in os.walk(folder):
        sweep_temps(Path(here))


def missing_blob(digest: Digest) -> LibraryError:
    return LibraryError(f"blob {digest} is missing", hint="delete the model and get it again")


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def require_space(folder: Path, wanted: int) -> None:
    """Raise DiskFullError unless `wanted` bytes are free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise disk_full(f"the blob needs {wanted} bytes, the disk has {free} free")


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn an OSError inside into DiskFullError, ReadOnlyError or LibraryError; `what` was being
    written."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise disk_full(f"no space left while writing {what}") from error
        if error.errno == errno.EROFS:
            raise ReadOnlyError(
                f"{what} could not be written: the disk is read-only",
                hint="what is installed goes on working; `hearth doctor` says what to do",
            ) from error
        raise LibraryError(f"{what} could not be written: {error.strerror}") from error


def disk_full(message: str) -> DiskFullError:
    return DiskFullError(message, hint="remove models with `hearth rm`, or add storage")
