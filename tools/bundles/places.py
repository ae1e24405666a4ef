"""Where releases lie and go: a folder in the layout of `layout.py`, or a registry.

    DIR, STICK                a folder with `oci-layout` in it, or in its folder `hearth`
    registry+https://host     an OCI registry (in_registry.py)

A place is asked for bytes by digest and never believed. Everything is written after what it names.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from yarl import URL

from appliance.bundles.desired import put_desired, read_desired
from appliance.bundles.layout import Layout
from appliance.errors import BadRequestError, RegistryNotFoundError
from appliance.library.manifest import Digest, Layer
from appliance.threads import to_end
from appliance.transfer.contents import REGISTRY_SCHEME
from appliance.transfer.push import Read
from tools.bundles.contents import Document, ReleaseContents
from tools.bundles.in_registry import RegistryPlace, Say
from tools.bundles.metadata import Files, Listed, metadata_files, write_metadata
from tools.bundles.network import connecting

STICK_FOLDER = "hearth"
MARK = "oci-layout"


class Place(Protocol):
    """One source or destination of releases. `repository` is `namespace/model`."""

    async def find(self, reference: str) -> Digest | None:
        """The index that `acme/assistant:1.2.0` names there."""

    async def document(self, repository: str, digest: Digest, max_bytes: int) -> bytes:
        """A manifest or index, checked; raises RegistryNotFoundError."""

    async def has_document(self, repository: str, document: Document) -> bool: ...

    async def put_document(self, repository: str, document: Document) -> None: ...

    async def has_blob(self, repository: str, blob: Layer) -> bool: ...

    def reading(self, repository: str, blob: Layer) -> contextlib.AbstractAsyncContextManager[Read]:
        """What reads a blob's bytes from any offset."""

    async def put_blob(self, repository: str, blob: Layer, read: Read) -> None:
        """Store a blob that is not there; bytes of another digest are refused."""

    async def name(self, reference: str, contents: ReleaseContents) -> None:
        """Let `reference` mean this release, all of which is there."""

    async def word(self, name: str, one: Listed) -> bytes:
        """A document that repository `name` signed and that is no release, such as a channel's;
        raises RegistryNotFoundError, or another RegistryError for other bytes."""

    async def put_word(self, name: str, one: Listed, data: bytes) -> None:
        """Have such a document, whose digest is right, where boxes look for it."""

    async def metadata(self, reference: str) -> Mapping[str, Files]:
        """What is signed, by repository of signatures; all that lies beside `reference`."""

    async def put_metadata(self, name: str, files: Files, repositories: Sequence[str]) -> None:
        """Bring the signed files of repository `name` up to date, what makes them count last.

        Refuses older ones than those that are there. `repositories` are the models concerned.
        """


@dataclass(slots=True)
class LayoutPlace:
    """A folder; on a stick it also says what channels want, for boxes without a network."""

    layout: Layout
    is_stick: bool = False

    async def find(self, reference: str) -> Digest | None:
        return (await to_end(self.layout.releases)).get(reference)

    async def document(self, repository: str, digest: Digest, max_bytes: int) -> bytes:
        return await to_end(self.layout.read, digest, max_bytes)

    async def has_document(self, repository: str, document: Document) -> bool:
        return await to_end(self._has, document.digest, len(document.data))

    async def put_document(self, repository: str, document: Document) -> None:
        await to_end(self.layout.put_bytes, document.data, document.media_type)

    async def has_blob(self, repository: str, blob: Layer) -> bool:
        return await to_end(self._has, blob.digest, blob.size)

    @contextlib.asynccontextmanager
    async def reading(self, repository: str, blob: Layer) -> AsyncIterator[Read]:
        def read(first: int) -> Generator[bytes, None, None]:
            yield from self.layout.chunks_from(blob.digest, first)

        yield read

    async def put_blob(self, repository: str, blob: Layer, read: Read) -> None:
        with contextlib.closing(read(0)) as chunks:
            await to_end(self.layout.put_chunks, blob.digest, blob.size, chunks)

    async def name(self, reference: str, contents: ReleaseContents) -> None:
        if await self.find(reference) != contents.digest:
            size = len(contents.index)
            await to_end(self.layout.set_release, reference, contents.digest, size)

    async def word(self, name: str, one: Listed) -> bytes:
        return await to_end(self._word, name, one)

    async def put_word(self, name: str, one: Listed, data: bytes) -> None:
        await to_end(self.layout.put_bytes, data)
        if self.is_stick and one.channel:
            await to_end(put_desired, self.layout, f"{name}/{one.channel}", data)

    async def metadata(self, reference: str) -> Mapping[str, Files]:
        return await to_end(self._metadata)

    async def put_metadata(self, name: str, files: Files, repositories: Sequence[str]) -> None:
        await to_end(write_metadata, self.layout, name, files)

    def _word(self, name: str, one: Listed) -> bytes:
        """A medium that a box wrote has it in `desired/` alone."""
        if one.channel and not self.layout.has(one.digest):
            data = read_desired(self.layout, f"{name}/{one.channel}", one.digest)
            if data is None:
                raise RegistryNotFoundError(f"{self} has no bytes of {one.path}")
            return data
        return self.layout.read(one.digest, one.length)

    def _metadata(self) -> dict[str, Files]:
        found = {name: metadata_files(self.layout, name) for name in self.layout.repositories()}
        return {name: files for name, files in found.items() if files}

    def _has(self, digest: Digest, size: int) -> bool:
        return self.layout.has(digest) and self.layout.size(digest) == size

    def __str__(self) -> str:
        return str(self.layout.root)


@contextlib.asynccontextmanager
async def opening(
    text: str, *, create: bool = False, stick: bool = False, say: Say = lambda _: None
) -> AsyncIterator[Place]:
    """The place that `text` means; `create` makes a folder, on a `stick` in its folder `hearth`."""
    if text.startswith(REGISTRY_SCHEME):
        async with connecting() as connect:
            yield RegistryPlace(_registry_url(text), connect, _spool(), say)
        return
    if "://" in text:
        raise BadRequestError(
            f"{text[:200]!r} is not a place that can be written or read here",
            hint=f"give a folder, or {REGISTRY_SCHEME}https://host:port; a web server's folder is "
            "written on its own machine, or mounted",
        )
    layout = await to_end(_open_layout, Path(text), create, stick)
    yield LayoutPlace(layout, is_stick=stick or layout.root.name == STICK_FOLDER)


def layout_root(path: Path, *, stick: bool = False) -> Path:
    """Where the layout of a folder or stick is; links on the way to it are the publisher's own."""
    inner = path / STICK_FOLDER
    is_stick = stick or (not (path / MARK).exists() and (inner / MARK).exists())
    return (inner if is_stick else path).resolve()


def _open_layout(path: Path, create: bool, stick: bool) -> Layout:
    root = layout_root(path, stick=stick)
    layout = Layout.create(root) if create else Layout(root)
    layout.check()
    return layout


def _registry_url(text: str) -> URL:
    try:
        url = URL(text.removeprefix(REGISTRY_SCHEME))
        is_plain = url.scheme in {"http", "https"} and url.host and url.path in {"", "/"}
        is_plain = is_plain and url.user is None and not url.query_string
    except ValueError:
        is_plain = False
    if not is_plain:
        raise BadRequestError(
            f"{text[:200]!r} is not a registry's address",
            hint=f"write {REGISTRY_SCHEME}https://host:port, without a path or a password",
        )
    return url.origin()


def _spool() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "hearth" / "bundle-spool"
