"""Who may have good bytes of a damaged part of a signed release: its repository's own addresses.

The hashes of a blob's chunks are noted when it comes in. Where that note is gone, or was never made
because the bytes were here before the release, those that the publisher signed along take its
place, so that the repair still costs chunks and not the blob.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from appliance.bundles.bundles import Bundles
from appliance.bundles.release import CHUNKS_TYPE, MAX_INDEX_BYTES, Extras, Release
from appliance.bundles.state import Kept
from appliance.errors import ApplianceError, LibraryError, NotFoundError
from appliance.library.chunks import ChunkMap
from appliance.library.library import Library
from appliance.library.manifest import Digest
from appliance.library.names import ModelName
from appliance.library.scrub import Damage
from appliance.transfer.repair import ContentRepairer, Repairer
from appliance.transfer.transfers import Transfers


class ReleaseFinder:
    """A finder for `Repairs.add_finder`. The repository of a name gave its blobs, so it is asked
    without anybody's wish."""

    def __init__(self, library: Library, bundles: Bundles, transfers: Transfers) -> None:
        self._store = library.blobs
        self._bundles = bundles
        self._transfers = transfers

    async def __call__(self, damage: Damage, _is_asked_for: bool) -> Sequence[Repairer]:
        found: dict[tuple[str, str], Repairer] = {}
        for name, addresses in await asyncio.to_thread(self._owners, damage):
            repository = f"{name.namespace}/{name.model}"
            for content in self._transfers.contents(addresses):
                key = (str(content), repository)
                found.setdefault(key, ContentRepairer(content, repository))
        return list(found.values())

    def _owners(self, damage: Damage) -> list[tuple[ModelName, Sequence[str]]]:
        """The signed names whose kept releases have the blob, and where these come from."""
        found: list[tuple[ModelName, Sequence[str]]] = []
        for state in self._bundles.states():
            name = ModelName.parse(state.name)
            if damage.digest in state.digests:
                self._note_signed_chunks(state.kept, damage)
            if damage.digest not in state.digests and name not in damage.models:
                continue
            try:
                owner = self._bundles.owner(name)
            except ApplianceError:
                continue  # its repository's files are damaged: the doctor says so
            if owner is not None:
                found.append((name, owner.addresses))
        return found

    def _note_signed_chunks(self, releases: Sequence[Kept], damage: Damage) -> None:
        noted = self._store.chunk_map(damage.digest)
        if noted is not None and noted.spans(damage.size):
            return
        for release in releases:
            with contextlib.suppress(LibraryError, NotFoundError):  # damaged as well
                signed = self._signed_chunks(Digest.parse(release.index), damage.digest)
                if signed is not None and signed.spans(damage.size):
                    self._store.save_map(damage.digest, signed)
                    return

    def _signed_chunks(self, index: Digest, blob: Digest) -> ChunkMap | None:
        extras = Release.parse(self._store.read(index, MAX_INDEX_BYTES)).extras
        if extras is None:
            return None
        layer = Extras.parse(self._store.read(extras.digest, MAX_INDEX_BYTES)).of_type(CHUNKS_TYPE)
        return ChunkMap.parse(self._store.read(layer.digest, layer.size), blob) if layer else None
