"""/api/push against a real registry, through a proxy with faults."""

import asyncio
import hashlib
import os

import pytest
from yarl import URL

from appliance.errors import RegistryUnreachableError
from appliance.library.library import Library
from appliance.library.manifest import CONFIG_TYPE, MODEL_TYPE, Layer, Manifest
from appliance.library.names import ModelName
from appliance.transfer.identity import Identity
from appliance.transfer.patience import Patience
from appliance.transfer.push import push as push_model
from appliance.transfer.registry import Registry, open_session
from appliance.transfer.sources import Source
from tests.fakes.fault_proxy import TOKEN, fault_proxy
from tests.integration.pulls import manifest_path, transfer
from tests.integration.raw_http import send


@pytest.fixture
async def proxy(docker_registry):
    async with fault_proxy(docker_registry.address) as running:
        yield running


@pytest.fixture
async def push(service, proxy, request):
    """Pushes a model of the test's own through the proxy; its lines."""
    name = f"{proxy.address}/{request.node.name.lower()[:60]}/echo:one"
    await asyncio.to_thread(make, service, name)

    async def run():
        return await asyncio.to_thread(transfer, service, "push", name)

    yield run
    await asyncio.to_thread(send, service, "DELETE", "/api/delete", body={"model": name})


def make(service, name):
    body = {"model": name, "from": "echo", "system": name, "stream": False}
    assert send(service, "POST", "/api/create", body=body).status == 200


def md5(data):
    return hashlib.md5(data, usedforsecurity=False)


def repository(proxy):
    return next(iter(proxy.paths("/manifests/"))).removeprefix("/v2/").partition("/manifests")[0]


async def test_the_manifest_arrives_byte_for_byte(push, proxy, docker_registry, service):
    assert (await push())[-1] == {"status": "success"}
    pushed = await asyncio.to_thread(docker_registry.manifest, repository(proxy), "one")
    stored = manifest_path(service, f"{proxy.address}/{repository(proxy)}:one")
    assert pushed == await asyncio.to_thread(stored.read_bytes)


async def test_what_is_there_is_not_sent_again(push, proxy):
    await push()
    proxy.requests.clear()
    await push()
    assert {request.method for request in proxy.requests} == {"HEAD", "PUT"}
    assert len([request for request in proxy.requests if request.method == "PUT"]) == 1


async def test_blobs_of_a_parent_are_mounted(push, proxy, service):
    parent = f"{proxy.address}/parents/echo:one"
    await asyncio.to_thread(make, service, parent)
    await asyncio.to_thread(transfer, service, "push", parent)
    body = {"model": f"{proxy.address}/children/echo:one", "from": parent, "system": "Child."}
    await asyncio.to_thread(send, service, "POST", "/api/create", body=body)
    proxy.requests.clear()
    lines = await asyncio.to_thread(transfer, service, "push", body["model"])
    assert lines[-1] == {"status": "success"}
    mounted = [r for r in proxy.requests if r.method == "POST" and "mount" in r.query]
    assert {request.query["from"] for request in mounted} == {"parents/echo"}
    sent = {r.query["digest"] for r in proxy.requests if r.method == "PUT" and "digest" in r.query}
    assert not sent & {request.query["mount"] for request in mounted}


async def test_a_part_that_fails_is_sent_again(service, tiny_gguf, start_service, proxy):
    patient = await asyncio.to_thread(start_service, transfer_tries=3)
    name = f"{proxy.address}/patient/echo:one"
    await asyncio.to_thread(patient.create, name, tiny_gguf)
    proxy.faults.fail_uploads = 2
    lines = await asyncio.to_thread(transfer, patient, "push", name)
    assert lines[-1] == {"status": "success"}
    done = [line.get("completed", 0) for line in lines if line.get("total", 0) > 1000]
    assert done == sorted(done)


async def test_tries_are_bounded(push, proxy):
    proxy.faults.fail_uploads = 1000
    assert (await push())[-1]["code"] == "registry_unreachable"


async def test_a_registry_that_reads_nothing_is_left(proxy, tmp_path):
    """More bytes than sockets hold, so that it is the sending that stands still."""
    proxy.faults.deaf = True
    library, patience = Library(tmp_path / "models"), Patience(tries=1, stall_s=0.3)
    name = ModelName.parse(f"{proxy.address}/library/large")

    def make_large():
        data = os.urandom(32 << 20)
        config, _ = library.blobs.put_bytes(b"{}")
        weights, _ = library.blobs.put_bytes(data)
        layers = (Layer(MODEL_TYPE, weights, len(data)),)
        library.write_manifest(name, Manifest(Layer(CONFIG_TYPE, config, 2), layers))

    await asyncio.to_thread(make_large)
    source = Source(URL(f"http://{proxy.address}"), "library/large")
    async with open_session(patience) as session:
        registry = Registry(source, session, Identity(tmp_path / "id_ed25519"), patience)
        with pytest.raises(RegistryUnreachableError, match="takes no bytes"):
            await push_model(library, name, registry, lambda _: None)


async def test_ollamas_way_of_storing_parts_elsewhere(push, proxy):
    proxy.faults.realm = "own"
    async with fault_proxy() as storage:
        proxy.faults.storage = f"http://{storage.address}"
        assert (await push())[-1] == {"status": "success"}
        assert all("Authorization" not in request.headers for request in storage.requests)
        parts = dict(storage.blobs)
    ends = [r for r in proxy.requests if r.method == "PUT" and "digest" in r.query]
    etags = {request.query["etag"] for request in ends}
    assert etags == {f"{md5(md5(part).digest()).hexdigest()}-1" for part in parts.values()}
    assert {request.headers["Authorization"] for request in ends} == {f"Bearer {TOKEN}"}


async def test_a_foreign_realm_stops_a_push(push, proxy):
    async with fault_proxy() as foreign:
        proxy.faults.realm = f"http://{foreign.address}/token"
        assert "for a token" in (await push())[-1]["error"]
        assert foreign.requests == []
