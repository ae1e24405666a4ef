"""Bytes of signed releases from a layout folder: a stick, or a published folder on a disk.

One write per byte, hashed meanwhile; a stick that was pulled out is gone on with where it was.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from appliance.bundles.layout import Layout
from appliance.errors import (
    DownloadCorruptError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnreachableError,
)
from appliance.library.blobs import BlobStore, require_space
from appliance.library.manifest import Digest
from appliance.threads import to_end
from appliance.transfer.partial import Partial, missing_bytes


@dataclass(frozen=True, slots=True)
class FolderContent:
    """A `Content` (transfer/content.py) over a layout; addressed by digest alone."""

    layout: Layout

    async def document(self, _repository: str, digest: Digest, max_bytes: int) -> bytes:
        """See `Content`."""
        try:
            return await asyncio.to_thread(self.layout.read, digest, max_bytes)
        except RegistryNotFoundError as error:
            raise await asyncio.to_thread(self._why_missing, error) from error

    async def fetch(
        self,
        _repository: str,
        digest: Digest,
        size: int,
        store: BlobStore,
        report: Callable[[int], None],
    ) -> None:
        """See `Content`. Raises DiskFullError before the first byte; one task at a time a blob."""
        partial = Partial(store, digest, size)
        try:
            await to_end(self._begin, partial, store)
            await self._fill(partial, report)
            await to_end(partial.commit)
        except RegistryNotFoundError as error:
            raise await asyncio.to_thread(self._why_missing, error) from error
        except DownloadCorruptError as error:
            raise _damaged(self.layout, str(error)) from error
        finally:
            await to_end(partial.close)

    def __str__(self) -> str:
        return str(self.layout.root)

    def _begin(self, partial: Partial, store: BlobStore) -> None:
        """The medium and the disk are asked before anything is written."""
        found = self.layout.size(partial.digest)
        if found != partial.size:
            raise _damaged(
                self.layout,
                f"blob {partial.digest} has {found} bytes there, {partial.size} were signed",
            )
        store.root.mkdir(parents=True, exist_ok=True)
        require_space(store.root, missing_bytes(store, partial.digest, partial.size))
        partial.open()

    async def _fill(self, partial: Partial, report: Callable[[int], None]) -> None:
        """The missing chunks in order, each read while the one before it is hashed."""
        report(partial.done_bytes)
        for index in partial.missing:
            await _both(to_end(self._copy, partial, index), to_end(partial.hash_next))
            partial.complete(index)
            if partial.has_much_unsaved:
                await to_end(partial.checkpoint)
            report(partial.done_bytes)

    def _copy(self, partial: Partial, index: int) -> None:
        offset, end = partial.bounds(index)
        for piece in self.layout.chunks_from(partial.digest, offset, end):
            partial.write(offset, [piece])
            offset += len(piece)
        if offset < end:
            raise _damaged(self.layout, f"blob {partial.digest} was cut while it was read")

    def _why_missing(self, error: RegistryNotFoundError) -> RegistryError:
        """A medium that lacks a blob is another thing than one that is gone: then try again."""
        try:
            self.layout.check()
        except RegistryError:
            return RegistryUnreachableError(
                f"the medium at {self.layout.root} is gone; what was read of it is kept",
                hint="plug it in again and repeat the import",
            )
        return error


async def _both(*steps: Coroutine[Any, Any, Any]) -> None:
    """Run steps at once and wait for all, also when one fails."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures


def _damaged(layout: Layout, why: str) -> DownloadCorruptError:
    return DownloadCorruptError(
        f"the copy in {layout.root} is damaged: {why}", hint="copy the medium again"
    )
