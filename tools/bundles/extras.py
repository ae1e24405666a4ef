"""The artifact beside the variants: smoke tests, bill of materials, model card, chunk hashes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.bundles.release import (
    CARD_TYPE,
    CHUNKS_TYPE,
    EMPTY,
    SBOM_TYPE,
    SMOKE_TYPE,
    Extras,
    Variant,
    canonical_json,
    read_json,
)
from appliance.bundles.smoke import MAX_SMOKE_BYTES, SmokePlan
from appliance.errors import BadRequestError, LibraryError
from appliance.library.chunks import CHUNK_BYTES, ChunkHasher, ChunkMap
from appliance.library.manifest import Digest, Layer
from appliance.library.stored import StoredModel
from tools.bundles.bundlefile import MAX_FILE_BYTES, BundleRequest
from tools.bundles.sbom import bill_of_materials

LARGE_BYTES = 64 << 20  # a larger blob gets a map of its chunks, by which boxes repair it
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class MadeExtras:
    """The artifact's manifest, and all that has to be stored for it."""

    manifest: bytes
    documents: tuple[bytes, ...]


def make_extras(
    request: BundleRequest,
    created: str,
    variants: Sequence[tuple[Variant, StoredModel]],
    files: Mapping[Digest, Path],
) -> MadeExtras:
    """Raises BadRequestError for smoke tests that a box would not run, and for missing files."""
    table = request.table
    parts = [
        (SMOKE_TYPE, smoke_tests(request)),
        (
            SBOM_TYPE,
            bill_of_materials(
                request.repository, request.version, table.licenses, created, variants
            ),
        ),
        (CARD_TYPE, _file(request, table.card, "the model card") if table.card else b""),
        (CHUNKS_TYPE, chunk_maps(files)),
    ]
    found = [(kind, data) for kind, data in parts if data]
    extras = Extras(tuple(Layer(kind, Digest.of(data), len(data)) for kind, data in found))
    return MadeExtras(extras.encode(), (EMPTY, *(data for _, data in found)))


def smoke_tests(request: BundleRequest) -> bytes:
    """The tests as the box reads them, empty if there are none: the box then has its own."""
    table = request.table
    if table.smoke and table.smoke_tests:
        raise BadRequestError("smoke tests are given twice", hint="a file, or tables, not both")
    try:
        if table.smoke:
            data = _file(request, table.smoke, "the file of smoke tests")
            body = read_json(data, "file of smoke tests", MAX_SMOKE_BYTES)
        elif table.smoke_tests:
            body = {"tests": table.smoke_tests}
        else:
            return b""
        if table.min_tokens_per_s:
            body["min_tokens_per_s"] = table.min_tokens_per_s
        data = canonical_json(body)
        SmokePlan.parse(data)
    except LibraryError as error:
        raise BadRequestError(
            f"no box could run these smoke tests: {error}",
            hint="tools/bundles/README.md shows their form",
        ) from error
    return data


def chunk_maps(files: Mapping[Digest, Path], large_bytes: int = LARGE_BYTES) -> bytes:
    """The chunks of every large file, as library/chunks.py reads them; empty if none is large."""
    blobs = {
        str(digest): {"first": chunks.first, "hashes": list(chunks.hashes)}
        for digest, path in files.items()
        if path.stat().st_size > large_bytes
        for chunks in [_chunks_of(path)]
    }
    return canonical_json({"chunk_bytes": CHUNK_BYTES, "blobs": blobs}) if blobs else b""


def _chunks_of(path: Path) -> ChunkMap:
    hasher = ChunkHasher(path.stat().st_size)
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            hasher.update(piece)
    return hasher.result()


def _file(request: BundleRequest, text: str, what: str) -> bytes:
    path = request.path(text)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadRequestError(f"{what}, {path}, cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise BadRequestError(f"{what} has {len(data)} bytes, {MAX_FILE_BYTES} are allowed")
    return data
