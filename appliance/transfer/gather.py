"""The parts of a model: what is not here is fetched, all is checked, none is lost meanwhile.

The one way in which blobs come over the network or from a medium, whoever said which are wanted.
Sizes are capped by the manifest, free space is checked before the first byte, blobs that are here
are hashed before they count as here, and a GGUF is validated before a manifest may name it.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from appliance.errors import RegistryError
from appliance.library.library import Library
from appliance.library.manifest import ADAPTER_TYPE, MODEL_TYPE, PROJECTOR_TYPE, Digest, Manifest
from appliance.library.space import Space
from appliance.threads import to_end
from appliance.transfer.download import Report
from appliance.transfer.partial import missing_bytes
from appliance.transfer.progress import Progress, Tell
from engine.errors import ModelFormatError

_GGUF_TYPES = (MODEL_TYPE, PROJECTOR_TYPE, ADAPTER_TYPE)

Fetch = Callable[[Digest, int, Report], Awaitable[None]]  # digest, size in bytes


@dataclass(slots=True)
class Gatherer:
    """Gathers into one library. Several may wait for the same blob; it is fetched once.

    space  says what must stay free on its disk; None: what suits its size
    """

    library: Library
    space: Space | None = None
    _busy: WeakValueDictionary[Digest, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    @asynccontextmanager
    async def held(self, digests: Iterable[Digest]) -> AsyncGenerator[None, None]:
        """The library's hold, taken and released in a thread, as its lock may be waited for."""
        hold = self.library.hold(digests)
        try:
            await to_end(hold.__enter__)  # taken in any case, also when cancelled here
            yield
        finally:
            await to_end(hold.__exit__, None, None, None)

    def alone(self, digest: Digest) -> asyncio.Lock:
        """Held by the one who writes this blob."""
        return self._busy.setdefault(digest, asyncio.Lock())

    async def blobs(self, sizes: Mapping[Digest, int], fetch: Fetch, tell: Tell) -> None:
        """Have all of them here, right and durable. Raises DiskFullError before the first byte,
        and what `fetch` raises."""
        await asyncio.to_thread(self._require_space, sizes)
        for digest, size in sizes.items():
            await self._blob(digest, size, fetch, tell)

    async def check_ggufs(self, manifest: Manifest, bad: list[Digest]) -> None:
        """Validate what llama.cpp would read; a file that fails is put on the list `bad`."""
        for layer in manifest.of_type(*_GGUF_TYPES):
            try:
                await asyncio.to_thread(self.library.header, layer.digest)
            except ModelFormatError as error:
                bad.append(layer.digest)
                raise RegistryError(
                    f"layer {layer.digest} is no usable GGUF file: {error}",
                    hint="its publisher must repair it; nothing was installed",
                ) from error

    async def _blob(self, digest: Digest, size: int, fetch: Fetch, tell: Tell) -> None:
        def report(completed: int) -> None:
            tell(Progress.of_blob("pulling", digest, size, completed))

        report(0)
        async with self.alone(digest):
            if not await asyncio.to_thread(self._is_here, digest, size):
                await fetch(digest, size, report)
        report(size)

    def _is_here(self, digest: Digest, size: int) -> bool:
        """Whether the blob is stored and its bytes are still those of its name."""
        if not self.library.blobs.has(digest) or self.library.blobs.size(digest) != size:
            return False
        return digest_of_file(self.library, digest) == digest

    def _require_space(self, sizes: Mapping[Digest, int]) -> None:
        store = self.library.blobs
        wanted = sum(
            missing_bytes(store, digest, size)
            for digest, size in sizes.items()
            if not store.has(digest)
        )
        if wanted:
            (self.space or Space(store.root)).require(wanted, "the model")


def digest_of_file(library: Library, digest: Digest) -> Digest:
    """What a stored blob really hashes to. Reads all of it."""
    with library.blobs.path(digest).open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").hexdigest())
