"""What an install is about: the wish for a release, and all that belongs to the one taken."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from appliance.bundles.release import SMOKE_TYPE, Extras, Release, Variant
from appliance.bundles.state import Kept
from appliance.library.manifest import Digest, Manifest
from appliance.library.names import ModelName
from appliance.transfer.content import Content
from appliance.transfer.pull import sizes_of


@dataclass(frozen=True, slots=True)
class Parts:
    """All that belongs to one variant of a release. `extras` is None where there are none."""

    index: bytes
    release: Release
    variant: Variant
    manifest_data: bytes
    manifest: Manifest
    extras_data: bytes
    extras: Extras | None

    @property
    def sizes(self) -> dict[Digest, int]:
        """What has to be fetched: layers, config, then the extras."""
        sizes = sizes_of(self.manifest)
        for layer in self.extras.layers if self.extras else ():
            sizes.setdefault(layer.digest, layer.size)
        return sizes

    @property
    def documents(self) -> tuple[bytes, ...]:
        """What is here already and only has to be kept; the index last."""
        return tuple(data for data in (self.manifest_data, self.extras_data, self.index) if data)

    @property
    def digests(self) -> frozenset[Digest]:
        return frozenset(self.sizes) | {Digest.of(data) for data in self.documents}

    def kept(self, reasons: Iterable[str], target: str) -> Kept:
        smoke = self.extras.of_type(SMOKE_TYPE) if self.extras else None
        return Kept(
            version=self.release.version,
            index=str(Digest.of(self.index)),
            manifest=str(self.variant.digest),
            blobs=tuple(sorted(map(str, self.digests))),
            variant=self.variant.name,
            reasons=tuple(reasons),
            target=target,
            smoke=str(smoke.digest) if smoke else None,
            staged_s=int(time.time()),
        )


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be installed: an index that was signed, under a name of this box."""

    name: ModelName
    index: Digest
    length: int
    contents: tuple[Content, ...]
    variant: str = ""  # the only one that may be taken
    retry: bool = False  # also if it failed before

    @property
    def repository(self) -> str:
        return f"{self.name.namespace}/{self.name.model}".lower()
