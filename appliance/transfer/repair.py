"""Good bytes for a damaged blob: its damaged chunks if they are known, else all of it.

Any source will do, as every chunk and the whole is checked. Who has bytes is asked of finders: the
registries that a model's name means are one, signed releases bring their own.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.errors import RegistryError, RegistryUnreachableError
from appliance.library.blobs import BlobStore
from appliance.library.chunks import Span
from appliance.library.library import Library
from appliance.library.manifest import Digest
from appliance.library.mend import Mending
from appliance.library.scrub import Damage
from appliance.threads import to_end
from appliance.transfer.contents import NetworkContent
from appliance.transfer.download import Report, fetch_blob
from appliance.transfer.gather import Gatherer
from appliance.transfer.patience import DripWatch
from appliance.transfer.registry import Registry
from appliance.transfer.telling import most_telling

MAX_DOCUMENT_BYTES = 4 << 20

log = logging.getLogger("hearth.transfer")


class Repairer(Protocol):
    """One source of bytes. Raises RegistryError when it lacks them or cannot be reached."""

    async def read(self, digest: Digest, span: Span) -> bytes:
        """Those bytes of the blob; they are checked by who asks."""

    async def fetch(self, digest: Digest, size: int, store: BlobStore, report: Report) -> None:
        """Put the whole blob into `store`."""

    def __str__(self) -> str:
        """How logs and people call it."""


# who may have a damaged blob, best first; the second argument: whether a person asked for it
Finder = Callable[[Damage, bool], Awaitable[Sequence[Repairer]]]


@dataclass(frozen=True, slots=True)
class Repaired:
    """A blob is whole again."""

    digest: Digest
    fetched_bytes: int
    source: str  # empty: nothing had to be fetched


@dataclass(frozen=True, slots=True)
class RegistryRepairer:
    """Reads from one repository of a registry, or from a published folder."""

    registry: Registry
    parts: int  # requests at once for a whole blob

    async def read(self, digest: Digest, span: Span) -> bytes:
        patience = self.registry.patience.for_answers()
        return await patience.insist(lambda: self._attempt(digest, span))

    async def fetch(self, digest: Digest, size: int, store: BlobStore, report: Report) -> None:
        await fetch_blob(store, digest, size, [self.registry], parts=self.parts, report=report)

    async def _attempt(self, digest: Digest, span: Span) -> bytes:
        """A server without ranges sends all; the bytes before are passed over then."""
        first, end = span
        data = bytearray()
        async with self.registry.blob(digest, first, end - 1) as response:
            skip = first if response.status == 200 else 0
            watch = DripWatch(self.registry.patience.stall_s, self.registry.source)
            async for piece in response.content.iter_any():
                watch.came(len(piece))
                watch.rested(await self.registry.pace.received(len(piece)))
                passed = min(skip, len(piece))
                skip -= passed
                data += piece[passed:]
                if len(data) >= end - first:
                    return bytes(data[: end - first])
        raise RegistryUnreachableError(f"{self.registry.source} broke off within {first}-{end - 1}")

    def __str__(self) -> str:
        return str(self.registry.source)


@dataclass(frozen=True, slots=True)
class ContentRepairer:
    """Reads parts of a signed release from one of the places that have it."""

    content: NetworkContent
    repository: str

    async def read(self, digest: Digest, span: Span) -> bytes:
        registry = self.content.registry(self.repository)
        return await RegistryRepairer(registry, self.content.parts).read(digest, span)

    async def fetch(self, digest: Digest, size: int, store: BlobStore, report: Report) -> None:
        """A small one may be an index or a manifest, which registries have at a place of its own.
        Of these no manifest says the size."""
        if size > MAX_DOCUMENT_BYTES:
            await self.content.fetch(self.repository, digest, size, store, report)
            return
        data = await self.content.document(self.repository, digest, MAX_DOCUMENT_BYTES)
        await to_end(store.put_bytes, data)

    def __str__(self) -> str:
        return str(self.content)


class Repairs:
    """Repairs blobs of one library, one at a time for each."""

    def __init__(self, library: Library, gatherer: Gatherer) -> None:
        self._library = library
        self._gatherer = gatherer
        self._finders: list[Finder] = []

    def add_finder(self, finder: Finder) -> None:
        """Ask `finder` too who may have the bytes of a damaged blob; those added last go first."""
        self._finders.insert(0, finder)

    async def repair(self, damage: Damage, *, is_asked_for: bool = False) -> Repaired:
        """Make the blob whole again; raises RegistryError if nobody has good bytes of it.

        is_asked_for  a person wants it, so that sources may be asked that never gave the blob
        """
        sources = [s for finder in self._finders for s in await finder(damage, is_asked_for)]
        async with self._gatherer.alone(damage.digest), self._gatherer.held([damage.digest]):
            repaired = await self._mend(damage, sources) or await self._replace(damage, sources)
        log.info(
            "repaired blob=%s fetched_bytes=%d source=%s",
            *(repaired.digest, repaired.fetched_bytes, repaired.source),
        )
        return repaired

    async def _mend(self, damage: Damage, sources: Sequence[Repairer]) -> Repaired | None:
        """Fetch the damaged chunks; None if the blob has to be fetched whole."""
        store = self._library.blobs
        mending = await to_end(Mending.begin, store, damage.digest, damage.size)
        if mending is None:
            return None
        try:
            fetched, source = 0, ""
            for span in await to_end(mending.damaged):
                source = await self._chunk(mending, damage.digest, span, sources)
                fetched += span[1] - span[0]
            if await to_end(mending.commit):
                return Repaired(damage.digest, fetched, source)
            return None  # the map is not this blob's
        finally:
            await to_end(mending.close)

    async def _chunk(
        self, mending: Mending, digest: Digest, span: Span, sources: Sequence[Repairer]
    ) -> str:
        """Replace one chunk; returns the source's name."""
        failures: list[RegistryError] = []
        for source in sources:
            try:
                data = await source.read(digest, span)
            except RegistryError as error:
                failures.append(error)
                continue
            if await to_end(mending.put, span, data):
                return str(source)
            failures.append(RegistryError(f"{source} has other bytes of blob {digest}"))
        raise most_telling(failures or [_nobody(digest)])

    async def _replace(self, damage: Damage, sources: Sequence[Repairer]) -> Repaired:
        failures: list[RegistryError] = []
        for source in sources:
            try:
                await source.fetch(damage.digest, damage.size, self._library.blobs, lambda _: None)
            except RegistryError as error:
                failures.append(error)
            else:
                return Repaired(damage.digest, damage.size, str(source))
        raise most_telling(failures or [_nobody(damage.digest)])


def _nobody(digest: Digest) -> RegistryError:
    return RegistryError(
        f"nobody is known to have blob {digest}",
        hint="`hearth scrub --repair` also asks the registry that the model's name means",
    )
