"""Fetch one blob: ranges in parallel, resumed, with bounded tries, from the first source that can.

Every source is only a pipe for bytes, the digest decides. Nothing is written past the size that the
manifest announced. A server that ignores ranges is read in one stream; what is here already is
passed over then.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import aiohttp

from appliance.errors import RegistryError, RegistryUnreachableError
from appliance.library.blobs import BlobStore
from appliance.library.manifest import Digest
from appliance.threads import to_end
from appliance.transfer.pace import Pace
from appliance.transfer.partial import Partial
from appliance.transfer.patience import DripWatch
from appliance.transfer.registry import Registry
from appliance.transfer.telling import most_telling

log = logging.getLogger("hearth.transfer")

PIECE_BYTES = 1 << 20  # handed to a writing thread at once
PROGRESS_BYTES = 256 << 10  # a try that brought so much was not in vain

Report = Callable[[int], None]  # bytes that are here
Piece = list[bytes]  # as they came: joining them would cost the event loop a copy of everything


async def fetch_blob(
    store: BlobStore,
    digest: Digest,
    size: int,
    registries: Sequence[Registry],
    *,
    parts: int,
    report: Report,
) -> None:
    """Bring blob `digest` of `size` bytes into the store, checked and durable.

    Raises the sources' most telling RegistryError, DiskFullError or LibraryError; broken off, it
    keeps what came for the next try, unless the bytes were wrong.
    """
    failures: list[RegistryError] = []
    for registry in registries:
        source = "" if registry.source.is_folder else str(registry.source)
        download = _Download(Partial(store, digest, size, source), registry, report)
        try:
            await download.run(parts)
        except RegistryError as error:
            log.warning("download failed source=%s blob=%s: %s", registry.source, digest, error)
            failures.append(error)
        else:
            return
    raise most_telling(failures or [RegistryError(f"no registry to get blob {digest} from")])


class _Download:
    """One blob from one source."""

    def __init__(self, partial: Partial, registry: Registry, report: Report) -> None:
        self._partial = partial
        self._registry = registry
        self._report = report
        self._arrived = 0  # bytes that are here, also of chunks that are not complete
        self._queue: deque[int] = deque()
        self._saving = asyncio.Lock()
        self._is_hashing = False

    async def run(self, parts: int) -> None:
        partial = self._partial
        try:
            await to_end(partial.open)
            self._arrived = partial.done_bytes
            self._report(self._arrived)
            if missing := partial.missing:
                self._queue.extend(missing)
                await self._first()
                await self._rest(parts)
            await self._follow_with_hash()
            await to_end(partial.commit)
        finally:
            await to_end(partial.close)

    async def _first(self) -> None:
        """Fetch one chunk alone: it shows whether the server knows ranges."""
        await self._chunk(self._queue.popleft())

    async def _rest(self, parts: int) -> None:
        """The other chunks, in order, `parts` at once. The first failure ends all."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(parts, len(self._queue))):
                    group.create_task(self._worker())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    async def _worker(self) -> None:
        while self._queue:
            await self._chunk(self._queue.popleft())

    async def _chunk(self, index: int) -> None:
        """Fetch a chunk, also in several tries, each where the last one broke off.

        When the server sends the whole blob instead, that is taken, and nothing is left to do.
        """
        offset, end = self._partial.bounds(index)
        failures = 0
        while offset < end:
            before = self._arrived
            try:
                async with self._registry.blob(self._partial.digest, offset, end - 1) as response:
                    if response.status == 200:
                        await self._whole(response)
                        self._queue.clear()
                        return
                    _check_range(response, offset, end, self._partial.size)
                    async with aclosing(self._pieces(response)) as pieces:
                        async for piece in pieces:
                            size = await self._write(offset, piece, end)
                            offset += size
                            self._count(self._arrived + size)
                self._require_end(offset, end)
            except RegistryUnreachableError as error:
                failures = 1 if self._arrived - before >= PROGRESS_BYTES else failures + 1
                await self._registry.patience.after(failures, error)
        await self._complete(index)

    async def _whole(self, response: aiohttp.ClientResponse) -> None:
        """Read a body that starts at the blob's first byte; write from the first missing chunk."""
        partial = self._partial
        if response.content_length not in {None, partial.size}:
            raise RegistryError(
                f"{self._registry.source} sends {response.content_length} bytes for blob"
                f" {partial.digest}; the manifest says {partial.size}"
            )
        missing = deque(partial.missing)
        here = partial.bounds(missing[0])[0]
        offset = 0
        async with aclosing(self._pieces(response)) as pieces:
            async for piece in pieces:
                data = b"".join(piece)
                new = data[max(0, here - offset) :]
                offset += len(data)
                await self._write(offset - len(new), [new], partial.size)
                self._count(max(self._arrived, offset))
                while missing and partial.bounds(missing[0])[1] <= offset:
                    await self._complete(missing.popleft())
        self._require_end(offset, partial.size)

    def _pieces(self, response: aiohttp.ClientResponse) -> AsyncGenerator[Piece, None]:
        return _pieces(response, self._registry.patience.stall_s, self._registry.pace)

    def _require_end(self, offset: int, end: int) -> None:
        if offset < end:
            raise RegistryUnreachableError(
                f"{self._registry.source} broke off {end - offset} bytes before the end"
            )

    async def _write(self, offset: int, piece: Piece, end: int) -> int:
        """Returns how many bytes that were."""
        size = sum(map(len, piece))
        if offset + size > end:
            raise RegistryError(f"{self._registry.source} sends more bytes than were asked for")
        if size:
            await to_end(self._partial.write, offset, piece)
        return size

    def _count(self, arrived: int) -> None:
        self._arrived = arrived
        self._report(arrived)

    async def _complete(self, index: int) -> None:
        """Note the chunk, save the journal when it is time, and let the hash follow."""
        self._partial.complete(index)
        if self._partial.has_much_unsaved:
            async with self._saving:  # whoever finds too much unsaved waits: this bounds the loss
                if self._partial.has_much_unsaved:
                    await to_end(self._partial.checkpoint)
        await self._follow_with_hash()

    async def _follow_with_hash(self) -> None:
        """Hash what is complete in order, unless another worker is at it."""
        if self._is_hashing:
            return
        self._is_hashing = True
        try:
            while await to_end(self._partial.hash_next):
                pass
        finally:
            self._is_hashing = False


def _check_range(response: aiohttp.ClientResponse, first: int, end: int, size: int) -> None:
    """Whether a 206 holds what was asked for (RFC 9110 §14.4)."""
    said = response.headers.get("Content-Range", "")
    if said not in {f"bytes {first}-{end - 1}/{size}", f"bytes {first}-{end - 1}/*"}:
        raise RegistryError(
            f"{response.url.origin()} answers bytes {first}-{end - 1} of {size} with {said[:80]!r}"
        )


async def _pieces(
    response: aiohttp.ClientResponse, stall_s: float, pace: Pace
) -> AsyncGenerator[Piece, None]:
    """The body in pieces of a good size for the disk; what came before a break is yielded too.

    Raises RegistryUnreachableError when they only drip; see DripWatch.
    """
    pending: Piece = []
    size = 0
    watch = DripWatch(stall_s, response.url.origin())
    try:
        async for data in response.content.iter_any():
            pending.append(data)
            size += len(data)
            watch.came(len(data))
            watch.rested(await pace.received(len(data)))
            if size >= PIECE_BYTES:
                yield pending
                pending, size = [], 0
    except (aiohttp.ClientError, TimeoutError):
        if pending:
            yield pending
        raise
    if pending:
        yield pending
