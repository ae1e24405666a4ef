"""From a name to the release that its repository signed for it: what is listed, and its documents.

The repository's metadata is asked in a thread. Every document below it is named by a digest that
was signed; those that are here already are not fetched again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, TypeVar

from appliance.bundles.release import MAX_INDEX_BYTES, Extras, Release, Variant
from appliance.errors import (
    DownloadCorruptError,
    LibraryError,
    RegistryError,
    UnsupportedError,
)
from appliance.library.library import Library
from appliance.library.manifest import MAX_MANIFEST_BYTES, Digest, Layer, Manifest
from appliance.library.names import ModelName
from appliance.transfer.content import Content
from appliance.transfer.pull import check_manifest, check_sizes
from appliance.transfer.telling import most_telling
from appliance.trust.errors import TrustCode, TrustError

if TYPE_CHECKING:
    from appliance.trust.fetch import Source
    from appliance.trust.metadata import SignedTarget
    from appliance.trust.store import Trusted, TrustStore

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a release is looked for. `metadata` is made for one refresh, in the loop's thread;
    `contents` are asked in order, and believed by digest."""

    metadata: "Source"
    contents: tuple[Content, ...]


@dataclass(frozen=True, slots=True)
class Word:
    """What a repository says: each target that was asked for, None if it is not listed."""

    trusted: "Trusted | None"
    targets: "Mapping[str, SignedTarget | None]"


def ask(store: "TrustStore", source: "Source", targets: Sequence[str]) -> Word:
    """Refresh, and look the targets up. Blocking. Raises TrustError, but not for a missing name."""
    found: dict[str, SignedTarget | None] = {}
    trusted = None
    for target in dict.fromkeys(targets):
        try:
            trusted = store.refresh(source, [target])
            found[target] = trusted.targets[target]
        except TrustError as error:
            if error.code != TrustCode.NOT_LISTED:
                raise
            found[target] = None
    return Word(trusted, found)


def target_of(name: ModelName, tag: str = "") -> str:
    """The TUF target of a name, or of another tag of the same model."""
    return f"{name.namespace}/{name.model}/{tag or name.tag}".lower()


@dataclass(frozen=True, slots=True)
class Documents:
    """Reads signed documents: from the library, else from the first source that has them right."""

    library: Library
    contents: tuple[Content, ...]
    repository: str  # namespace/model

    async def release(self, digest: Digest, max_bytes: int) -> tuple[Release, bytes]:
        """Raises TrustError when it comes wrong or is not a release."""
        data = await self.get(digest, min(max_bytes, MAX_INDEX_BYTES))
        return await _parsed(Release.parse, data), data

    async def extras(self, layer: Layer, max_blob_bytes: int) -> tuple[Extras, bytes]:
        """As `release`."""

        def parse(data: bytes) -> Extras:
            extras = Extras.parse(data)
            check_sizes(extras.layers, max_blob_bytes)
            return extras

        data = await self.get(layer.digest, min(layer.size, MAX_INDEX_BYTES))
        return await _parsed(parse, data), data

    async def manifest(self, variant: Variant, max_blob_bytes: int) -> tuple[Manifest, bytes]:
        """As `release`; it describes one GGUF model."""
        data = await self.get(variant.digest, min(variant.size, MAX_MANIFEST_BYTES))
        return await _parsed(lambda text: check_manifest(text, max_blob_bytes), data), data

    async def get(self, digest: Digest, max_bytes: int) -> bytes:
        """Raises as `first_of` does."""
        here = await asyncio.to_thread(self._stored, digest, max_bytes)
        if here is not None:
            return here
        return await first_of(
            self.contents, lambda content: content.document(self.repository, digest, max_bytes)
        )

    def _stored(self, digest: Digest, max_bytes: int) -> bytes | None:
        blobs = self.library.blobs
        if not blobs.has(digest) or blobs.size(digest) > max_bytes:
            return None
        data = blobs.read(digest, max_bytes)
        return data if Digest.of(data) == digest else None


async def first_of(contents: Sequence[Content], attempt: Callable[[Content], Awaitable[T]]) -> T:
    """What the first source gives that does not fail.

    Raises the most telling RegistryError of all; TrustError (digest) if one sent wrong bytes.
    """
    failures: list[RegistryError] = []
    for content in contents:
        try:
            return await attempt(content)
        except RegistryError as error:
            failures.append(error)
    if not failures:
        raise RegistryError(
            "there is no address to get releases from",
            hint="import a stick, or enrol the repository with --content",
        )
    told = most_telling(failures)
    if isinstance(told, DownloadCorruptError):
        raise TrustError.of(TrustCode.DIGEST, str(told)) from told
    told.hint = told.hint or "another source may have it; `hearth trust show` lists them"
    raise told


def require_hearth(release: Release) -> None:
    """Raise UnsupportedError if the release needs a newer Hearth. Reads the disk."""
    ours = metadata.version("hearth")
    if _numbers(release.min_hearth) > _numbers(ours):
        raise UnsupportedError(
            f"release {release.version} needs Hearth {release.min_hearth}, this is {ours}",
            hint="update this box first",
        )


def _numbers(version: str) -> list[int]:
    """The release number before any suffix, without zeros at its end."""
    found = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
    while found and found[-1] == 0:
        found.pop()
    return found


async def _parsed(parse: Callable[[bytes], T], data: bytes) -> T:
    """What was signed but is not usable is the publisher's mistake."""
    try:
        return await asyncio.to_thread(parse, data)
    except (LibraryError, RegistryError) as error:
        raise TrustError.of(
            TrustCode.MALFORMED, str(error), hint=error.hint or "its publisher must repair it"
        ) from error
