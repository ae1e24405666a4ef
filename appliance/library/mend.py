"""A blob that was set aside gets its damaged chunks replaced, and then its name back.

The work is done in the file that was set aside, so it needs no room: a cut in the middle leaves
what there was before, a damaged blob that nobody uses. Every chunk is checked before it is written,
the whole blob before it counts. Synchronous; for one thread at a time.
"""

import contextlib
import errno
import os
from hashlib import sha256
from typing import Self

from appliance.library.blobs import BlobStore, disk_errors, fsync_folder
from appliance.library.chunks import ChunkMap, Span
from appliance.library.manifest import Digest

_PIECE_BYTES = 1 << 20


class Mending:
    """One damaged blob being mended. `begin` makes one; close it in any case."""

    def __init__(self, store: BlobStore, digest: Digest, chunks: ChunkMap, size: int) -> None:
        self._store = store
        self._digest = digest
        self._path = store.damaged_path(digest)
        self._hashes = dict(zip(chunks.spans(size), chunks.hashes, strict=True))
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        self._size = size

    @classmethod
    def begin(cls, store: BlobStore, digest: Digest, size: int) -> Self | None:
        """None if there is nothing to mend: no map of the blob or nothing that was set aside."""
        chunks = store.chunk_map(digest)
        with contextlib.suppress(FileNotFoundError):
            size = size or store.damaged_path(digest).stat().st_size
            if chunks is not None and chunks.spans(size):
                return cls(store, digest, chunks, size)
        return None

    def damaged(self) -> list[Span]:
        """Which chunks are not what they were, in order. Reads all of them."""
        with disk_errors("the damaged blob"):
            if os.fstat(self._fd).st_size != self._size:
                os.ftruncate(self._fd, self._size)
        return [span for span, good in self._hashes.items() if self._hash_of(span) != good]

    def put(self, span: Span, data: bytes) -> bool:
        """Replace a chunk; False and nothing is written if these are not its bytes."""
        if sha256(data).hexdigest() != self._hashes[span]:
            return False
        view, offset = memoryview(data), span[0]
        with disk_errors("the damaged blob"):
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written
        return True

    def commit(self) -> bool:
        """Give the blob its name back, durably; False if it is still not what it should be."""
        whole = sha256()
        with disk_errors("the damaged blob"):
            for offset in range(0, self._size, _PIECE_BYTES):
                whole.update(os.pread(self._fd, _PIECE_BYTES, offset))
            if whole.hexdigest() != self._digest.hex:
                return False
            os.fsync(self._fd)
            self._path.replace(self._store.path(self._digest))
            fsync_folder(self._store.root)
        return True

    def close(self) -> None:
        os.close(self._fd)

    def _hash_of(self, span: Span) -> str:
        """Empty where the disk cannot read."""
        found = sha256()
        try:
            for offset in range(*span, _PIECE_BYTES):
                found.update(os.pread(self._fd, min(_PIECE_BYTES, span[1] - offset), offset))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return ""
        return found.hexdigest()
