"""Hashes of a blob's chunks, so that damage is found in a place and not only somewhere. No files.

Chunks are of 4 MiB and start where the tensor data of a GGUF file starts, so that two files with
the same tensors behind different headers share all of those; the bytes before are cut the same way
from 0. A blob that is no GGUF file is cut from 0. The JSON is what publishers sign along with a
release (bundles/release.py, CHUNKS_TYPE), with one blob in it.
"""

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Any, Self

from appliance.library.manifest import Digest
from engine.errors import ModelFormatError
from engine.gguf.reader import data_start

CHUNK_BYTES = 4 << 20
MAX_MAP_BYTES = 64 << 20  # of JSON: a blob of 4 TiB

_MAX_HEAD_BYTES = 64 << 20  # as long as a header may be (engine/gguf/reader.py)
_FIRST_LOOK_BYTES = 1 << 20
_HASH = re.compile(r"[0-9a-f]{64}")
_UNKNOWN_SIZE = 1 << 62

Span = tuple[int, int]  # first byte, and the one behind the last


@dataclass(frozen=True, slots=True)
class ChunkMap:
    """The chunks of one blob. `first` is how many bytes lie before the aligned ones."""

    first: int
    hashes: tuple[str, ...]
    source: str = ""  # the registry's address that the blob was fetched from, if it was

    @classmethod
    def parse(cls, data: bytes, digest: Digest) -> Self | None:
        """The map of blob `digest` in such a JSON document; None if it holds no usable one."""
        try:
            document = json.loads(data)
            entry = document["blobs"][str(digest)] if _is_ours(document) else {}
            first, hashes = entry["first"], entry["hashes"]
            if not isinstance(first, int) or isinstance(first, bool) or first < 0:
                return None
            if not isinstance(hashes, list) or not all(map(_HASH.fullmatch, hashes)):
                return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        source = entry.get("source", "")
        return cls(first, tuple(hashes), source if isinstance(source, str) else "")

    def encode(self, digest: Digest) -> bytes:
        entry: dict[str, Any] = {"first": self.first, "hashes": self.hashes}
        if self.source:
            entry["source"] = self.source
        document = {"chunk_bytes": CHUNK_BYTES, "blobs": {str(digest): entry}}
        return json.dumps(document, separators=(",", ":")).encode()

    def spans(self, size: int) -> list[Span]:
        """Where the chunks of a blob of `size` bytes lie, in order; empty if the map is not of
        such a blob."""
        if self.first > size:
            return []
        starts = [*range(0, self.first, CHUNK_BYTES), *range(self.first, size, CHUNK_BYTES)]
        spans = list(pairwise([*starts, size]))
        return spans if len(spans) == len(self.hashes) else []


def _is_ours(document: Any) -> bool:
    return bool(document["chunk_bytes"] == CHUNK_BYTES)


class ChunkHasher:
    """Makes the map of one blob from its bytes in order. Keeps the header until it is complete."""

    def __init__(self, size: int | None = None) -> None:
        """size  of the blob, if it is known already"""
        self._size = size or _UNKNOWN_SIZE
        self._first: int | None = None
        self._head = bytearray()  # only while `_first` is not known
        self._next_look = _FIRST_LOOK_BYTES
        self._offset = 0  # bytes hashed
        self._chunk = sha256()
        self._hashes: list[str] = []

    def update(self, data: bytes) -> None:
        if self._first is not None:
            self._feed(memoryview(data))
            return
        self._head += data
        is_gguf = self._head[:4] == b"GGUF"
        if len(self._head) >= self._next_look or not is_gguf:
            self._next_look *= 2
            self._look(is_last=not is_gguf or len(self._head) > _MAX_HEAD_BYTES)

    def result(self) -> ChunkMap:
        """The map of all bytes so far; the last call."""
        if self._first is None:
            self._look(is_last=True)
        if self._offset > self._hash_start():
            self._close()
        return ChunkMap(self._first or 0, tuple(self._hashes))

    def _look(self, *, is_last: bool) -> None:
        """Learn where the tensor data starts, or that nobody will know."""
        try:
            self._first = data_start(bytes(self._head), self._size)
        except ModelFormatError:
            if not is_last:
                return
            self._first = 0
        head, self._head = self._head, bytearray()
        self._feed(memoryview(head))

    def _feed(self, data: memoryview) -> None:
        while data:
            room = self._chunk_end() - self._offset
            part = data[:room]
            self._chunk.update(part)
            self._offset += len(part)
            data = data[len(part) :]
            if len(part) == room:
                self._close()

    def _close(self) -> None:
        self._hashes.append(self._chunk.hexdigest())
        self._chunk = sha256()

    def _hash_start(self) -> int:
        """First byte of the chunk that is being filled."""
        first = self._first or 0
        base = first if self._offset >= first else 0
        return base + (self._offset - base) // CHUNK_BYTES * CHUNK_BYTES

    def _chunk_end(self) -> int:
        end = self._hash_start() + CHUNK_BYTES
        first = self._first or 0
        return min(end, first) if self._offset < first else end
