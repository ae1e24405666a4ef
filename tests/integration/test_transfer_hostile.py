"""Registries that mean harm: whatever they send, nothing appears in the store."""

import asyncio
import os

import pytest

from tests.fakes.fault_proxy import fault_proxy
from tests.integration.pulls import HEX, blobs, manifest_of, names, offer, pull

NAME = "library/hostile:one"
INDEX = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
GOOD = {"digest": f"sha256:{HEX}", "size": 3}
MANIFESTS = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "larger than allowed": b"x" * (5 << 20),
    "no parts": b'{"schemaVersion": 2}',
    "null parts": b'{"schemaVersion": 2, "config": null, "layers": null}',
    "an index": INDEX,
    "an index with layers": manifest_of(GOOD).replace(b"{", INDEX[:-1] + b",", 1),
    "no layers": manifest_of(),
    "another's weights": manifest_of(GOOD | {"mediaType": "application/vnd.docker.ai.gguf.v3"}),
    "two models": manifest_of(GOOD, {"digest": f"sha256:{'1' * 64}", "size": 3}),
    "a path": manifest_of(GOOD | {"digest": "sha256:../../../x"}),
    "a short digest": manifest_of(GOOD | {"digest": "sha256:00"}),
    "upper case": manifest_of(GOOD | {"digest": f"sha256:{'A' * 64}"}),
    "another hash": manifest_of(GOOD | {"digest": f"sha512:{HEX}"}),
    "too large a blob": manifest_of(GOOD | {"size": 1 << 60}),
    "a negative size": manifest_of(GOOD | {"size": -1}),
    "a size that is text": manifest_of(GOOD | {"size": "3"}),
    "two sizes": manifest_of(GOOD, GOOD | {"size": 4, "mediaType": "text/plain"}),
}


@pytest.fixture
async def proxy():
    async with fault_proxy() as running:
        yield running


@pytest.mark.parametrize("kind", MANIFESTS)
async def test_hostile_manifests_change_nothing(service, proxy, kind):
    before = await asyncio.to_thread(lambda: (blobs(service), names(service)))
    proxy.faults.manifest = MANIFESTS[kind]
    lines = await pull(service, f"{proxy.address}/{NAME}")
    assert lines[-1]["code"] == "registry_error"
    assert await asyncio.to_thread(lambda: (blobs(service), names(service))) == before
    assert proxy.paths("/blobs/") == []


async def test_a_layer_that_is_no_gguf_is_refused_and_goes(start_service, proxy):
    service = await asyncio.to_thread(start_service)
    before = await asyncio.to_thread(blobs, service)
    offer(proxy, b"GGUF" + os.urandom(1000))
    lines = await pull(service, f"{proxy.address}/{NAME}")
    assert "no usable GGUF" in lines[-1]["error"]
    left = set(await asyncio.to_thread(blobs, service)) - set(before)
    assert len(left) == 1  # the config, which nobody can misread
    assert NAME not in " ".join(await asyncio.to_thread(names, service))


async def test_a_full_disk_is_known_before_the_first_byte(service, proxy):
    free = os.statvfs(service.state)
    if free.f_bavail * free.f_frsize > 127 << 30:
        pytest.skip("this disk really has 127 GiB free")
    proxy.faults.manifest = manifest_of(GOOD | {"size": 127 << 30})
    lines = await pull(service, f"{proxy.address}/{NAME}")
    assert lines[-1]["code"] == "disk_full"
    assert proxy.paths("/blobs/") == []


async def test_a_foreign_realm_is_refused_by_the_service(service, proxy):
    async with fault_proxy() as foreign:
        proxy.faults.realm = f"http://{foreign.address}/token"
        lines = await pull(service, f"{proxy.address}/{NAME}")
        assert "only a realm on the registry's own" in lines[-1]["hint"]
        assert foreign.requests == []
