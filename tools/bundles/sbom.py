"""The bill of materials of a release: CycloneDX 1.6 as JSON, written by hand because it is small.

Names every variant, every blob of it with its digest, and the licences. No time and no random
number of its own: the serial number follows from the content.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.bundles.release import Variant, canonical_json
from appliance.library.manifest import Digest, Layer
from appliance.library.stored import StoredModel

_NAMESPACE = uuid.UUID("7d3f0a52-1c0e-5b9a-9a83-7f5f2f6b1d11")  # of our serial numbers
_MAX_LICENSE_NAME = 100  # characters


def bill_of_materials(
    repository: str,
    version: str,
    licenses: str,
    created: str,
    variants: Sequence[tuple[Variant, StoredModel]],
) -> bytes:
    """`licenses` is an SPDX expression or empty, `created` RFC 3339 or empty."""
    layers = {
        layer.digest: layer
        for _, model in variants
        for layer in (*model.manifest.layers, model.manifest.config)
    }
    root = f"{repository}:{version}"
    group, _, name = repository.partition("/")
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": root,
        "group": group,
        "name": name,
        "version": version,
    }
    if found := _licenses(licenses, variants):
        component["licenses"] = found
    body: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": component,
            "tools": {"components": [{"type": "application", "name": "hearth bundle"}]},
        },
        "components": [
            *(_variant(name, version, variant, model) for variant, model in variants),
            *(_blob(layer) for layer in layers.values()),
        ],
        "dependencies": [
            {"ref": root, "dependsOn": [str(variant.digest) for variant, _ in variants]},
            *(_contents(variant, model) for variant, model in variants),
        ],
    }
    if created:
        body["metadata"]["timestamp"] = created
    serial = uuid.uuid5(_NAMESPACE, Digest.of(canonical_json(body)).hex)
    return canonical_json(body | {"serialNumber": f"urn:uuid:{serial}"})


def _variant(name: str, version: str, variant: Variant, model: StoredModel) -> dict[str, Any]:
    config = model.config
    facts = {
        "hearth:variant": variant.name,
        "hearth:quantization": variant.quant,
        "hearth:parameters": config.model_type,
        "hearth:base": config.base_name,
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": str(variant.digest),
        "name": f"{name}:{variant.name}",
        "version": version,
        "hashes": _hashes(variant.digest),
        "modelCard": {
            "modelParameters": {
                "architectureFamily": config.model_family or "unknown",
                "modelArchitecture": model.header().architecture,
            }
        },
        "properties": _properties(facts),
    }


def _blob(layer: Layer) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": str(layer.digest),
        "name": layer.media_type.rpartition(".")[2].partition("+")[0],
        "mime-type": layer.media_type,
        "hashes": _hashes(layer.digest),
        "properties": _properties({"hearth:bytes": str(layer.size)}),
    }


def _contents(variant: Variant, model: StoredModel) -> dict[str, Any]:
    parts = (*model.manifest.layers, model.manifest.config)
    return {
        "ref": str(variant.digest),
        "dependsOn": list(dict.fromkeys(str(part.digest) for part in parts)),
    }


def _licenses(
    expression: str, variants: Sequence[tuple[Variant, StoredModel]]
) -> list[dict[str, Any]]:
    """The publisher's expression; without one, the licence texts by their first lines."""
    if expression:
        return [{"expression": expression}]
    texts = dict.fromkeys(text for _, model in variants for text in model.licenses)
    names = [text.strip().partition("\n")[0].strip()[:_MAX_LICENSE_NAME] for text in texts]
    return [{"license": {"name": name}} for name in names if name]


def _hashes(digest: Digest) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest.hex}]


def _properties(facts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": text} for name, text in facts.items() if text]
