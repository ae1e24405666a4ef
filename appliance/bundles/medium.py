"""Finding the published folder on a medium, and seeing that what is wanted lies on it whole.

A medium has its layout below `hearth/`; a published folder on a disk is one itself. Which folder is
meant an administrator of the box says, by its absolute path: nothing is searched for, nothing below
it is entered but by the layout's own confined steps. What is read here is believed by nobody: it
only spares the trust store, and the user, a medium that cannot be used.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from appliance.bundles.layout import Layout
from appliance.bundles.release import MAX_INDEX_BYTES, Extras, Release
from appliance.errors import (
    BadRequestError,
    LibraryError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnreachableError,
)
from appliance.library.blobs import BlobStore
from appliance.library.manifest import MAX_MANIFEST_BYTES, Digest, Layer, Manifest
from appliance.library.names import ModelName
from appliance.trust.errors import TrustCode, TrustError

FOLDER = "hearth"  # of a medium, beside whatever else is on it


def ref_of(name: ModelName) -> str:
    """How a layout's index calls a model: without a host, as TUF targets are."""
    return f"{name.namespace}/{name.model}:{name.tag}".lower()


def find_layout(path: Path) -> Layout:
    """The layout at `path`, or in its folder `hearth`; raises BadRequestError, RegistryError."""
    real = _real(path)
    for root in (real, real / FOLDER):
        layout = Layout(root)
        try:
            layout.check()
        except RegistryUnreachableError:
            raise
        except RegistryError:
            continue
        return layout
    raise RegistryNotFoundError(
        f"{path} holds no models for import: neither it nor its folder {FOLDER} has an oci-layout",
        hint="make one with `hearth export`, or copy a publisher's whole folder there",
    )


def layout_for_export(path: Path, forbidden: Path) -> Layout:
    """The layout to write to: `path` if it is one already, else its folder `hearth`, made if need
    be. Raises BadRequestError, also below `forbidden`, where the service keeps its own."""
    real = _real(path)
    is_layout = Layout(real).files.has("oci-layout")
    root = real if is_layout or real.name == FOLDER else real / FOLDER
    if root.is_relative_to(forbidden.resolve()):
        raise BadRequestError(
            f"{root} lies inside the service's own state",
            hint="name a folder outside of it, such as a stick's",
        )
    return Layout.create(root)


def _real(path: Path) -> Path:
    """The folder that an administrator means, links followed: those above it are the box's own."""
    if not path.is_absolute():
        raise BadRequestError(f"{path} is not an absolute path", hint="the service works elsewhere")
    try:
        real = path.resolve(strict=True)
        is_folder = real.is_dir()
    except (OSError, RuntimeError) as error:
        raise BadRequestError(
            f"the service cannot open {path}: {getattr(error, 'strerror', error)}",
            hint="check that the medium is mounted where the service can read it",
        ) from error
    if not is_folder:
        raise BadRequestError(f"{path} is no folder", hint="name the medium's folder")
    return real


Wanted = Callable[[Release], str]  # the name of the variant that this box takes; empty: none fits


def require_whole(
    layout: Layout, store: BlobStore, ref: str, index: Digest, wanted: Wanted
) -> None:
    """Raise TrustError (incomplete) unless the release can be installed from the medium.

    That is: its extras and the variant that is `wanted` are there in full length, or in `store`
    already, and no variant whose manifest is there lacks a part. Raises RegistryError for wrong
    bytes.
    """
    parts = _Parts(layout, store)
    try:
        release = parts.add_release(index)
    except RegistryNotFoundError as error:
        raise _incomplete(ref, str(error)) from error
    except LibraryError as error:
        raise TrustError.of(TrustCode.MALFORMED, f"{ref}: {error}") from error
    if parts.missing:
        first = f"{len(parts.missing)} parts, the first is {parts.missing[0].digest}"
        raise _incomplete(ref, f"missing or cut are {first}")
    if not parts.variants:
        raise _incomplete(ref, "none of its variants is there")
    if (name := wanted(release)) and name not in parts.variants:
        there = ", ".join(parts.variants)
        raise _incomplete(ref, f"this box takes the variant {name}, and only {there} is there")


class _Parts:
    """Looks for the parts of a release on a medium, or on the box."""

    def __init__(self, layout: Layout, store: BlobStore) -> None:
        self.missing: list[Layer] = []
        self.variants: list[str] = []
        self._layout = layout
        self._store = store

    def add_release(self, index: Digest) -> Release:
        release = Release.parse(self._read(index, MAX_INDEX_BYTES))
        if release.extras is not None:
            extras = Extras.parse(self._read(release.extras.digest, MAX_INDEX_BYTES))
            self._add(extras.layers)
        for variant in release.variants:
            if self._has(variant.digest, variant.size):
                manifest = Manifest.parse(self._read(variant.digest, MAX_MANIFEST_BYTES))
                self._add((manifest.config, *manifest.layers))
                self.variants.append(variant.name)
        return release

    def _add(self, layers: Iterable[Layer]) -> None:
        self.missing += [part for part in layers if not self._has(part.digest, part.size)]

    def _read(self, digest: Digest, max_bytes: int) -> bytes:
        if self._store.has(digest):
            return self._store.read(digest, max_bytes)
        return self._layout.read(digest, max_bytes)

    def _has(self, digest: Digest, size: int) -> bool:
        if self._store.has(digest) and self._store.size(digest) == size:
            return True
        return self._layout.has(digest) and self._layout.size(digest) == size


def _incomplete(ref: str, why: str) -> TrustError:
    return TrustError.of(TrustCode.INCOMPLETE, f"{ref} is not whole on the medium: {why}")
