"""Manifests, layers, digests and the config blob: Ollama's JSON, read strictly, written alike.

A manifest that was received is kept byte for byte by its owner (`library.py`); `encode` is for
those made here. Knows no files.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Self

from appliance.errors import BadRequestError, LibraryError
from appliance.templates.gojson import go_json

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
MODEL_TYPE = "application/vnd.ollama.image.model"
PROJECTOR_TYPE = "application/vnd.ollama.image.projector"
ADAPTER_TYPE = "application/vnd.ollama.image.adapter"
TEMPLATE_TYPE = "application/vnd.ollama.image.template"
PROMPT_TYPE = "application/vnd.ollama.image.prompt"  # the template's name in old manifests
SYSTEM_TYPE = "application/vnd.ollama.image.system"
PARAMS_TYPE = "application/vnd.ollama.image.params"
MESSAGES_TYPE = "application/vnd.ollama.image.messages"
LICENSE_TYPE = "application/vnd.ollama.image.license"

MAX_MANIFEST_BYTES = 4 << 20
MAX_LAYERS = 10_000

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Digest:
    """A sha256 that is known to be well-formed, so it is safe in a path."""

    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """`sha256:<64 lower hex>`, or with `-` as in file names; raises BadRequestError."""
        match = _DIGEST.fullmatch(text)
        if match is None:
            raise BadRequestError(
                "invalid digest format",
                hint="a digest is 'sha256:' and 64 lower-case hexadecimal digits",
            )
        return cls(match[1])

    @classmethod
    def of(cls, data: bytes) -> Self:
        return cls(sha256(data).hexdigest())

    @property
    def filename(self) -> str:
        return f"sha256-{self.hex}"

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


@dataclass(frozen=True, slots=True)
class Layer:
    """One part of a model. `source` is the parent model it was copied from, `name` a tensor's."""

    media_type: str
    digest: Digest
    size: int
    source: str = ""
    name: str = ""

    def as_json(self) -> dict[str, Any]:
        optional = {"from": self.source, "name": self.name}
        return {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
            **{key: text for key, text in optional.items() if text},
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """The parts of one model, in order."""

    config: Layer
    layers: tuple[Layer, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises LibraryError for anything but a Docker v2 schema 2 manifest of sane size."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise _damaged(
                "manifest", f"it has {len(data)} bytes, {MAX_MANIFEST_BYTES} are allowed"
            )
        body = _json_object(data, "manifest")
        if body.get("schemaVersion") != 2:
            raise _damaged("manifest", f"schemaVersion is {body.get('schemaVersion')!r}, not 2")
        layers = body.get("layers")
        if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
            raise _damaged("manifest", f"'layers' is not a list of at most {MAX_LAYERS} layers")
        return cls(_layer(body.get("config")), tuple(_layer(layer) for layer in layers))

    def encode(self) -> bytes:
        """As Ollama writes it to disk: struct order, compact, one final newline."""
        body: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self.config.as_json(),
            "layers": [layer.as_json() for layer in self.layers],
        }
        return go_json(body, sort_keys=False) + b"\n"

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def digests(self) -> frozenset[Digest]:
        return frozenset(layer.digest for layer in (self.config, *self.layers))

    def of_type(self, *media_types: str) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.media_type in media_types)


def _layer(raw: object) -> Layer:
    if not isinstance(raw, dict):
        raise _damaged("manifest", "a layer or the config is not an object")
    digest, size = raw.get("digest"), raw.get("size")
    if not isinstance(digest, str):
        raise _damaged("manifest", "a layer has no digest")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise _damaged("manifest", f"a layer's size is {size!r}")
    try:
        parsed = Digest.parse(digest)
    except BadRequestError as error:
        raise _damaged("manifest", f"a layer's digest is {digest[:100]!r}") from error
    texts = [raw.get(key, "") for key in ("mediaType", "from", "name")]
    if not all(isinstance(text, str) for text in texts):
        raise _damaged("manifest", "a layer's mediaType, from or name is not text")
    return Layer(texts[0], parsed, size, texts[1], texts[2])


# fields of the config blob in the order that Ollama writes them; the last three always
_ALWAYS = ("model_format", "model_family", "model_families", "model_type", "file_type")
_TEXTS = ("renderer", "parser", "requires", "remote_host", "remote_model")
_KNOWN = frozenset(
    {
        *_ALWAYS,
        *_TEXTS,
        "capabilities",
        "context_length",
        "embedding_length",
        "base_name",
        "architecture",
        "os",
        "rootfs",
    }
)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The config blob: what a model is, in words that lists show."""

    model_format: str = ""
    model_family: str = ""
    model_families: tuple[str, ...] = ()
    model_type: str = ""  # parameter size, e.g. 7.6B
    file_type: str = ""  # quantization level, e.g. Q4_K_M
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    remote_model: str = ""
    capabilities: tuple[str, ...] = ()
    context_length: int = 0
    embedding_length: int = 0
    base_name: str = ""
    layer_digests: tuple[Digest, ...] = ()
    unknown: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises LibraryError unless a JSON object; a field of a wrong type counts as missing."""
        body = _json_object(data, "model config")
        texts = (*_ALWAYS, *_TEXTS, "base_name")
        rootfs = body.get("rootfs")
        digests = _texts(rootfs.get("diff_ids")) if isinstance(rootfs, dict) else ()
        return cls(
            **{key: _text(body.get(key)) for key in texts if key != "model_families"},
            model_families=_texts(body.get("model_families")),
            capabilities=_texts(body.get("capabilities")),
            context_length=_count(body.get("context_length")),
            embedding_length=_count(body.get("embedding_length")),
            layer_digests=tuple(Digest.parse(text) for text in digests if _DIGEST.fullmatch(text)),
            unknown=MappingProxyType({k: v for k, v in body.items() if k not in _KNOWN}),
        )

    def for_layers(self, layers: Sequence[Layer]) -> Self:
        """The same words for another list of layers."""
        return replace(self, layer_digests=tuple(layer.digest for layer in layers))

    def encode(self) -> bytes:
        """As Ollama writes it. `rootfs` as in every published model (checked against Llama 3.2)."""
        body: dict[str, Any] = {key: getattr(self, key) for key in _ALWAYS}
        body["model_families"] = list(self.model_families) or None
        optional = {
            **{key: getattr(self, key) for key in _TEXTS},
            "capabilities": list(self.capabilities),
            "context_length": self.context_length,
            "embedding_length": self.embedding_length,
            "base_name": self.base_name,
        }
        body |= {key: value for key, value in optional.items() if value}
        body |= self.unknown
        diff_ids = [str(digest) for digest in self.layer_digests]
        body |= {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        return go_json(body, sort_keys=False) + b"\n"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list) else ()
    return tuple(item for item in items if isinstance(item, str))


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _json_object(data: bytes, what: str) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(what, "it is not JSON") from error
    if not isinstance(body, dict):
        raise _damaged(what, "it is not a JSON object")
    return body


def _damaged(what: str, why: str) -> LibraryError:
    return LibraryError(f"a {what} is damaged: {why}", hint="delete the model and get it again")
