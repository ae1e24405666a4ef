"""Makes one variant's manifest with the box's own `create`, in a throw-away library.

Large files are not copied there: the library holds links to them, since only their headers are
read. Nothing of this machine gets into the result, so every machine gets the same bytes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from appliance.cli.modelfile_plan import plan_create
from appliance.errors import BadRequestError
from appliance.library.blobs import BlobStore
from appliance.library.create import CreateRequest, create
from appliance.library.library import Library
from appliance.library.manifest import Digest, Manifest
from appliance.library.modelfile import Recipe, parse, read_recipe
from appliance.library.names import ModelName
from appliance.library.stored import StoredModel
from tools.bundles.bases import Base, Bases

_BASE = ModelName.parse("workshop/base")


@dataclass(frozen=True, slots=True)
class Built:
    """A variant. `files` has each of its blobs; good while the workshop's folder is there."""

    manifest: bytes
    model: StoredModel
    files: Mapping[Digest, Path]
    modelfile: Digest
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class Workshop:
    """`folder` is empty and somebody else's to remove."""

    folder: Path
    bases: Bases
    _made: int = 0
    _hashed: dict[Path, Digest] = field(default_factory=dict)
    _library: Library = field(init=False)

    def __post_init__(self) -> None:
        self._library = Library(self.folder)

    def build(self, modelfile: Path) -> Built:
        """Raises BadRequestError for what `hearth create` would refuse, and for a wrong pin."""
        source = _read(modelfile)
        recipe = read_recipe(parse(source))
        self._made += 1
        name = ModelName.parse(f"workshop/variant:{self._made}")
        request = self._request(name, recipe, modelfile.absolute().parent)
        for _ in create(self._library, request):
            pass
        stored = self._library.get(name)
        # a parent's name is a mutable word, and says nothing that its digests do not
        manifest = _without_sources(stored.manifest).encode()
        model = self._library.write_manifest(name, manifest)
        files = {digest: self._library.blobs.path(digest) for digest in model.manifest.digests}
        return Built(
            manifest=manifest,
            model=model,
            files=MappingProxyType(files),
            modelfile=Digest.of(source),
            warnings=tuple(recipe.warnings),
        )

    def _request(self, name: ModelName, recipe: Recipe, folder: Path) -> CreateRequest:
        plan = plan_create(recipe, folder)
        uploads: dict[str, Any] = {}
        for local in plan.files:
            digest = self._lend_file(local.path)
            uploads.setdefault(local.field, {})[local.key] = str(digest)
        fields = dict(plan.body)
        from_ = ""
        if base := fields.pop("from", ""):
            self._lend_model(self.bases.find(base))
            from_ = _BASE.short
        return CreateRequest(name=name, from_=from_, **fields, **uploads)

    def _lend_file(self, path: Path) -> Digest:
        path = path.resolve()
        if path not in self._hashed:
            with path.open("rb") as file:
                self._hashed[path] = Digest(hashlib.file_digest(file, "sha256").hexdigest())
        _link(self._library.blobs, self._hashed[path], path)
        return self._hashed[path]

    def _lend_model(self, base: Base) -> None:
        data = base.library.read_manifest(base.name)
        for digest in Manifest.parse(data).digests:
            _link(self._library.blobs, digest, base.library.blobs.path(digest).resolve())
        self._library.write_manifest(_BASE, data)


def _without_sources(manifest: Manifest) -> Manifest:
    return Manifest(manifest.config, tuple(replace(layer, source="") for layer in manifest.layers))


def _link(store: BlobStore, digest: Digest, target: Path) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    if not store.has(digest):
        store.path(digest).symlink_to(target)


def _read(modelfile: Path) -> bytes:
    try:
        return modelfile.read_bytes()
    except OSError as error:
        raise BadRequestError(
            f"{modelfile} cannot be read: {error.strerror}", hint="name a Modelfile with -f FILE"
        ) from error
