"""A release: the OCI index of a model's variants and extras, read strictly, written canonically.

The index is what a publisher signs. Every byte below it is named by a digest in it, so manifests,
layers and extras may come from anywhere. Same content, same bytes: keys are sorted and no time is
written that was not given. Knows no files, no network and no trust.

    index     application/vnd.oci.image.index.v1+json, artifactType application/vnd.hearth.bundle.v1
      variant   an Ollama manifest, annotated with what a box must have for it
      extras    an OCI artifact: smoke tests, bill of materials, model card, chunk hashes
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from appliance.errors import BadRequestError, LibraryError
from appliance.library.manifest import (
    MANIFEST_TYPE,
    OCI_INDEX_TYPE,
    OCI_MANIFEST_TYPE,
    Digest,
    Layer,
)

INDEX_TYPE = OCI_INDEX_TYPE
RELEASE_TYPE = "application/vnd.hearth.bundle.v1"
EXTRAS_TYPE = "application/vnd.hearth.bundle.meta.v1"
SMOKE_TYPE = "application/vnd.hearth.bundle.smoke.v1+json"
SBOM_TYPE = "application/vnd.hearth.bundle.sbom.v1+json"
CARD_TYPE = "application/vnd.hearth.bundle.card.v1+markdown"
CHUNKS_TYPE = "application/vnd.hearth.bundle.chunks.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"  # the config of an artifact without one (OCI image spec 1.1)

MAX_INDEX_BYTES = 1 << 20
MAX_VARIANTS = 64
MAX_TEXT = 4096  # characters of one annotation

ARCHITECTURES = ("amd64", "arm64")

_VERSION = "org.opencontainers.image.version"
_CREATED = "org.opencontainers.image.created"
_LICENSES = "org.opencontainers.image.licenses"
_NOTES = "org.opencontainers.image.description"
_MODELFILE = "hearth.modelfile"
_MIN_HEARTH = "requires.hearth"
_MIN_OLLAMA = "requires.ollama"

_ACCELERATOR = re.compile(r"cpu|([a-z][a-z0-9]{0,15})(?:>=(\d{1,3}(?:\.\d{1,3}){0,2}))?")
_RELEASE_NUMBER = re.compile(r"\d{1,6}(\.\d{1,6}){0,3}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


@dataclass(frozen=True, slots=True)
class Requires:
    """What a box must have for a variant. Sizes in MiB; 0 or empty: nothing is asked.

    `accelerator` is `cpu`, or a kind with its least version, such as `cuda>=8.7`.
    """

    arch: str = "any"
    accelerator: str = "cpu"
    ram_mib: int = 0
    vram_mib: int = 0
    disk_mib: int = 0

    def check(self) -> None:
        """Raise LibraryError for a value that no box could judge."""
        if self.arch not in {"any", *ARCHITECTURES}:
            raise _bad(f"requires.arch is {self.arch[:40]!r}, not any, {', '.join(ARCHITECTURES)}")
        if not _ACCELERATOR.fullmatch(self.accelerator):
            raise _bad(f"requires.accel is {self.accelerator[:40]!r}, not cpu or like cuda>=8.7")

    @property
    def accelerator_kind(self) -> str:
        return self.accelerator.partition(">=")[0]

    @property
    def accelerator_version(self) -> tuple[int, ...]:
        """Numbers of the least version, none if any will do."""
        version = self.accelerator.partition(">=")[2]
        return tuple(int(number) for number in version.split(".") if number)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the model: the digest and size of its manifest, for whom, how good.

    Of those that fit, the highest `rank` is taken. `engine` names the only engine that can run it;
    empty: the box chooses. `context` is in tokens, 0 if not said.
    """

    name: str
    digest: Digest
    size: int
    requires: Requires = Requires()
    engine: str = ""
    context: int = 0
    quant: str = ""
    rank: int = 0

    def check(self) -> None:
        if not _WORD.fullmatch(self.name):
            raise _bad(f"a variant is called {self.name[:80]!r}; use letters, digits, '.', '-'")
        for what, word in (("engine", self.engine), ("quantization", self.quant)):
            if word and not _WORD.fullmatch(word):
                raise _bad(f"a variant's {what} is {word[:80]!r}; use letters, digits, '.', '-'")
        self.requires.check()

    def descriptor(self) -> dict[str, Any]:
        """The OCI descriptor with this variant's facts as annotations."""
        facts = {
            "variant": self.name,
            "requires.arch": self.requires.arch,
            "requires.accel": self.requires.accelerator,
            "requires.ram-mib": str(self.requires.ram_mib),
            "requires.vram-mib": str(self.requires.vram_mib),
            "requires.disk-mib": str(self.requires.disk_mib),
            "engine": self.engine,
            "context": str(self.context),
            "quant": self.quant,
            "rank": str(self.rank),
        }
        return {
            "mediaType": MANIFEST_TYPE,
            "digest": str(self.digest),
            "size": self.size,
            "annotations": {key: text for key, text in facts.items() if text not in {"", "0"}},
        }


@dataclass(frozen=True, slots=True)
class Release:
    """What a publisher signs. `created` is RFC 3339, or empty; `extras` the artifact beside.

    `min_hearth` and `min_ollama` are the oldest programs that can run it. `more` keeps annotations
    that this program does not know.
    """

    version: str
    variants: tuple[Variant, ...]
    extras: Layer | None = None
    created: str = ""
    licenses: str = ""
    notes: str = ""
    modelfile: Digest | None = None
    min_hearth: str = ""
    min_ollama: str = ""
    more: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises LibraryError for anything that is not an index of a release within limits."""
        body = read_json(data, "release", MAX_INDEX_BYTES)
        if (body.get("mediaType"), body.get("artifactType")) != (INDEX_TYPE, RELEASE_TYPE):
            raise _bad(f"its type is {str(body.get('artifactType'))[:80]!r}, not {RELEASE_TYPE}")
        manifests = body.get("manifests")
        if not isinstance(manifests, list) or not 0 < len(manifests) <= MAX_VARIANTS + 1:
            raise _bad(f"'manifests' is not a list of 1 to {MAX_VARIANTS} variants and the extras")
        texts = _annotations(body)
        known = {_VERSION, _CREATED, _LICENSES, _NOTES, _MODELFILE, _MIN_HEARTH, _MIN_OLLAMA}
        modelfile = texts.get(_MODELFILE)
        extras = [raw for raw in manifests if _is_extras(raw)]
        release = cls(
            version=texts.get(_VERSION, ""),
            variants=tuple(_variant(raw) for raw in manifests if not _is_extras(raw)),
            extras=_descriptor(extras[0], OCI_MANIFEST_TYPE) if extras else None,
            created=texts.get(_CREATED, ""),
            licenses=texts.get(_LICENSES, ""),
            notes=texts.get(_NOTES, ""),
            modelfile=_digest(modelfile) if modelfile else None,
            min_hearth=texts.get(_MIN_HEARTH, ""),
            min_ollama=texts.get(_MIN_OLLAMA, ""),
            more=MappingProxyType({k: text for k, text in texts.items() if k not in known}),
        )
        if len(extras) > 1:
            raise _bad("it has more than one artifact of extras")
        release.check()
        return release

    def check(self) -> None:
        """Raise LibraryError for a release that no box could install."""
        if not _WORD.fullmatch(self.version):
            raise _bad(f"its version is {self.version[:80]!r}; use letters, digits, '.', '-'")
        if not self.variants:
            raise _bad("it has no variant")
        for variant in self.variants:
            variant.check()
        names = [variant.name for variant in self.variants]
        if twice := {name for name in names if names.count(name) > 1}:
            raise _bad(f"several variants are called {sorted(twice)[0]}")
        for what, number in (("hearth", self.min_hearth), ("ollama", self.min_ollama)):
            if number and not _RELEASE_NUMBER.fullmatch(number):
                raise _bad(f"requires.{what} is {number[:40]!r}, not a release number like 0.2.1")

    def encode(self) -> bytes:
        """The canonical bytes; raises LibraryError as `check` does."""
        self.check()
        texts = {
            **self.more,
            _VERSION: self.version,
            _CREATED: self.created,
            _LICENSES: self.licenses,
            _NOTES: self.notes,
            _MODELFILE: str(self.modelfile or ""),
            _MIN_HEARTH: self.min_hearth,
            _MIN_OLLAMA: self.min_ollama,
        }
        manifests = [variant.descriptor() for variant in self.variants]
        if self.extras is not None:
            manifests.append(
                {
                    "mediaType": OCI_MANIFEST_TYPE,
                    "artifactType": EXTRAS_TYPE,
                    "digest": str(self.extras.digest),
                    "size": self.extras.size,
                }
            )
        return canonical_json(
            {
                "schemaVersion": 2,
                "mediaType": INDEX_TYPE,
                "artifactType": RELEASE_TYPE,
                "manifests": manifests,
                "annotations": {key: text for key, text in texts.items() if text},
            }
        )


@dataclass(frozen=True, slots=True)
class Extras:
    """The artifact beside the variants, kept apart so that stock clients do not download it."""

    layers: tuple[Layer, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises LibraryError."""
        body = read_json(data, "release's extras", MAX_INDEX_BYTES)
        layers = body.get("layers")
        if body.get("artifactType") != EXTRAS_TYPE or not isinstance(layers, list):
            raise _bad(f"its extras are not an artifact of type {EXTRAS_TYPE}")
        if len(layers) > MAX_VARIANTS:
            raise _bad(f"its extras have {len(layers)} layers, {MAX_VARIANTS} are allowed")
        return cls(tuple(_descriptor(raw) for raw in layers))

    def encode(self) -> bytes:
        """The canonical bytes."""
        empty = {"mediaType": EMPTY_TYPE, "digest": str(Digest.of(EMPTY)), "size": len(EMPTY)}
        return canonical_json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST_TYPE,
                "artifactType": EXTRAS_TYPE,
                "config": empty,
                "layers": [layer.as_json() for layer in self.layers],
            }
        )

    def of_type(self, media_type: str) -> Layer | None:
        """The only layer of that type; raises LibraryError where there are several."""
        found = [layer for layer in self.layers if layer.media_type == media_type]
        if len(found) > 1:
            raise _bad(f"its extras have {len(found)} layers of type {media_type}")
        return found[0] if found else None


def canonical_json(body: Mapping[str, Any]) -> bytes:
    """Sorted keys, no spaces, ASCII, no final newline: equal content gives equal bytes."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def read_json(data: bytes, what: str, max_bytes: int) -> dict[str, Any]:
    """A JSON object of at most `max_bytes`; raises LibraryError naming `what`."""
    if len(data) > max_bytes:
        raise LibraryError(f"the {what} has {len(data)} bytes, {max_bytes} are allowed")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LibraryError(f"the {what} is not JSON") from error
    if not isinstance(body, dict):
        raise LibraryError(f"the {what} is not a JSON object")
    return body


def _is_extras(raw: object) -> bool:
    return isinstance(raw, dict) and raw.get("artifactType") == EXTRAS_TYPE


def _variant(raw: object) -> Variant:
    layer = _descriptor(raw, MANIFEST_TYPE)
    texts = _annotations(raw)
    requires = Requires(
        arch=texts.get("requires.arch", "any"),
        accelerator=texts.get("requires.accel", "cpu"),
        ram_mib=_count(texts, "requires.ram-mib"),
        vram_mib=_count(texts, "requires.vram-mib"),
        disk_mib=_count(texts, "requires.disk-mib"),
    )
    return Variant(
        name=texts.get("variant", ""),
        digest=layer.digest,
        size=layer.size,
        requires=requires,
        engine=texts.get("engine", ""),
        context=_count(texts, "context"),
        quant=texts.get("quant", ""),
        rank=_count(texts, "rank"),
    )


def _descriptor(raw: object, media_type: str = "") -> Layer:
    if not isinstance(raw, dict):
        raise _bad("one of its parts is not an object")
    kind, size = raw.get("mediaType"), raw.get("size")
    if not isinstance(kind, str) or (media_type and kind != media_type):
        raise _bad(f"one of its parts is of type {str(kind)[:80]!r}, not {media_type or 'a text'}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise _bad(f"one of its parts has the size {str(size)[:40]}")
    return Layer(kind, _digest(raw.get("digest")), size)


def _digest(text: object) -> Digest:
    try:
        return Digest.parse(text if isinstance(text, str) else "")
    except BadRequestError as error:
        raise _bad(f"{str(text)[:100]!r} in it is no digest") from error


def _annotations(raw: object) -> dict[str, str]:
    texts = raw.get("annotations", {}) if isinstance(raw, dict) else None
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise _bad("its annotations are not an object of texts")
    if any(len(text) > MAX_TEXT for text in (*texts, *texts.values())):
        raise _bad(f"an annotation is longer than {MAX_TEXT} characters")
    return texts


def _count(texts: Mapping[str, str], key: str) -> int:
    text = texts.get(key, "0")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise _bad(f"{key} is {text[:40]!r}, not a number")
    return int(text)


def _bad(why: str) -> LibraryError:
    return LibraryError(
        f"the release cannot be used: {why}", hint="its publisher must build it again"
    )
