"""Reading every stored blob again, to find what has rotted before a model trips over it.

A blob is named by its digest, so reading it decides. Bytes that differ are set aside: no model can
load them, all others go on, and mending (mend.py) or getting the model again brings good ones. A
blob without a map of its chunks gets one. Knows files, not where they came from.
"""

import errno
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from hashlib import sha256

from appliance.library.chunks import ChunkHasher
from appliance.library.library import Library, Needed
from appliance.library.manifest import Digest
from appliance.library.names import ModelName

_PIECE_BYTES = 1 << 20
_NAP_S = 0.5


@dataclass(frozen=True, slots=True)
class Checked:
    """So far `completed` of the `total` bytes of all blobs have been read."""

    completed: int
    total: int


@dataclass(frozen=True, slots=True)
class Damage:
    """A blob that is not what its name says, and the models that need it."""

    digest: Digest
    reason: str
    models: tuple[ModelName, ...]
    size: int  # bytes of the good blob; 0: not known


def scrub(library: Library, rate: int = 0) -> Generator[Checked | Damage, None, None]:
    """Verify every blob that a model needs, at `rate` bytes per second, 0: as fast as it goes.

    A `Checked` comes first and follows each piece that was read; nothing is held open or locked
    between two. Blobs that are removed meanwhile are passed over, and those that arrive meanwhile
    were verified on their way in.
    """
    needed = library.needed()
    total = sum(library.blobs.size(digest) for digest in needed if library.blobs.has(digest))
    completed, started = 0, time.monotonic()
    yield Checked(0, total)
    for digest, need in needed.items():
        pieces = verify(library, digest)
        try:
            while True:
                completed += next(pieces)
                yield Checked(completed, total)
                while rate and (ahead_s := started + completed / rate - time.monotonic()) > 0:
                    time.sleep(min(ahead_s, _NAP_S))
                    yield Checked(completed, total)  # who follows can leave here
        except StopIteration as end:
            reason: str = end.value
        if reason and (damage := take_out(library, digest, need, reason)):
            yield damage


def take_out(library: Library, digest: Digest, need: Needed, reason: str) -> Damage | None:
    """Set a damaged blob aside; None if nobody needs it any more."""
    if digest not in library.needed():
        return None
    library.set_aside(digest)
    return Damage(digest, reason, need.models, need.size)


def verify(library: Library, digest: Digest) -> Generator[int, None, str]:
    """Yields the size of each piece that it has read; returns what is wrong, or ''.

    What only this reads does not push other things out of the page cache.
    """
    seen = sha256()
    chunks = ChunkHasher() if library.blobs.chunk_map(digest) is None else None
    try:
        with library.blobs.path(digest).open("rb", buffering=0) as file:
            while piece := file.read(_PIECE_BYTES):
                seen.update(piece)
                if chunks is not None:
                    chunks.update(piece)
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                yield len(piece)
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return "the disk cannot read it"
    if seen.hexdigest() != digest.hex:
        return "its bytes have changed"
    if chunks is not None:
        library.blobs.save_map(digest, chunks.result())
    return ""
