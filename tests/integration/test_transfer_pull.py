"""/api/pull and /api/push of the real service against a real registry, and one with faults."""

import asyncio
import hashlib
import os
import signal

import pytest

from appliance.library.manifest import MODEL_TYPE, Manifest
from tests.fakes.fault_proxy import fault_proxy
from tests.fakes.waiting import until
from tests.integration.pulls import HEX, blobs, manifest_path, names, offer, pull, transfer
from tests.integration.raw_http import open_request, send


@pytest.fixture
async def proxy(docker_registry):
    async with fault_proxy(docker_registry.address) as running:
        yield running


@pytest.fixture
def name(docker_registry):
    """A model's name at the real registry."""
    return f"{docker_registry.address}/library/tiny:one"


@pytest.fixture(scope="module")
def published(service, docker_registry):
    """`library/tiny:one` in the registry, from a service that keeps it; the manifest's bytes."""
    ours = f"{docker_registry.address}/library/tiny:one"
    body = {"source": "echo", "destination": "base"}
    assert send(service, "POST", "/api/copy", body=body).status == 200
    made = {"model": ours, "from": "base", "system": "Be brief.", "license": "MIT"}
    assert send(service, "POST", "/api/create", body=made | {"stream": False}).status == 200
    lines = transfer(service, "push", ours)
    assert lines[-1] == {"status": "success"}
    return docker_registry.manifest("library/tiny", "one")


def through(proxy, name="library/tiny:one"):
    return f"{proxy.address}/{name}"


def test_a_round_trip_keeps_every_byte_and_the_model_answers(
    service, start_service, published, name
):
    assert manifest_path(service, name).read_bytes() == published
    other = start_service()
    lines = transfer(other, "pull", name)
    statuses = [line["status"] for line in lines]
    manifest = Manifest.parse(published)
    parts = [*manifest.layers, manifest.config]
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    for part in parts:
        last = [line for line in lines if line.get("digest") == str(part.digest)][-1]
        assert last["status"] == f"pulling {part.digest.hex[:12]}"
        assert last["completed"] == last["total"] == part.size
    assert manifest_path(other, name).read_bytes() == published
    shown = send(other, "POST", "/api/show", body={"model": name}).json
    assert shown["system"] == "Be brief."
    answer = send(
        other, "POST", "/api/generate", body={"model": name, "prompt": "one two", "stream": False}
    )
    assert "one two" in answer.json["response"]


def test_a_second_push_sends_no_blob_again(service, published, name, docker_registry):
    lines = transfer(service, "push", name)
    assert lines[0]["status"] == "retrieving manifest"
    assert "pushing manifest" in [line["status"] for line in lines]
    assert docker_registry.manifest("library/tiny", "one") == published


def test_without_stream_only_the_last_line(service, published, name):
    for verb in ("push", "pull"):
        reply = send(service, "POST", f"/api/{verb}", body={"name": name, "stream": False})
        assert (reply.status, reply.json) == (200, {"status": "success"})
        assert reply.headers["Content-Type"] == "application/json"


def test_a_pull_repairs_a_blob_that_rotted(start_service, published, name):
    service = start_service()
    transfer(service, "pull", name)
    layer = max(Manifest.parse(published).layers, key=lambda layer: layer.size)
    path = service.state / "models/blobs" / layer.digest.filename
    path.write_bytes(bytes(layer.size))
    assert transfer(service, "pull", name)[-1] == {"status": "success"}
    assert hashlib.sha256(path.read_bytes()).hexdigest() == layer.digest.hex


def test_an_update_removes_what_only_the_old_one_used(
    service, start_service, published, docker_registry
):
    name = f"{docker_registry.address}/library/changing"
    made = {"model": name, "from": "echo", "stream": False}
    send(service, "POST", "/api/create", body=made | {"system": "Old."})
    transfer(service, "push", name)
    other = start_service()
    transfer(other, "pull", name)
    before = blobs(other)
    send(service, "POST", "/api/create", body=made | {"system": "New."})
    transfer(service, "push", name)
    statuses = [line["status"] for line in transfer(other, "pull", name, confirm=True)]
    assert statuses[-2:] == ["removing unused layers", "success"]
    assert len(blobs(other)) == len(before)
    assert send(other, "POST", "/api/show", body={"model": name}).json["system"] == "New."


def test_what_is_not_there(service, docker_registry):
    missing = f"{docker_registry.address}/library/missing"
    lines = transfer(service, "pull", missing)
    assert lines[0] == {"status": "pulling manifest"}
    assert lines[-1]["error"] == "pull model manifest: file does not exist"
    whole = send(service, "POST", "/api/pull", body={"model": missing, "stream": False})
    assert (whole.status, whole.json["code"]) == (404, "registry_not_found")
    assert transfer(service, "push", missing)[-1]["error"] == "couldn't retrieve manifest"


@pytest.mark.parametrize("verb", ["pull", "push"])
@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "model is required"),
        ({"model": "../../etc/passwd"}, "invalid model name"),
        ({"model": "h:99999/n/m"}, "invalid model name"),
        ({"model": "http://example.com/n/m"}, "insecure protocol http"),
    ],
)
def test_bad_requests(service, verb, body, text):
    reply = send(service, "POST", f"/api/{verb}", body=body)
    assert (reply.status, reply.json["error"]) == (400, text)


@pytest.mark.parametrize("verb", ["pull", "push"])
def test_only_the_box_itself_may(service, verb, name):
    forwarded = [("X-Forwarded-For", "10.0.0.1")]
    reply = send(service, "POST", f"/api/{verb}", body={"model": name}, headers=forwarded)
    assert reply.status == 401


def test_names_without_host_go_to_the_registry_of_the_settings(
    start_service, published, docker_registry
):
    service = start_service(registry=f"http://{docker_registry.address}")
    assert transfer(service, "pull", "tiny:one")[-1] == {"status": "success"}
    assert names(service).count("tiny:one") == 1


def test_a_mirror_is_asked_first_and_a_dead_one_passed_over(
    start_service, published, docker_registry
):
    mirrors = f"http://127.0.0.1:1,http://{docker_registry.address}"
    service = start_service(registry_mirrors=mirrors)
    assert transfer(service, "pull", "tiny:one")[-1] == {"status": "success"}


async def test_oci_manifests_with_ollamas_layers(start_service, published, proxy):
    proxy.faults.manifest = published.replace(
        b"application/vnd.docker.distribution.manifest.v2+json",
        b"application/vnd.oci.image.manifest.v1+json",
    )
    service = await asyncio.to_thread(start_service)
    lines = await pull(service, through(proxy))
    assert lines[-1] == {"status": "success"}
    stored = manifest_path(service, through(proxy))
    assert await asyncio.to_thread(stored.read_bytes) == proxy.faults.manifest


async def test_a_manifest_that_is_not_its_digest(service, published, proxy):
    proxy.faults.manifest_digest = f"sha256:{HEX}"
    lines = await pull(service, through(proxy))
    assert "sent a manifest of digest" in lines[-1]["error"]


async def test_wrong_bytes_never_become_a_model(start_service, published, proxy):
    service = await asyncio.to_thread(start_service)
    before = await asyncio.to_thread(blobs, service)
    proxy.faults.wrong_bytes = True
    lines = await pull(service, through(proxy))
    assert lines[-1]["code"] == "download_corrupt"
    assert through(proxy) not in await asyncio.to_thread(names, service)
    assert await asyncio.to_thread(blobs, service) == before
    proxy.faults.wrong_bytes = False
    assert (await pull(service, through(proxy)))[-1]["status"] == "success"


async def test_two_callers_share_one_download(start_service, published, proxy):
    service = await asyncio.to_thread(start_service)
    proxy.faults.stall_after = 10
    first = asyncio.create_task(pull(service, through(proxy)))
    await until(lambda: proxy.answering)
    leaving = await asyncio.to_thread(
        open_request, service, "/api/pull", {"model": through(proxy).upper()}
    )
    await asyncio.to_thread(leaving.recv, 100)
    leaving.close()  # one who leaves takes nothing from the other
    await until(lambda: "status=499" in service.log)
    first.cancel()


async def test_who_leaves_last_ends_the_download(start_service, published, proxy):
    service = await asyncio.to_thread(start_service)
    proxy.faults.stall_after = 10
    callers = [
        await asyncio.to_thread(open_request, service, "/api/pull", {"model": through(proxy)})
        for _ in range(2)
    ]
    await until(lambda: proxy.answering)
    assert len(proxy.paths("/manifests/")) == 1
    callers.pop().close()
    await until(lambda: "status=499" in service.log)
    assert proxy.answering == 1
    callers.pop().close()
    await until(lambda: not proxy.answering)


async def test_a_stop_does_not_wait_for_a_download(start_service, published, proxy):
    service = await asyncio.to_thread(start_service)
    proxy.faults.stall_after = 10
    running = asyncio.create_task(pull(service, through(proxy)))
    await until(lambda: proxy.answering)
    assert await asyncio.to_thread(service.stop) == 0
    assert "stopping" in (await running)[-1]["error"]


async def test_killed_in_the_middle_it_resumes(start_service, tmp_path, proxy):
    """At most 64 MiB come again after SIGKILL (bundles.md, 8.6)."""
    size = 160 << 20
    offer(proxy, os.urandom(size))
    service = await asyncio.to_thread(start_service)
    caller = await asyncio.to_thread(open_request, service, "/api/pull", {"model": through(proxy)})
    await until(lambda: proxy.sent_bytes >= size // 2)
    service.process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(service.process.wait)
    caller.close()
    await until(lambda: not proxy.answering)
    first = proxy.sent_bytes
    again = await asyncio.to_thread(start_service, service.state)
    lines = await asyncio.to_thread(transfer, again, "pull", through(proxy))
    assert "no usable GGUF" in lines[-1]["error"]  # random bytes, but the right ones
    assert proxy.sent_bytes - size <= 64 << 20
    assert proxy.sent_bytes - first < size


def test_partial_blobs_are_given_up_after_a_month(start_service):
    service = start_service()
    service.stop()
    folder = service.state / "models/blobs"
    old, young = folder / f"sha256-{'0' * 64}-part", folder / f"sha256-{'1' * 64}-part"
    for path in (old, young):
        path.write_bytes(b"x")
    month_ago = young.stat().st_mtime - 31 * 86_400
    os.utime(old, (month_ago, month_ago))
    start_service(service.state)
    assert not old.exists()
    assert young.exists()


def test_a_pull_replaces_what_a_scrub_set_aside_and_fetches_nothing_else(
    start_service, published, name
):
    box = start_service()
    transfer(box, "pull", name)
    folder = box.state / "models/blobs"
    (layer,) = Manifest.parse(published).of_type(MODEL_TYPE)
    weights = folder / layer.digest.filename
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert send(box, "POST", "/hearth/v1/scrub", body={"repair": False}).lines[-1]["damaged"] == 1
    assert transfer(box, "pull", name)[-1] == {"status": "success"}
    after = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert after.keys() == before.keys()
    assert [blob for blob in after if after[blob] != before[blob]] == [weights.name]
    assert weights.read_bytes() == good
