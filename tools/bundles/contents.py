"""What a release consists of, read from any place and checked: documents, then blobs.

index ─┬─ variant manifest ── config, layers        (several)
       └─ extras manifest ── smoke tests, bill of materials, card, chunk hashes
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from appliance.bundles.release import EMPTY, INDEX_TYPE, MAX_INDEX_BYTES, Extras, Release
from appliance.errors import LibraryError
from appliance.library.manifest import (
    MANIFEST_TYPE,
    MAX_MANIFEST_BYTES,
    OCI_MANIFEST_TYPE,
    Digest,
    Layer,
    Manifest,
)

EMPTY_BLOB = Layer("", Digest.of(EMPTY), len(EMPTY))  # the config of every extras artifact

ADOPTED = "hearth.adopted-from"  # annotation of a release made by `bundle adopt`

ReadDocument = Callable[[Digest, int], Awaitable[bytes]]  # digest, most bytes


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest with its bytes."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> Digest:
        return Digest.of(self.data)


@dataclass(frozen=True, slots=True)
class ReleaseContents:
    """All parts of a release; `blobs` are each named once, `variants` are in the index's order."""

    index: bytes
    release: Release
    variants: tuple[Document, ...]
    extras: Document | None
    blobs: tuple[Layer, ...]

    @property
    def digest(self) -> Digest:
        return Digest.of(self.index)

    @property
    def documents(self) -> tuple[Document, ...]:
        """Manifests and then the index, in an order of writing."""
        extras = () if self.extras is None else (self.extras,)
        return (*self.variants, *extras, Document(INDEX_TYPE, self.index))

    @property
    def adopted_from(self) -> str:
        """The model whose blobs boxes already have, where they need not lie beside the release."""
        return self.release.more.get(ADOPTED, "")


async def read_contents(digest: Digest, read: ReadDocument) -> ReleaseContents:
    """Everything but the blobs. Raises LibraryError for what is not a release within limits, and
    what `read` raises for what is missing or damaged."""
    index = await read(digest, MAX_INDEX_BYTES)
    release = Release.parse(index)
    variants, blobs = [], dict[Digest, Layer]()
    for variant in release.variants:
        data = await read(variant.digest, MAX_MANIFEST_BYTES)
        _require_size(data, variant.size, f"manifest of {variant.name}")
        manifest = Manifest.parse(data)
        variants.append(Document(MANIFEST_TYPE, data))
        _add(blobs, *manifest.layers, manifest.config)
    extras = None
    if release.extras is not None:
        data = await read(release.extras.digest, MAX_INDEX_BYTES)
        _require_size(data, release.extras.size, "manifest of the extras")
        extras = Document(OCI_MANIFEST_TYPE, data)
        _add(blobs, *Extras.parse(data).layers, EMPTY_BLOB)
    return ReleaseContents(index, release, tuple(variants), extras, tuple(blobs.values()))


def _add(blobs: dict[Digest, Layer], *layers: Layer) -> None:
    for layer in layers:
        if blobs.setdefault(layer.digest, layer).size != layer.size:
            raise LibraryError(f"the release gives blob {layer.digest} two different sizes")


def _require_size(data: bytes, size: int, what: str) -> None:
    if len(data) != size:
        raise LibraryError(f"the {what} has {len(data)} bytes, the index says {size}")
