"""The models on disk: find, list, copy, delete; blobs that no model names are removed.

A folder in Ollama's layout, also one that Ollama itself made: `manifests/<host>/<namespace>/
<model>/<tag>` beside `blobs/`. Manifests are kept byte for byte. Synchronous and thread-safe;
callers on an event loop use `asyncio.to_thread`.
"""

import contextlib
import logging
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from appliance.errors import ApplianceError, LibraryError, ModelNameError, ModelNotFoundError
from appliance.library.blobs import (
    BlobStore,
    atomic_write,
    fsync_folder,
    missing_blob,
    sweep_temps,
)
from appliance.library.manifest import MAX_MANIFEST_BYTES, Digest, Manifest
from appliance.library.names import ModelName
from appliance.library.stored import StoredModel, read_stored
from engine.errors import ModelFormatError
from engine.gguf import Header, validate

__all__ = ["Library", "Problem", "StoredModel"]

log = logging.getLogger("hearth.library")

_MAX_HEADERS = 64


@dataclass(frozen=True, slots=True)
class Problem:
    """A manifest that cannot be used, by its path below `manifests/`."""

    path: PurePosixPath
    reason: str
    is_missing: bool = False  # the manifest is right, but a blob is not here


@dataclass(frozen=True, slots=True)
class Needed:
    """Why a blob is kept: the models of it, none for a part of a release that is not installed."""

    size: int = 0  # bytes, as a manifest says; 0: none does
    models: tuple[ModelName, ...] = ()


Models = list[StoredModel]
Problems = list[Problem]
Roots = Callable[[], Iterable[Digest]]
Guard = Callable[[StoredModel], None]


class Library:
    """All models below `models_dir`."""

    def __init__(
        self, models_dir: Path, maps: Path | None = None, *, go_template: str = "auto"
    ) -> None:
        """maps         where the chunk maps of blobs are kept (chunks.py); None: nowhere
        go_template  the setting, for the choice of templates (templates/choice.py)
        """
        self.go_template = go_template
        self.blobs = BlobStore(models_dir / "blobs", maps)
        self._manifests = models_dir / "manifests"
        self._lock = threading.RLock()  # held by everything that changes or prunes
        self._held: Counter[Digest] = Counter()
        self._roots: list[Roots] = []
        self.on_format_error: Callable[[Digest], None] = lambda _: None  # in any thread
        self.on_damage: Callable[[Digest], None] = lambda _: None  # in any thread
        self._headers: OrderedDict[Digest, Header] = OrderedDict()
        self._guard: Guard | None = None

    # -- reading ----------------------------------------------------------------------------

    def list(self) -> "Models":
        """All readable models, newest first."""
        models = [model for _, model in self._scan() if isinstance(model, StoredModel)]
        return sorted(models, key=lambda model: (model.modified_at, model.name), reverse=True)

    def problems(self) -> "Problems":
        """What `list` had to leave out, and what it lists although a blob of it is missing."""
        problems: Problems = []
        for path, found in self._scan():
            if isinstance(found, Problem):
                problems.append(found)
                continue
            missing = [d for d in found.manifest.digests if not self.blobs.has(d)]
            if missing:
                error = missing_blob(missing[0])
                problems.append(Problem(path, f"{error}; {error.hint}", is_missing=True))
        return problems

    def get(self, name: ModelName) -> StoredModel:
        """The model of that name in any case; raises ModelNotFoundError or LibraryError."""
        stored = self.resolve(name)
        try:
            return read_stored(self, stored, self._manifest_path(stored))
        except FileNotFoundError as error:
            raise ModelNotFoundError(
                f"model '{name.short}' not found", hint="`hearth list` shows what is installed"
            ) from error

    def read_manifest(self, name: ModelName) -> bytes:
        """The manifest of an installed model, byte for byte; raises ModelNotFoundError."""
        return _read_manifest(self._manifest_path(self.get(name).name))

    def has(self, name: ModelName) -> bool:
        return self._manifest_path(self.resolve(name)).is_file()

    def trial(self, name: ModelName, manifest: Digest) -> StoredModel:
        """A model that is not installed as `name`, though all of it is here, the manifest among
        the blobs; raises LibraryError."""
        self.blobs.size(manifest)  # a missing one is told as a missing blob
        return read_stored(self, name, self.blobs.path(manifest))

    def resolve(self, name: ModelName) -> ModelName:
        """`name` in the case it is stored under; unchanged if there is no such model."""
        if self._manifest_path(name).is_file():
            return name
        wanted = str(name.path).lower()
        for path in self._manifest_paths():
            relative = path.relative_to(self._manifests)
            if relative.as_posix().lower() == wanted:
                return ModelName.from_path(relative)
        return name

    def header(self, digest: Digest) -> Header:
        """The validated GGUF header of a blob, from a bounded cache.

        Raises ModelFormatError, and tells `on_format_error`: the file may be damaged.
        """
        self.blobs.size(digest)  # a missing blob is the store's fault, not the format's
        with self._lock:
            header = self._headers.get(digest)
            if header is not None:
                self._headers.move_to_end(digest)
                return header
        try:
            header = validate(self.blobs.path(digest))
        except ModelFormatError:
            self.on_format_error(digest)
            raise
        with self._lock:
            self._headers[digest] = header
            while len(self._headers) > _MAX_HEADERS:
                self._headers.popitem(last=False)
        return header

    def needed(self) -> "dict[Digest, Needed]":
        """Every blob that a readable manifest or a root names, and what it is needed for."""
        found = {digest: Needed() for roots in self._roots for digest in roots()}
        for path in self._manifest_paths():
            with contextlib.suppress(OSError, LibraryError, ModelNameError):
                name = ModelName.from_path(PurePosixPath(path.relative_to(self._manifests)))
                manifest = Manifest.parse(_read_manifest(path))
                for part in dict.fromkeys((manifest.config, *manifest.layers)):
                    models = found.get(part.digest, Needed()).models
                    found[part.digest] = Needed(part.size, (*models, name))
        return found

    def fetched_from(self, name: ModelName) -> "tuple[str, ...]":
        """The registries that gave blobs of this model; none for one that was made here."""
        try:
            digests = Manifest.parse(self.read_manifest(name)).digests
        except (OSError, ApplianceError):
            return ()
        maps = (self.blobs.chunk_map(digest) for digest in sorted(digests, key=str))
        return tuple(dict.fromkeys(m.source for m in maps if m is not None and m.source))

    # -- changing ---------------------------------------------------------------------------

    def write_manifest(self, name: ModelName, manifest: Manifest | bytes) -> StoredModel:
        """Put a model under `name`; bytes are kept as they are. Layers of its past are removed.

        Every blob must be there: raises LibraryError otherwise, and changes nothing.
        """
        data = manifest if isinstance(manifest, bytes) else manifest.encode()
        parsed = Manifest.parse(data)
        with self._lock:
            for digest in parsed.digests:
                self.blobs.size(digest)
            stored = self._new_name(name)
            before = self._digests_of(stored)
            atomic_write(self._manifest_path(stored), data)
            self.remove_unused(before - parsed.digests)
            return read_stored(self, stored, self._manifest_path(stored))

    def copy(self, source: ModelName, destination: ModelName) -> None:
        """Give a model a second name; raises ModelNotFoundError."""
        with self._lock:
            path = self._manifest_path(self.get(source).name)
            self.write_manifest(destination, _read_manifest(path))

    def delete(self, name: ModelName) -> None:
        """Remove a model and the blobs that only it used; raises ModelNotFoundError."""
        with self._lock:
            stored = self.resolve(name)
            path = self._manifest_path(stored)
            if not path.is_file():
                raise ModelNotFoundError(f"model '{name.short}' not found")
            digests = self._digests_of(stored)
            path.unlink()
            fsync_folder(path.parent)
            self._remove_empty_folders(path.parent)
            self.remove_unused(digests)

    def prune(self, older_than_s: float = 3600) -> int:
        """Tidy up at start: dead temp files, unnamed blobs of that age, empty folders.

        Returns how many blobs were removed: none while any manifest is unreadable, because it
        might name them.
        """
        with self._lock:
            self.blobs.sweep()
            self._manifests.mkdir(parents=True, exist_ok=True)
            for folder, _, _ in os.walk(self._manifests, topdown=False):
                sweep_temps(Path(folder))
                if Path(folder) != self._manifests:
                    with contextlib.suppress(OSError):  # not empty
                        Path(folder).rmdir()
            old = time.time() - older_than_s
            return self.remove_unused(
                digest
                for digest in list(self.blobs.stored())
                if self.blobs.path(digest).stat().st_mtime < old
            )

    def remove_unused(self, digests: Iterable[Digest]) -> int:
        """Remove those blobs that nothing names and nobody holds; returns how many."""
        candidates = set(digests)
        with self._lock:
            used = self._used_digests() if candidates else None
            if used is None:
                return 0
            unused = candidates - used - self._held.keys()
            for digest in unused:
                self.blobs.remove(digest)
                self._headers.pop(digest, None)
            return len(unused)

    def add_roots(self, roots: Roots) -> None:
        """Let blobs count as used although no manifest names them: those that `roots` returns.

        It is asked before anything is removed, with the library's lock held, so it must not wait
        for who waits for the library. When it raises, nothing is removed.
        """
        with self._lock:
            self._roots.append(roots)

    def guard_with(self, guard: Guard) -> None:
        """Ask `guard` each time before the weights of an installed model, or of one on trial, are
        read; what it raises is what the reader gets."""
        self._guard = guard

    def require_readable(self, model: StoredModel) -> None:
        """Raise what the guard raises, if there is one and it does."""
        if self._guard is not None:
            self._guard(model)

    def set_aside(self, digest: Digest) -> None:
        """Take a damaged blob out of use; the models that need it cannot be loaded until it is
        stored again."""
        with self._lock:
            self.blobs.set_aside(digest)
            self._headers.pop(digest, None)
        self.on_damage(digest)

    @contextlib.contextmanager
    def hold(self, digests: Iterable[Digest]) -> Iterator[None]:
        """Keep these blobs while a model is being made of them, although no manifest names them."""
        held = set(digests)
        with self._lock:
            self._held.update(held)
        try:
            yield
        finally:
            with self._lock:
                self._held.subtract(held)
                self._held = +self._held  # drops the zeros

    # -- inside -----------------------------------------------------------------------------

    def _scan(self) -> Iterator[tuple[PurePosixPath, StoredModel | Problem]]:
        for path in self._manifest_paths():
            relative = PurePosixPath(path.relative_to(self._manifests))
            try:
                found: StoredModel | Problem = read_stored(
                    self, ModelName.from_path(relative), path
                )
            except FileNotFoundError:
                continue  # deleted since the folder was read
            except (LibraryError, ModelNameError) as error:
                found = Problem(relative, f"{error}; {error.hint}" if error.hint else str(error))
            yield relative, found

    def _manifest_paths(self) -> Iterable[Path]:
        """Every manifest file, without those being written and a desktop's own files."""
        found = [self._manifests]
        for _ in range(4):
            found = [folder / name for folder in found for name in _names_in(folder)]
        return found

    def _manifest_path(self, name: ModelName) -> Path:
        return self._manifests / name.path

    def _new_name(self, name: ModelName) -> ModelName:
        """`name` with the case of whatever parts of its path exist already."""
        parts: list[str] = []
        for part in name.path.parts:
            entries = _names_in(self._manifests.joinpath(*parts))
            same = part if part in entries else None
            parts.append(same or next((e for e in entries if e.lower() == part.lower()), part))
        return ModelName.from_path(PurePosixPath(*parts))

    def _digests_of(self, stored: ModelName) -> frozenset[Digest]:
        """The blobs of an installed model; none if it is missing or damaged."""
        try:
            return Manifest.parse(_read_manifest(self._manifest_path(stored))).digests
        except (FileNotFoundError, LibraryError):
            return frozenset()

    def _used_digests(self) -> set[Digest] | None:
        """What any manifest or root names; None if one cannot be read: nothing is removed then."""
        used: set[Digest] = set()
        for path in self._manifest_paths():
            try:
                used |= Manifest.parse(_read_manifest(path)).digests
            except (OSError, LibraryError):
                return None
        for roots in self._roots:
            try:
                used.update(roots())
            except (OSError, ApplianceError) as error:
                log.warning("nothing is removed, what to keep is not known: %s", error)
                return None
        return used

    def _remove_empty_folders(self, folder: Path) -> None:
        while folder != self._manifests:
            try:
                folder.rmdir()
            except OSError:
                return  # not empty
            folder = folder.parent


def _names_in(folder: Path) -> list[str]:
    """Sorted, without hidden entries; none if `folder` is a file or was removed meanwhile."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_manifest(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_MANIFEST_BYTES + 1)
