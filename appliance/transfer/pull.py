"""Pull: a manifest, then the blobs that are not here, then the model appears, whole or not at all.

The order of Ollama's pull with its status lines. What differs: sizes are capped by the manifest,
free space is checked before the first byte, blobs that are here are hashed before they count as
here, and a GGUF is validated before a manifest may name it.
"""

import asyncio
import hashlib
import json
import logging
import shutil
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from appliance.errors import LibraryError, RegistryError
from appliance.library.blobs import disk_full, make_folders
from appliance.library.library import Library
from appliance.library.manifest import (
    ADAPTER_TYPE,
    MANIFEST_TYPE,
    MODEL_TYPE,
    OCI_MANIFEST_TYPE,
    PROJECTOR_TYPE,
    Digest,
    Manifest,
)
from appliance.library.names import ModelName
from appliance.threads import to_end
from appliance.transfer.download import fetch_blob
from appliance.transfer.partial import missing_bytes
from appliance.transfer.progress import Progress, Tell
from appliance.transfer.registry import Registry
from engine.errors import ModelFormatError

log = logging.getLogger("hearth.transfer")

MAX_RESERVE_BYTES = 1 << 30
RESERVE_SHARE = 20  # a twentieth of the disk stays free, but no more than the maximum

_GGUF_TYPES = (MODEL_TYPE, PROJECTOR_TYPE, ADAPTER_TYPE)


@dataclass(slots=True)
class Puller:
    """Pulls into one library. Several pulls may run; one blob is fetched once."""

    library: Library
    parts: int  # requests at once for one blob
    max_blob_bytes: int
    _busy: WeakValueDictionary[Digest, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def pull(self, name: ModelName, registries: Sequence[Registry], tell: Tell) -> None:
        """Install `name` from the first registry that has it.

        Raises RegistryError, DiskFullError, LibraryError; then the model is what it was before.
        """
        tell(Progress("pulling manifest"))
        data, order = await _find_manifest(name, registries)
        manifest = check_manifest(data, self.max_blob_bytes)
        bad: list[Digest] = []
        try:
            async with self._held(manifest.digests):
                await self._blobs(manifest, order, tell)
                tell(Progress("verifying sha256 digest"))
                await self._check_ggufs(manifest, bad)
                tell(Progress("writing manifest"))
                had_others = await asyncio.to_thread(self._had_others, name, manifest)
                await to_end(self.library.write_manifest, name, data)
        finally:
            await to_end(self.library.remove_unused, bad)
        if had_others:
            tell(Progress("removing unused layers"))
        log.info("pulled model=%s source=%s bytes=%d", name, order[0].source, manifest.size)
        tell(Progress("success"))

    @asynccontextmanager
    async def _held(self, digests: Iterable[Digest]) -> AsyncGenerator[None, None]:
        """The library's hold, taken and released in a thread, as its lock may be waited for."""
        hold = self.library.hold(digests)
        try:
            await to_end(hold.__enter__)  # taken in any case, also when cancelled here
            yield
        finally:
            await to_end(hold.__exit__, None, None, None)

    async def _blobs(self, manifest: Manifest, order: Sequence[Registry], tell: Tell) -> None:
        sizes = {part.digest: part.size for part in (*manifest.layers, manifest.config)}
        await asyncio.to_thread(self._require_space, sizes)
        for digest, size in sizes.items():
            await self._blob(digest, size, order, tell)

    async def _blob(
        self, digest: Digest, size: int, registries: Sequence[Registry], tell: Tell
    ) -> None:
        def report(completed: int) -> None:
            tell(Progress.of_blob("pulling", digest, size, completed))

        report(0)
        lock = self._busy.setdefault(digest, asyncio.Lock())
        async with lock:
            if not await asyncio.to_thread(self._is_here, digest, size):
                store = self.library.blobs
                await fetch_blob(store, digest, size, registries, parts=self.parts, report=report)
        report(size)

    def _is_here(self, digest: Digest, size: int) -> bool:
        """Whether the blob is stored and its bytes are still those of its name."""
        if not self.library.blobs.has(digest) or self.library.blobs.size(digest) != size:
            return False
        return digest_of_file(self.library, digest) == digest

    def _require_space(self, sizes: dict[Digest, int]) -> None:
        store = self.library.blobs
        wanted = sum(
            missing_bytes(store, digest, size)
            for digest, size in sizes.items()
            if not store.has(digest)
        )
        if not wanted:
            return
        make_folders(store.root)
        disk = shutil.disk_usage(store.root)
        reserve = min(MAX_RESERVE_BYTES, disk.total // RESERVE_SHARE)
        if wanted + reserve > disk.free:
            raise disk_full(
                f"the model needs {wanted} bytes and {reserve} must stay free,"
                f" the disk has {disk.free}"
            )

    async def _check_ggufs(self, manifest: Manifest, bad: list[Digest]) -> None:
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

    def _had_others(self, name: ModelName, manifest: Manifest) -> bool:
        """Whether the model is here already, with layers that the new one lacks."""
        try:
            has = self.library.has(name)
            return has and bool(self.library.get(name).manifest.digests - manifest.digests)
        except LibraryError:
            return False


def check_manifest(data: bytes, max_blob_bytes: int) -> Manifest:
    """A registry's manifest, if it describes one GGUF model; raises RegistryError."""
    try:
        manifest = Manifest.parse(data)
    except LibraryError as error:
        raise RegistryError(f"pull model manifest: {error}") from error
    kind = json.loads(data).get("mediaType", MANIFEST_TYPE)
    if kind not in {MANIFEST_TYPE, OCI_MANIFEST_TYPE}:
        raise RegistryError(f"pull model manifest: its type is {str(kind)[:100]!r}, not a model's")
    count = len(manifest.of_type(MODEL_TYPE))
    if count != 1:
        seen = sorted({layer.media_type for layer in manifest.layers})[:5]
        raise RegistryError(
            f"the model has {count} layers of GGUF weights, exactly one is needed",
            hint=f"its layers are of types {', '.join(seen) or 'unknown'}",
        )
    sizes: dict[Digest, int] = {}
    for part in (manifest.config, *manifest.layers):
        if part.size > max_blob_bytes:
            raise RegistryError(
                f"blob {part.digest} has {part.size} bytes, {max_blob_bytes} are allowed",
                hint="see max_blob_gib",
            )
        if sizes.setdefault(part.digest, part.size) != part.size:
            raise RegistryError(f"the manifest gives blob {part.digest} two different sizes")
    return manifest


async def _find_manifest(
    name: ModelName, registries: Sequence[Registry]
) -> tuple[bytes, Sequence[Registry]]:
    """The manifest, and the registries with the one that had it in front.

    Only the last, which is the registry that the name means, is asked again and again.
    """
    *mirrors, origin = registries
    for mirror in mirrors:
        try:
            data = await mirror.manifest(name.tag)
        except RegistryError as error:
            log.info("mirror has no answer source=%s model=%s: %s", mirror.source, name, error)
        else:
            return data, [mirror, *(other for other in registries if other is not mirror)]
    try:
        data = await origin.patience.for_answers().insist(lambda: origin.manifest(name.tag))
    except RegistryError as error:
        raise type(error)(f"pull model manifest: {error}", hint=error.hint) from error
    return data, [origin, *mirrors]


def digest_of_file(library: Library, digest: Digest) -> Digest:
    """What a stored blob really hashes to. Reads all of it."""
    with library.blobs.path(digest).open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").hexdigest())
