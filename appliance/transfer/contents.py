"""Bytes of signed releases over the network: an OCI registry, or a published folder on the web.

Both answer GET with ranges, so both go through the one download of `download.py`; they differ in
addresses alone. What comes is checked by its digest, so neither has to be believed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from yarl import URL

from appliance.errors import DownloadCorruptError, RegistryNotFoundError
from appliance.library.blobs import BlobStore
from appliance.library.manifest import MANIFEST_TYPE, OCI_INDEX_TYPE, OCI_MANIFEST_TYPE, Digest
from appliance.transfer.download import fetch_blob
from appliance.transfer.registry import Registry, read_capped
from appliance.transfer.sources import Source

REGISTRY_SCHEME = "registry+"  # before the address of a registry, to tell it from a folder's

_ACCEPT = f"{OCI_INDEX_TYPE}, {MANIFEST_TYPE}, {OCI_MANIFEST_TYPE}"

Connect = Callable[[Source], Registry]


@dataclass(frozen=True, slots=True)
class NetworkContent:
    """A `Content` at `https://host/path`, a folder, or at `registry+https://host`, a registry."""

    address: str
    connect: Connect
    parts: int  # requests at once for one blob

    async def document(self, repository: str, digest: Digest, max_bytes: int) -> bytes:
        """See `Content`. In a registry an index or manifest is asked for by digest as such, and
        what is none, a small layer, as a blob (OCI distribution, pull)."""
        registry = self.registry(repository)
        if not registry.source.is_folder:
            try:
                url = registry.source.url(f"manifests/{digest}")
                return await _document(registry, url, digest, max_bytes)
            except RegistryNotFoundError:
                pass
        return await _document(registry, registry.source.blob_url(digest), digest, max_bytes)

    async def fetch(
        self,
        repository: str,
        digest: Digest,
        size: int,
        store: BlobStore,
        report: Callable[[int], None],
    ) -> None:
        registry = self.registry(repository)
        await fetch_blob(store, digest, size, [registry], parts=self.parts, report=report)

    def registry(self, repository: str) -> Registry:
        """Requests to that repository there; a folder has no repositories."""
        return self.connect(self._source(repository))

    def _source(self, repository: str) -> Source:
        if self.address.startswith(REGISTRY_SCHEME):
            return Source(URL(self.address.removeprefix(REGISTRY_SCHEME)), repository)
        return Source(URL(self.address.rstrip("/")), "", is_folder=True)

    def __str__(self) -> str:
        return self.address


async def _document(registry: Registry, url: URL, digest: Digest, max_bytes: int) -> bytes:
    """The bytes at `url`, asked for again while nothing answers, and checked."""

    async def attempt() -> bytes:
        async with registry.request("GET", url, headers={"Accept": _ACCEPT}) as response:
            return await read_capped(response, max_bytes, registry.patience.stall_s)

    data = await registry.patience.for_answers().insist(attempt)
    if (found := Digest.of(data)) != digest:
        raise DownloadCorruptError(
            f"{registry.source} sent {found} as {digest}",
            hint="what it holds was damaged or changed; another source may have the right bytes",
        )
    return data
