"""The box as a registry: another one pulls from it, and others get no more than they may."""

import hashlib

import pytest

from tests.integration.pulls import manifest_path, transfer
from tests.integration.raw_http import send

REPOSITORY = "/v2/library/echo"


@pytest.fixture
def stored(service):
    """The manifest of `echo`, as it lies on disk."""
    return manifest_path(service, "registry.ollama.ai/library/echo:latest").read_bytes()


@pytest.fixture
def weights(service):
    """Digest and bytes of its weights."""
    layer = send(service, "GET", f"{REPOSITORY}/manifests/latest").json["layers"][0]
    path = service.state / "models/blobs" / layer["digest"].replace(":", "-")
    return layer["digest"], path.read_bytes()


def test_another_box_pulls_from_this_one(service, start_service, stored):
    address = service.url.removeprefix("http://")
    other = start_service()
    assert transfer(other, "pull", f"{address}/library/echo")[-1] == {"status": "success"}
    assert manifest_path(other, f"{address}/library/echo:latest").read_bytes() == stored
    mirrored = start_service(registry_mirrors=service.url)
    assert transfer(mirrored, "pull", "echo")[-1] == {"status": "success"}
    body = {"model": "echo", "prompt": "one two", "stream": False}
    assert "one two" in send(mirrored, "POST", "/api/generate", body=body).json["response"]


def test_manifests_by_tag_and_digest(service, stored):
    digest = f"sha256:{hashlib.sha256(stored).hexdigest()}"
    assert send(service, "GET", "/v2/").status == 200
    for reference in ("latest", "LATEST", digest):
        reply = send(service, "GET", f"{REPOSITORY}/manifests/{reference}")
        assert (reply.status, reply.content) == (200, stored)
        assert reply.headers["Docker-Content-Digest"] == digest
        assert reply.headers["Content-Type"].startswith("application/vnd.docker.distribution")
    head = send(service, "HEAD", f"{REPOSITORY}/manifests/latest")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(stored)))


def test_blobs_whole_in_ranges_and_with_a_location(service, weights):
    digest, data = weights
    path = f"{REPOSITORY}/blobs/{digest}"
    whole = send(service, "GET", path)
    assert (whole.status, whole.content) == (200, data)
    assert whole.headers["Location"] == path
    assert whole.headers["Docker-Content-Digest"] == digest
    head = send(service, "HEAD", path)
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(data)))
    part = send(service, "GET", path, headers=[("Range", "bytes=10-19")])
    assert (part.status, part.content) == (206, data[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(data)}"


def test_blobs_are_seen_only_below_their_model(service, weights):
    digest, _ = weights
    assert send(service, "GET", f"/v2/library/hearth/blobs/{digest}").status == 404
    assert send(service, "GET", f"{REPOSITORY}/blobs/sha256:{'0' * 64}").status == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/library/missing/manifests/latest", 404),
        (f"{REPOSITORY}/manifests/other", 404),
        ("/v2/library/..%2f..%2fx/manifests/latest", 404),
        (f"{REPOSITORY}/blobs/..%2f..%2fx", 400),
        ("/v2/a/b/c/manifests/latest", 404),
        ("/v2/_catalog", 404),
    ],
)
def test_what_is_not_there(service, path, status):
    reply = send(service, "GET", path)
    assert reply.status == status
    assert reply.json["error"]


def test_it_is_for_reading(service, weights):
    digest, _ = weights
    assert send(service, "POST", f"{REPOSITORY}/blobs/uploads/", body=b"").status in {404, 405}
    assert send(service, "PUT", f"{REPOSITORY}/manifests/latest", body=b"{}").status == 405
    assert send(service, "DELETE", f"{REPOSITORY}/blobs/{digest}").status == 405


def from_outside(service):
    """Headers of somebody behind a proxy who has a key for chatting."""
    wanted = {"name": "neighbour", "scopes": ["chat"]}
    token = service.call("POST", "/hearth/v1/keys", wanted)[1]["secret"]
    return [("X-Forwarded-For", "10.0.0.1"), ("Authorization", f"Bearer {token}")]


def test_the_network_reads_only_where_models_are_shared(service, start_service, tiny_gguf):
    outside = from_outside(service)
    refused = send(service, "GET", f"{REPOSITORY}/manifests/latest", headers=outside)
    assert refused.status == 403
    assert "share_models" in refused.json["hint"]
    sharing = start_service(share_models="on")
    sharing.create("echo", tiny_gguf)
    outside = from_outside(sharing)
    assert send(sharing, "GET", f"{REPOSITORY}/manifests/latest", headers=outside).status == 200


def test_a_key_for_other_models_pulls_nothing_else(start_service, tiny_gguf):
    sharing = start_service(share_models="on")
    sharing.create("echo", tiny_gguf)
    for models, status in ((["echo"], 200), (["other"], 404)):
        wanted = {"name": "neighbour", "scopes": ["chat"], "models": models}
        token = sharing.call("POST", "/hearth/v1/keys", wanted)[1]["secret"]
        headers = [("X-Forwarded-For", "10.0.0.1"), ("Authorization", f"Bearer {token}")]
        path = f"{REPOSITORY}/manifests/latest"
        assert send(sharing, "GET", path, headers=headers).status == status
