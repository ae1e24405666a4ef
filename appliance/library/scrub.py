"""Reading every stored blob again, to find what has rotted before a model trips over it.

A blob is named by its digest, so reading it decides. Bytes that differ are set aside: no model can
load them, all others go on, and getting the model again stores good ones. Knows files, not where
they came from.
"""

import errno
import time
from collections.abc import Generator
from dataclasses import dataclass
from hashlib import sha256

from appliance.library.library import Library
from appliance.library.manifest import Digest

_PIECE_BYTES = 8 << 20
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
    models: tuple[str, ...]


def scrub(library: Library, rate: int = 0) -> Generator[Checked | Damage, None, None]:
    """Verify every blob that a model needs, at `rate` bytes per second, 0: as fast as it goes.

    A `Checked` comes first and follows each piece that was read; nothing is held open or locked
    between two. Blobs that are removed meanwhile are passed over, and those that arrive meanwhile
    were verified on their way in.
    """
    owners = library.owners()
    total = sum(library.blobs.size(digest) for digest in owners if library.blobs.has(digest))
    completed, started = 0, time.monotonic()
    yield Checked(0, total)
    for digest, models in owners.items():
        pieces = _verify(library, digest)
        try:
            while True:
                completed += next(pieces)
                yield Checked(completed, total)
                while rate and (ahead_s := started + completed / rate - time.monotonic()) > 0:
                    time.sleep(min(ahead_s, _NAP_S))
                    yield Checked(completed, total)  # who follows can leave here
        except StopIteration as end:
            reason: str = end.value
        if reason and digest in library.owners():
            library.set_aside(digest)
            yield Damage(digest, reason, models)


def _verify(library: Library, digest: Digest) -> Generator[int, None, str]:
    """Yields the size of each piece that it has read; returns what is wrong, or ''."""
    seen = sha256()
    try:
        with library.blobs.path(digest).open("rb", buffering=0) as file:
            while piece := file.read(_PIECE_BYTES):
                seen.update(piece)
                yield len(piece)
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return "the disk cannot read it"
    return "" if seen.hexdigest() == digest.hex else "its bytes have changed"
