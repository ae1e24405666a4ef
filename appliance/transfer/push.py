"""Push: the blobs that a registry lacks, then the manifest, byte for byte as it is stored here.

Uploads in parts by PATCH, as Ollama does: its registry answers each part with a redirect to storage
(307), a plain OCI registry takes it itself. A part that fails begins the blob anew.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing
from pathlib import Path

from multidict import CIMultiDictProxy
from yarl import URL

from appliance.errors import (
    ModelNameError,
    ModelNotFoundError,
    RegistryError,
    RegistryUnreachableError,
)
from appliance.library.blobs import missing_blob
from appliance.library.library import Library
from appliance.library.manifest import MANIFEST_TYPE, Layer, Manifest
from appliance.library.names import ModelName
from appliance.threads import to_end
from appliance.transfer.progress import Progress, Tell
from appliance.transfer.redirects import next_hop
from appliance.transfer.registry import Registry

log = logging.getLogger("hearth.transfer")

PART_BYTES = 100_000_000  # Ollama's smallest part, which its storage demands
PIECE_BYTES = 256 << 10

Read = Callable[[int], Generator[bytes, None, None]]  # a blob's bytes from that offset on


async def push(library: Library, name: ModelName, registry: Registry, tell: Tell) -> None:
    """Send the stored model `name`; raises ModelNotFoundError, RegistryError, LibraryError."""
    tell(Progress("retrieving manifest"))
    try:
        data = await asyncio.to_thread(library.read_manifest, name)
    except ModelNotFoundError as error:
        raise ModelNotFoundError("couldn't retrieve manifest", hint=error.hint) from error
    manifest = Manifest.parse(data)
    for layer in dict.fromkeys((*manifest.layers, manifest.config)):
        read = file_reader(library.blobs.path(layer.digest))
        parent = _parent(layer, registry.source.repository)
        await Upload(registry, layer, read, tell, mount_from=parent).run()
    tell(Progress("pushing manifest"))
    kind = str(json.loads(data).get("mediaType", MANIFEST_TYPE))
    url = registry.source.url(f"manifests/{name.tag}")

    async def put() -> None:
        async with registry.request("PUT", url, headers={"Content-Type": kind}, body=data):
            pass

    await registry.patience.insist(put)
    log.info("pushed model=%s to=%s bytes=%d", name, registry.source, manifest.size)
    tell(Progress("success"))


class Upload:
    """One blob on its way to one registry, unless that has it.

    `mount_from` is a sister repository that may hold the blob, so that no byte needs to be sent.
    """

    def __init__(
        self, registry: Registry, layer: Layer, read: Read, tell: Tell, *, mount_from: str = ""
    ) -> None:
        self._registry = registry
        self._layer = layer
        self._read = read
        self._tell = tell
        self._mount_from = mount_from
        self._watch = asyncio.timeout(None)
        self._most = 0  # bytes sent in the best try, so that progress never goes back

    async def run(self) -> None:
        """Raises RegistryError, and LibraryError where the bytes end early."""
        self._report(0)
        await self._registry.patience.insist(self._try)
        self._report(self._layer.size)

    async def _try(self) -> None:
        if await self._registry.has_blob(self._layer.digest):
            return
        location = await self._begin()
        if location is None:
            return
        try:
            async with asyncio.timeout(None) as self._watch:
                location, md5s = await self._parts(location)
                await self._finish(location, md5s)
        except TimeoutError as error:
            raise RegistryUnreachableError(
                f"{self._registry.source} takes no bytes of blob {self._layer.digest}"
            ) from error

    def _keep_watch(self) -> None:
        """Something moved. The session sees answers that do not come, this sees bytes that do not
        go; twice the time, so that the session is first to complain where both would."""
        limit_s = 2 * self._registry.patience.stall_s
        self._watch.reschedule(asyncio.get_running_loop().time() + limit_s)

    async def _begin(self) -> URL | None:
        """Where to upload to; None when the registry took the blob from a sister repository."""
        url = self._registry.source.url("blobs/uploads/")
        if self._mount_from:
            url = url.with_query({"mount": str(self._layer.digest), "from": self._mount_from})
        async with self._registry.request("POST", url) as response:
            if response.status == 201:
                return None
            return await _location(url, response.headers)

    async def _parts(self, location: URL) -> tuple[URL, list[bytes]]:
        """Send all parts, one after another; where to finish, and each part's MD5."""
        md5s: list[bytes] = []
        for first in range(0, self._layer.size, PART_BYTES):
            end = min(first + PART_BYTES, self._layer.size)
            md5 = hashlib.md5(usedforsecurity=False)
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(end - first),
                "Content-Range": f"{first}-{end - 1}",
                "X-Redirect-Uploads": "1",
            }
            body = self._body(first, end, md5.update)
            async with self._registry.request(
                "PATCH", location, headers=headers, body=body
            ) as answer:
                status, following = answer.status, await _location(location, answer.headers)
                target = answer.headers.get("Location", "")
            if status == 307:
                md5 = hashlib.md5(usedforsecurity=False)
                target_url = await self._registry.next_hop(location, target)
                await self._store(target_url, first, end, md5.update)
            location = following
            md5s.append(md5.digest())
        return location, md5s

    async def _store(
        self, target: URL, first: int, end: int, update: Callable[[bytes], None]
    ) -> None:
        """PUT one part where the registry's storage wants it."""
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(end - first),
        }
        body = self._body(first, end, update)
        async with self._registry.request("PUT", target, headers=headers, body=body):
            pass

    async def _finish(self, location: URL, md5s: list[bytes]) -> None:
        digest = self._layer.digest
        etag = f"{hashlib.md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{len(md5s)}"
        self._keep_watch()
        url = location.update_query({"digest": str(digest), "etag": etag})
        async with self._registry.request("PUT", url, headers={"Content-Length": "0"}):
            pass

    def _body(
        self, first: int, end: int, update: Callable[[bytes], None]
    ) -> Callable[[], AsyncGenerator[bytes, None]]:
        """The bytes from `first` to before `end`, read in a thread as the network takes them."""

        async def pieces() -> AsyncGenerator[bytes, None]:
            with closing(self._read(first)) as source:
                offset = first
                while offset < end:
                    piece = (await to_end(next, source, b""))[: end - offset]
                    if not piece:
                        raise missing_blob(self._layer.digest)
                    update(piece)
                    await self._registry.pace.sending(len(piece), self._keep_watch)
                    self._keep_watch()
                    yield piece
                    offset += len(piece)
                    self._report(offset)

        return pieces

    def _report(self, done: int) -> None:
        self._most = max(self._most, done)
        layer = self._layer
        self._tell(Progress.of_blob("pushing", layer.digest, layer.size, self._most))


def file_reader(path: Path) -> Read:
    """Reads a blob that is one file."""

    def read(first: int) -> Generator[bytes, None, None]:
        with path.open("rb") as file:
            file.seek(first)
            while piece := file.read(PIECE_BYTES):
                yield piece

    return read


def _parent(layer: Layer, repository: str) -> str:
    """The repository that the layer came from, which may be at the same registry."""
    if not layer.source:
        return ""
    try:
        parent = ModelName.parse(layer.source)
    except ModelNameError:
        return ""
    found = f"{parent.namespace}/{parent.model}"
    return "" if found == repository else found


async def _location(base: URL, headers: CIMultiDictProxy[str]) -> URL:
    """Where an upload goes on (Ollama's registry has a header of its own for that)."""
    text = headers.get("Docker-Upload-Location") or headers.get("Location", "")
    if not text:
        raise RegistryError(f"{base.origin()} does not say where to upload to")
    return await next_hop(base, text)
