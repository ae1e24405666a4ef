"""What the tests of transfers share: requests to a service, looks at its store, made-up models."""

import asyncio
import hashlib
import json

from tests.integration.raw_http import send

MODEL = "application/vnd.ollama.image.model"
HEX = "0" * 64


def transfer(service, verb, name, **fields):
    """The lines of a stream that must have begun well."""
    reply = send(service, "POST", f"/api/{verb}", body={"model": name, **fields})
    assert reply.status == 200, reply.content
    return reply.lines


async def pull(service, name):
    """The lines of a pull while this loop serves the registry."""
    return await asyncio.to_thread(transfer, service, "pull", name)


def names(service):
    """The models that are installed."""
    return [model["name"] for model in service.call("GET", "/api/tags")[1]["models"]]


def blobs(service):
    """The files in the blobs folder, partial ones included."""
    return sorted(path.name for path in (service.state / "models/blobs").iterdir())


def manifest_path(service, name):
    """Where the manifest of host/namespace/model:tag is kept."""
    return service.state / "models/manifests" / "/".join(name.rsplit(":", 1))


def manifest_of(*layers, config=b"{}"):
    """A manifest over a config and layers, each a dict or the bytes of a model's weights."""
    parts = [
        {"mediaType": MODEL, "digest": digest_of(layer), "size": len(layer)}
        if isinstance(layer, bytes)
        else {"mediaType": MODEL, **layer}
        for layer in layers
    ]
    body = {"schemaVersion": 2, "config": {"digest": digest_of(config), "size": len(config)}}
    return json.dumps(body | {"layers": parts}).encode()


def offer(proxy, weights):
    """Let the proxy have a model of these weights under every name."""
    proxy.blobs |= {digest_of(data): data for data in (weights, b"{}")}
    proxy.faults.manifest = manifest_of(weights)


def digest_of(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
