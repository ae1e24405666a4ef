"""A blob under way, on disk: written in any order, hashed in order, resumed after a kill.

Two files in the blobs folder: `sha256-<hex>-part` with the bytes, and beside it `-part.json`, the
journal of which chunks are complete. The journal never runs ahead of the data: data is synced
first. The hash follows the lowest gap while the bytes are still in the page cache; after a restart
it reads the resumed bytes once. Synchronous; see each method for which threads may call it.
"""

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from appliance.errors import DownloadCorruptError, LibraryError
from appliance.library.blobs import (
    BlobStore,
    atomic_write,
    disk_errors,
    fsync_folder,
    make_folders,
)
from appliance.library.chunks import ChunkHasher
from appliance.library.manifest import Digest

CHUNK_BYTES = 8 << 20
CHECKPOINT_BYTES = 32 << 20  # with 4 requests at once, at most 56 MiB are fetched again

KEEP_S = 30 * 86_400

_PART = re.compile(r"sha256-[0-9a-f]{64}-part(\.json)?")


class Partial:
    """The state of one download. Open, fill, `commit`; `close` keeps what came so far."""

    def __init__(self, store: BlobStore, digest: Digest, size: int, source: str = "") -> None:
        """source  whose bytes these are; kept with the blob's map"""
        self.digest = digest
        self.size = size
        self.source = source
        self._store = store
        self._path = store.root / f"{digest.filename}-part"
        self._journal = store.root / f"{digest.filename}-part.json"
        self._done: set[int] = set()  # chunks; changed on one thread only
        self._saved: frozenset[int] = frozenset()  # those that the journal names
        self._hash = sha256()
        self._chunks = ChunkHasher(size)
        self._hashed_chunks = 0
        self._fd = -1

    def open(self) -> None:
        """Take over what an earlier try left; raises LibraryError while another process has it."""
        with disk_errors("the partial blob"):
            make_folders(self._store.root)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LibraryError(f"another process is fetching blob {self.digest}") from error
            self._done = self._read_journal()
            self._saved = frozenset(self._done)
            if not self._done and self._journal.exists():
                # Of an earlier file: it would be believed once this one has its whole length.
                self._journal.unlink()
                fsync_folder(self._store.root)
            os.ftruncate(self._fd, self.size)

    # -- what is there ----------------------------------------------------------------------

    @property
    def chunk_count(self) -> int:
        return -(-self.size // CHUNK_BYTES)

    @property
    def missing(self) -> list[int]:
        """The chunks that are not complete, in order."""
        return [index for index in range(self.chunk_count) if index not in self._done]

    @property
    def done_bytes(self) -> int:
        return sum(self.bounds(index)[1] - self.bounds(index)[0] for index in self._done)

    @property
    def has_much_unsaved(self) -> bool:
        """Whether `checkpoint` is due, so that a kill costs little."""
        return (len(self._done) - len(self._saved)) * CHUNK_BYTES >= CHECKPOINT_BYTES

    def bounds(self, index: int) -> tuple[int, int]:
        """First byte of a chunk, and the one behind its last."""
        return index * CHUNK_BYTES, min((index + 1) * CHUNK_BYTES, self.size)

    # -- filling ----------------------------------------------------------------------------

    def write(self, offset: int, pieces: Sequence[bytes]) -> None:
        """Put bytes in their place, one piece behind the other; from several threads at once."""
        left: list[bytes | memoryview] = list(pieces)
        with disk_errors("the blob"):
            while left:
                written = os.pwritev(self._fd, left, offset)
                offset += written
                while left and written >= len(left[0]):
                    written -= len(left.pop(0))
                if written:
                    left[0] = memoryview(left[0])[written:]

    def complete(self, index: int) -> None:
        """Note that all bytes of a chunk were written; on the event loop's thread."""
        self._done.add(index)

    def checkpoint(self) -> None:
        """Make durable what is complete, then say so in the journal; one thread at a time."""
        done = frozenset(self._done)
        with disk_errors("the blob"):
            os.fdatasync(self._fd)
        bits = sum(1 << index for index in done)
        state = {"size": self.size, "chunk": CHUNK_BYTES, "done": f"{bits:x}"}
        atomic_write(self._journal, json.dumps(state).encode())
        self._saved = done

    def hash_next(self) -> bool:
        """Hash the next chunk if it is complete; one thread at a time. False: nothing to do."""
        if self._hashed_chunks not in self._done:
            return False
        first, end = self.bounds(self._hashed_chunks)
        with disk_errors("the blob"):
            while first < end:
                piece = os.pread(self._fd, min(1 << 20, end - first), first)
                if not piece:
                    raise LibraryError(f"the partial file of blob {self.digest} was cut meanwhile")
                self._hash.update(piece)
                self._chunks.update(piece)
                first += len(piece)
        self._hashed_chunks += 1
        return True

    # -- the end ----------------------------------------------------------------------------

    def commit(self) -> None:
        """Check the digest and make the blob visible, durably. Raises DownloadCorruptError, and
        then nothing of the partial blob is left."""
        while self.hash_next():
            pass
        found = Digest(self._hash.hexdigest())
        if found != self.digest or self._hashed_chunks != self.chunk_count:
            self.discard()
            raise DownloadCorruptError(
                f"digest mismatch, file must be downloaded again: want {self.digest}, got {found}",
                hint="the registry's copy, or what lies between, changed the bytes; pull again",
            )
        with disk_errors("the blob"):
            os.fsync(self._fd)
            self._path.replace(self._store.path(self.digest))
            self._journal.unlink(missing_ok=True)
            self._store.drop_damaged(self.digest)
            fsync_folder(self._store.root)
        self._store.save_map(self.digest, replace(self._chunks.result(), source=self.source))

    def discard(self) -> None:
        """Remove both files."""
        self._journal.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go. What is complete stays for the next try."""
        if self._fd < 0:
            return
        try:
            if len(self._done) > len(self._saved) and self._path.exists():
                self.checkpoint()
        finally:
            os.close(self._fd)
            self._fd = -1

    def _read_journal(self) -> set[int]:
        """The chunks that the journal vouches for; none if it is missing, damaged or of another
        size than what is to come."""
        try:
            state = json.loads(self._journal.read_bytes()[: 1 << 20])
            bits = int(state["done"], 16)
            fits = (state["size"], state["chunk"]) == (self.size, CHUNK_BYTES)
        except (OSError, ValueError, TypeError, KeyError):
            return set()
        is_whole = os.fstat(self._fd).st_size == self.size
        if not fits or not is_whole or bits < 0 or bits >> self.chunk_count:
            return set()
        return {index for index in range(self.chunk_count) if bits >> index & 1}


def missing_bytes(store: BlobStore, digest: Digest, size: int) -> int:
    """What of a blob has no room on the disk yet: a partial file takes what is written of it."""
    with contextlib.suppress(OSError):
        taken = (store.root / f"{digest.filename}-part").stat().st_blocks * 512
        return max(0, size - taken)
    return size


def sweep_partials(store: BlobStore) -> None:
    """Remove partial blobs that nobody went on with for a month. At start."""
    oldest = time.time() - KEEP_S
    for entry in list(os.scandir(store.root)):
        if _PART.fullmatch(entry.name) and entry.stat().st_mtime < oldest:
            Path(entry.path).unlink(missing_ok=True)
