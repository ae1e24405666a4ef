"""A published folder on a disk, a web root or a stick: an OCI image layout with TUF metadata.

    oci-layout  index.json        which releases are in it, by name
    blobs/sha256/<hex>            every index, manifest, config, layer and extra, by digest
    blobs/sha256/<hex>.000 …      the same in parts, where the filesystem holds no file of its size
    tuf/<repository>/metadata/    what is signed

The only owner of these paths and parts. Nothing in it is believed: reading is confined (see
confined.py), has limits and checks digests. A blob under way is under another name, parts get their
names from the last to the first, and `set_release` comes after everything it names: a copy that was
interrupted holds nothing that looks whole. Synchronous; errors as in `ConfinedFolder`.
"""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from appliance.bundles.confined import ConfinedFolder, Disk, Draft
from appliance.bundles.release import INDEX_TYPE, RELEASE_TYPE, canonical_json, read_json
from appliance.errors import (
    BadRequestError,
    DigestMismatchError,
    DiskFullError,
    DownloadCorruptError,
    LibraryError,
    RegistryError,
    RegistryNotFoundError,
)
from appliance.library.blobs import CHUNK_BYTES, make_folders
from appliance.library.manifest import MANIFEST_TYPE, Digest

MAX_LAYOUT_INDEX_BYTES = 4 << 20
MAX_ENTRIES = 10_000
MAX_PARTS = 1000  # three digits
MAX_REF_CHARS = 512
TIMESTAMP = "timestamp.json"
REF_NAME = "org.opencontainers.image.ref.name"

_MARK = "oci-layout"
_MARK_BYTES = b'{"imageLayoutVersion":"1.0.0"}'
_MAX_MARK_BYTES = 4096
_INDEX = "index.json"
_BLOBS = "blobs/sha256"
_REPOSITORY = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of `index.json`: a release, or a model that nobody signed."""

    ref: str
    digest: Digest
    size: int
    media_type: str

    @property
    def is_release(self) -> bool:
        return self.media_type == INDEX_TYPE


class Layout:
    """See the module. `part_bytes` is the largest file to write; 0: what the filesystem holds."""

    def __init__(self, root: Path, *, disk: Disk | None = None, part_bytes: int = 0) -> None:
        self.root = root
        self.files = ConfinedFolder(root, disk)
        self._part_bytes = part_bytes

    @classmethod
    def create(cls, root: Path, *, disk: Disk | None = None, part_bytes: int = 0) -> Self:
        """An empty layout at `root`, or the one that is there; clears away what a crash left."""
        make_folders(root)
        layout = cls(root, disk=disk, part_bytes=part_bytes)
        if layout.files.has(_MARK):
            layout.check()
        else:
            layout._write_index([])
            layout.files.write(_MARK, _MARK_BYTES)
        for folder in ("", _BLOBS):
            layout.files.sweep(folder)
        return layout

    def check(self) -> None:
        """Raise RegistryError unless there is an OCI image layout of the version we know."""
        try:
            data = self.files.read(_MARK, _MAX_MARK_BYTES)
            version = read_json(data, _MARK, _MAX_MARK_BYTES).get("imageLayoutVersion")
        except (RegistryNotFoundError, LibraryError) as error:
            raise _bad(f"{self.root} is no OCI image layout: {error}") from error
        if version != "1.0.0":
            raise _bad(f"its oci-layout says version {str(version)[:40]!r}, not '1.0.0'")

    # -- blobs, read ------------------------------------------------------------------------

    def has(self, digest: Digest) -> bool:
        """Whether there is a file, or a first part; whether it is whole shows when it is read."""
        return self.files.has(_blob(digest)) or self.files.has(_part(digest, 0))

    def size(self, digest: Digest) -> int:
        """Bytes of all parts; raises RegistryNotFoundError."""
        return sum(self.files.size(path) for path in self._paths(digest))

    def read(self, digest: Digest, max_bytes: int) -> bytes:
        """A small blob, whole; raises RegistryError over `max_bytes`, DownloadCorruptError."""
        size = self.size(digest)
        if size > max_bytes:
            raise RegistryError(f"blob {digest} has {size} bytes, {max_bytes} are allowed")
        return b"".join(self.chunks(digest))

    def chunks(self, digest: Digest) -> Iterator[bytes]:
        """All bytes in order; DownloadCorruptError at the end if they are not those of `digest`."""
        seen = sha256()
        for chunk in self.chunks_from(digest, 0):
            seen.update(chunk)
            yield chunk
        if seen.hexdigest() != digest.hex:
            raise DownloadCorruptError(
                f"digest mismatch in {self.root}: want {digest}, got sha256:{seen.hexdigest()}",
                hint="the copy is cut or damaged; copy the medium again",
            )

    def chunks_from(self, digest: Digest, first: int, end: int = sys.maxsize) -> Iterator[bytes]:
        """The bytes from `first` to before `end`, joined and unchecked: the caller hashes."""
        offset, left = first, end - first
        for path in self._paths(digest):
            with self.files.open(path) as file:
                while left and (
                    chunk := self.files.pread(file, path, min(CHUNK_BYTES, left), offset)
                ):
                    yield chunk
                    offset, left = offset + len(chunk), left - len(chunk)
                offset = max(0, offset - os.fstat(file).st_size)

    def _paths(self, digest: Digest) -> list[str]:
        if self.files.has(_blob(digest)):
            return [_blob(digest)]
        paths: list[str] = []
        while len(paths) < MAX_PARTS and self.files.has(_part(digest, len(paths))):
            paths.append(_part(digest, len(paths)))
        if not paths:
            raise RegistryNotFoundError(f"blob {digest} is not in {self.root}")
        return paths

    # -- blobs, write -----------------------------------------------------------------------

    def put_bytes(self, data: bytes, media_type: str = "") -> Digest:
        """Store `data`. `media_type` is said by whoever points to it; a layout keeps none."""
        digest = Digest.of(data)
        self.put_chunks(digest, len(data), [data])
        return digest

    def put_file(self, path: Path, digest: Digest) -> None:
        """Store a copy of `path`; raises DigestMismatchError, DiskFullError."""
        self.put_chunks(digest, path.stat().st_size, file_chunks(path))

    def put_chunks(self, digest: Digest, size: int, chunks: Iterable[bytes]) -> None:
        """Store a blob of `size` bytes, unless one of that size is there. Writes every byte once.

        Raises DigestMismatchError, and then nothing is left of it.
        """
        for _ in self.put_steps(digest, size, chunks):
            pass

    def put_steps(self, digest: Digest, size: int, chunks: Iterable[bytes]) -> Iterator[int]:
        """As `put_chunks`, telling how many bytes are written; left early, it leaves nothing."""
        if self.has(digest) and self.size(digest) == size:
            return
        self.require_space(size)
        limit = self._part_bytes or self.files.disk.largest_file(self.root)
        seen, written = sha256(), 0
        with contextlib.ExitStack() as stack:
            drafts = [stack.enter_context(self.files.draft(_blob(digest)))]
            for chunk in chunks:
                seen.update(chunk)
                view = memoryview(chunk)
                while view:
                    if drafts[-1].written == limit:
                        drafts[-1].sync()
                        drafts.append(stack.enter_context(self.files.draft(_blob(digest))))
                    room = limit - drafts[-1].written
                    drafts[-1].write(view[:room])
                    view = view[room:]
                written += len(chunk)
                yield written
            if seen.hexdigest() != digest.hex:
                raise _other_bytes(digest, seen.hexdigest())
            self._finish(digest, drafts)

    def _finish(self, digest: Digest, drafts: Sequence[Draft]) -> None:
        self.remove(digest)
        if len(drafts) == 1:
            drafts[0].finish(_blob(digest))
            return
        for index in reversed(range(len(drafts))):
            drafts[index].finish(_part(digest, index))

    def remove(self, digest: Digest) -> None:
        """Remove a blob. Its first part goes first, and so do parts that a copy in parts of another
        size left: they must not be joined to new ones."""
        self.files.remove(_blob(digest))
        for name in self.files.names(_BLOBS):
            if re.fullmatch(rf"{digest.hex}\.\d{{3}}", name):
                self.files.remove(f"{_BLOBS}/{name}")

    def require_space(self, wanted: int) -> None:
        """Raise DiskFullError unless `wanted` bytes are free where the layout is."""
        free = shutil.disk_usage(self.root).free
        if wanted > free:
            raise DiskFullError(
                f"{wanted} bytes are to be written to {self.root}, {free} are free there",
                hint="take a larger medium, or remove something from this one",
            )

    # -- index.json -------------------------------------------------------------------------

    def releases(self) -> Mapping[str, Digest]:
        """The digest of each release's index, by name as in `acme/assistant:1.2.0`."""
        return {entry.ref: entry.digest for entry in self.entries() if entry.is_release}

    def entries(self) -> tuple[Entry, ...]:
        """All that have a name and a type of ours, sorted; RegistryError if `index.json` is bad."""
        self.check()
        entries = [entry for raw in self._raw_index() if (entry := _entry(raw)) is not None]
        refs = [entry.ref for entry in entries]
        if len(refs) != len(set(refs)):
            raise _bad("its index.json has a name twice")
        return tuple(sorted(entries, key=lambda entry: entry.ref))

    def set_release(self, ref: str, digest: Digest, size: int) -> None:
        """Name a release; everything below its index must be here already."""
        self._set(Entry(ref, digest, size, INDEX_TYPE))

    def set_model(self, ref: str, digest: Digest, size: int) -> None:
        """Name the manifest of a model that nobody signed."""
        self._set(Entry(ref, digest, size, MANIFEST_TYPE))

    def remove_entry(self, ref: str) -> None:
        self._write_index([raw for raw in self._raw_index() if _ref(raw) != ref])

    def _set(self, entry: Entry) -> None:
        if not 0 < len(entry.ref) <= MAX_REF_CHARS:
            raise LibraryError(f"a name in a layout has 1 to {MAX_REF_CHARS} characters")
        others = [raw for raw in self._raw_index() if _ref(raw) != entry.ref]
        artifact = {"artifactType": RELEASE_TYPE} if entry.is_release else {}
        self._write_index(
            [
                *others,
                {
                    "mediaType": entry.media_type,
                    **artifact,
                    "digest": str(entry.digest),
                    "size": entry.size,
                    "annotations": {REF_NAME: entry.ref},
                },
            ]
        )

    def _raw_index(self) -> list[dict[str, Any]]:
        """Descriptors as they stand: those of other programs are kept when ours are written."""
        try:
            data = self.files.read(_INDEX, MAX_LAYOUT_INDEX_BYTES)
            body = read_json(data, _INDEX, MAX_LAYOUT_INDEX_BYTES)
        except LibraryError as error:
            raise _bad(f"its {error}") from error
        manifests = body.get("manifests")
        if body.get("schemaVersion") != 2 or not isinstance(manifests, list):
            raise _bad("its index.json is not an OCI index")
        if len(manifests) > MAX_ENTRIES:
            raise _bad(f"its index.json has more than {MAX_ENTRIES} entries")
        if not all(isinstance(raw, dict) for raw in manifests):
            raise _bad("its index.json has an entry that is not an object")
        return manifests

    def _write_index(self, manifests: list[dict[str, Any]]) -> None:
        """Sorted, so that the same content has the same bytes."""
        ordered = sorted(manifests, key=lambda raw: (_ref(raw), str(raw.get("digest"))))
        body = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": ordered}
        self.files.write(_INDEX, canonical_json(body))

    # -- signed metadata --------------------------------------------------------------------

    def repositories(self) -> list[str]:
        """The repositories that the folder has metadata of."""
        return [name for name in self.files.names("tuf") if _REPOSITORY.fullmatch(name)]

    def put_metadata(self, repository: str, files: Mapping[str, bytes]) -> None:
        """Add signed files, those that name others after them: the timestamp last."""
        folder = self.metadata_path(repository)
        for name in sorted(files, key=lambda name: (name == TIMESTAMP, "snapshot" in name, name)):
            self.files.write(f"{folder}/{name}", files[name])

    def metadata_folder(self, repository: str) -> Path:
        """Where a repository's metadata lies; nothing says that it does, or without links."""
        return self.root / self.metadata_path(repository)

    def metadata_path(self, repository: str) -> str:
        """The same, relative to the root; raises RegistryError for what is no name."""
        if not _REPOSITORY.fullmatch(repository):
            raise _bad(f"{repository[:60]!r} is not a repository's name")
        return f"tuf/{repository}/metadata"


def file_chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file of our own."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _entry(raw: Mapping[str, Any]) -> Entry | None:
    """Ours, or None for what other programs may keep in a layout."""
    ref, kind = _ref(raw), raw.get("mediaType")
    is_release = kind == INDEX_TYPE and raw.get("artifactType") == RELEASE_TYPE
    if not ref or not (is_release or kind == MANIFEST_TYPE):
        return None
    digest, size = raw.get("digest"), raw.get("size")
    if len(ref) > MAX_REF_CHARS or isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise _bad(f"the entry {ref[:80]!r} of its index.json makes no sense")
    try:
        return Entry(ref, Digest.parse(digest if isinstance(digest, str) else ""), size, str(kind))
    except BadRequestError as error:
        raise _bad(f"the entry {ref[:80]!r} of its index.json has no digest") from error


def _ref(raw: Mapping[str, Any]) -> str:
    annotations = raw.get("annotations")
    ref = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return ref if isinstance(ref, str) else ""


def _blob(digest: Digest) -> str:
    return f"{_BLOBS}/{digest.hex}"


def _part(digest: Digest, index: int) -> str:
    return f"{_BLOBS}/{digest.hex}.{index:03}"


def _other_bytes(digest: Digest, found: str) -> DigestMismatchError:
    return DigestMismatchError(
        f'digest mismatch, expected "{digest}", got "sha256:{found}"',
        hint="the source changed or is damaged; nothing was written",
    )


def _bad(why: str) -> RegistryError:
    return RegistryError(
        f"the folder cannot be used: {why}", hint="copy it again, or ask who made it"
    )
