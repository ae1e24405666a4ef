"""Pull: a manifest, then the blobs that are not here, then the model appears, whole or not at all.

The order of Ollama's pull with its status lines. How the blobs come here and what is checked of
them is `gather.py`'s business.
"""

import asyncio
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from appliance.errors import LibraryError, RegistryError
from appliance.library.library import Library
from appliance.library.manifest import (
    MANIFEST_TYPE,
    MODEL_TYPE,
    OCI_MANIFEST_TYPE,
    Digest,
    Layer,
    Manifest,
)
from appliance.library.names import ModelName
from appliance.threads import to_end
from appliance.transfer.download import Report, fetch_blob
from appliance.transfer.gather import Gatherer
from appliance.transfer.progress import Progress, Tell
from appliance.transfer.registry import Registry
from appliance.trust.gate import Gate

log = logging.getLogger("hearth.transfer")


@dataclass(slots=True)
class Puller:
    """Pulls into one library. Several pulls may run; one blob is fetched once."""

    library: Library
    parts: int  # requests at once for one blob
    max_blob_bytes: int
    gatherer: Gatherer
    gate: Gate

    async def pull(
        self, name: ModelName, registries: Sequence[Registry], tell: Tell, *, confirmed: bool
    ) -> None:
        """Install `name` from the first registry that has it.

        `confirmed` is a person's word for a model that changed since its first pull. Raises
        PolicyRefusedError, RegistryError, DiskFullError, LibraryError; then the model is what it
        was before.
        """
        tell(Progress("pulling manifest"))
        data, order = await _find_manifest(name, registries)
        url, digest = order[0].source.base, Digest.of(data)

        def require_allowed() -> None:
            self.gate.require_pull(name, url, digest, confirmed=confirmed)

        await asyncio.to_thread(require_allowed)
        manifest = check_manifest(data, self.max_blob_bytes)
        bad: list[Digest] = []
        try:
            async with self.gatherer.held(manifest.digests):
                await self._blobs(manifest, order, tell)
                tell(Progress("verifying sha256 digest"))
                await asyncio.to_thread(require_allowed)  # the mode may have changed meanwhile
                await self.gatherer.check_ggufs(manifest, bad)
                tell(Progress("writing manifest"))
                had_others = await asyncio.to_thread(self._had_others, name, manifest)
                await to_end(self.gate.lock, name, url, digest)
                await to_end(self.library.write_manifest, name, data)
        finally:
            await to_end(self.library.remove_unused, bad)
        if had_others:
            tell(Progress("removing unused layers"))
        log.info("pulled model=%s source=%s bytes=%d", name, order[0].source, manifest.size)
        tell(Progress("success"))

    async def _blobs(self, manifest: Manifest, order: Sequence[Registry], tell: Tell) -> None:
        async def fetch(digest: Digest, size: int, report: Report) -> None:
            store = self.library.blobs
            await fetch_blob(store, digest, size, order, parts=self.parts, report=report)

        await self.gatherer.blobs(sizes_of(manifest), fetch, tell)

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
    check_sizes((manifest.config, *manifest.layers), max_blob_bytes)
    return manifest


def check_sizes(parts: Iterable[Layer], max_blob_bytes: int) -> None:
    """Raise RegistryError where a part is too large, or has two sizes."""
    sizes: dict[Digest, int] = {}
    for part in parts:
        if part.size > max_blob_bytes:
            raise RegistryError(
                f"blob {part.digest} has {part.size} bytes, {max_blob_bytes} are allowed",
                hint="see max_blob_gib",
            )
        if sizes.setdefault(part.digest, part.size) != part.size:
            raise RegistryError(f"the manifest gives blob {part.digest} two different sizes")


def sizes_of(manifest: Manifest) -> dict[Digest, int]:
    """The parts of a model with their bytes, the config last."""
    return {part.digest: part.size for part in (*manifest.layers, manifest.config)}


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
