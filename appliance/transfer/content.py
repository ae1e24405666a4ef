"""Where the bytes of a signed release may come from. What is asked for is named by its digest, and
checked against it, so any source will do: a registry, a web folder, a stick, a neighbour."""

from collections.abc import Callable
from typing import Protocol

from appliance.library.blobs import BlobStore
from appliance.library.manifest import Digest


class Content(Protocol):
    """One source. `repository` is `namespace/model`; sources addressed by digest alone ignore it.

    Raises RegistryError or one of its kinds: RegistryNotFoundError when it lacks the bytes,
    RegistryUnreachableError when another try may do, DownloadCorruptError for wrong bytes.
    """

    async def document(self, repository: str, digest: Digest, max_bytes: int) -> bytes:
        """An index, a manifest or another small file, whole; its digest is right."""

    async def fetch(
        self,
        repository: str,
        digest: Digest,
        size: int,
        store: BlobStore,
        report: Callable[[int], None],
    ) -> None:
        """Put a blob into `store`, resuming what an earlier try left there.

        `report` is told the bytes that are here, as they come.
        """

    def __str__(self) -> str:
        """How logs and errors call it."""
