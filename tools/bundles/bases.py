"""What FROM means when it names a model: found, and pinned by the digest of its manifest.

    FROM llama3.2:3b@sha256:<64 hex>   exactly that manifest
    FROM llama3.2:3b                   what the tag means now; `bundle.lock` records it, and
                                       another answer later is an error

Looked for in a models folder first (a box's, or Ollama's), then at the registry that the name
means; what comes from there is kept in a cache folder, and a broken download goes on the next time.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from appliance.config import Settings, load_settings
from appliance.errors import (
    BadRequestError,
    LibraryError,
    RegistryError,
    RegistryNotFoundError,
)
from appliance.library.blobs import atomic_write
from appliance.library.library import Library
from appliance.library.manifest import Digest
from appliance.library.names import ModelName
from appliance.transfer.download import Report, fetch_blob
from appliance.transfer.gather import Gatherer
from appliance.transfer.progress import Progress
from appliance.transfer.pull import check_manifest, sizes_of
from appliance.transfer.registry import Registry
from appliance.transfer.sources import Reference
from tools.bundles.network import PARTS, connecting

_GIB = 1 << 30

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Base:
    """A model to build on, and the library that holds it."""

    library: Library
    name: ModelName
    digest: Digest  # of its manifest


class LockFile:
    """`bundle.lock`: the digest that each bare tag meant when the bundle was first built."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, text: str) -> Digest | None:
        """Raises LibraryError for a damaged file: a lost pin would let any model through."""
        found = self._read().get(text)
        return Digest.parse(found) if found else None

    def require(self, text: str, digest: Digest) -> None:
        """Record what `text` means; raises BadRequestError if it meant something else before."""
        pins = self._read()
        before = pins.setdefault(text, str(digest))
        if before != str(digest):
            raise BadRequestError(
                f"FROM {text} now means {digest}, but {self._path.name} records {before}",
                hint=f"build on the old one with FROM {text}@{before}, or accept the new one by "
                f"removing its line from {self._path}",
            )
        data = msgspec.json.format(msgspec.json.encode(dict(sorted(pins.items())))) + b"\n"
        if not self._path.exists() or self._path.read_bytes() != data:
            atomic_write(self._path, data)

    def _read(self) -> dict[str, str]:
        try:
            pins = msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
            for digest in pins.values():
                Digest.parse(digest)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError, BadRequestError) as error:
            raise LibraryError(
                f"{self._path} is damaged", hint="bring it back from version control"
            ) from error
        return pins


def _default_cache() -> Path:
    """Where models from registries are kept between builds."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "hearth" / "bundle-models"


@dataclass(slots=True)
class Bases:
    """Finds the models that Modelfiles build on."""

    lock: LockFile
    models: Path | None = None
    cache: Path = field(default_factory=_default_cache)
    settings: Settings = field(default_factory=load_settings)
    insecure: bool = False  # a registry on the network may be asked over plain HTTP
    say: Say = lambda _: None

    def find(self, text: str) -> Base:
        """Raises BadRequestError for a wrong pin, RegistryError where nobody has the model."""
        name_text, at, pin_text = text.partition("@")
        pin = Digest.parse(pin_text) if at else self.lock.get(text)
        reference = Reference.parse(name_text, insecure=self.insecure)
        base = self._installed(reference.name) or self._cached(reference.name, pin)
        if base is None:
            base = asyncio.run(self._fetch(reference, pin if at else None))
        if not at:
            self.lock.require(text, base.digest)
        elif base.digest != pin:
            raise _other_digest(text, base.digest)
        return base

    def _installed(self, name: ModelName) -> Base | None:
        return _in_library(Library(self.models), name) if self.models else None

    def _cached(self, name: ModelName, pin: Digest | None) -> Base | None:
        """What was fetched before counts only if it is known to be what is wanted."""
        base = _in_library(Library(self.cache), name)
        return base if base and base.digest == pin else None

    async def _fetch(self, reference: Reference, pin: Digest | None) -> Base:
        library, name = Library(self.cache), reference.name
        async with connecting() as connect:
            registry = connect(reference.origin(self.settings))
            self.say(f"getting {name} from {registry.source}")
            data = await _manifest(registry, name.tag, pin)
            if pin is not None and Digest.of(data) != pin:
                raise _other_digest(f"{name}@{pin}", Digest.of(data))
            manifest = check_manifest(data, self.settings.max_blob_gib * _GIB)

            async def fetch(digest: Digest, size: int, report: Report) -> None:
                await fetch_blob(
                    library.blobs, digest, size, [registry], parts=PARTS, report=report
                )

            gatherer, bad = Gatherer(library), list[Digest]()
            await gatherer.blobs(sizes_of(manifest), fetch, self._tell)
            await gatherer.check_ggufs(manifest, bad)
        library.write_manifest(name, data)
        return Base(library, name, Digest.of(data))

    def _tell(self, progress: Progress) -> None:
        if progress.completed == progress.total:
            self.say(progress.status)


async def _manifest(registry: Registry, tag: str, pin: Digest | None) -> bytes:
    """By digest where the registry knows that, else what the tag means."""
    insist = registry.patience.for_answers().insist
    if pin is not None:
        try:
            return await insist(lambda: registry.manifest(str(pin)))
        except RegistryNotFoundError:
            pass
    try:
        return await insist(lambda: registry.manifest(tag))
    except RegistryNotFoundError as error:
        raise RegistryError(
            f"{registry.source} has no model {registry.source.repository}:{tag}",
            hint="build on a file with FROM ./model.gguf, or on an installed model with --models",
        ) from error


def _in_library(library: Library, name: ModelName) -> Base | None:
    if not library.has(name):
        return None
    return Base(library, name, Digest.of(library.read_manifest(name)))


def _other_digest(text: str, found: Digest) -> BadRequestError:
    return BadRequestError(
        f"FROM {text}: what is there has the digest {found}",
        hint="the tag has moved; pin the digest that you mean, or bring the old model",
    )
