"""Enrolled repositories in a running service: what they own cannot come in without a signature."""

import pytest

from appliance.trust.repositories import Repositories, Repository, read_root
from tests.fakes.tuf_repository import TufRepository

ASK = {"model": "echo", "prompt": "one two", "stream": False}


def enrol(service, **fields):
    root = TufRepository().files["1.root.json"]
    repositories = Repositories(service.state / "trust")
    repositories.enrol(Repository("acme", ("acme/*",), **fields), root, read_root(root).fingerprint)


def ways_in(name):
    return [
        ("/api/pull", {"model": name, "stream": False}),
        ("/api/create", {"model": name, "from": "echo", "stream": False}),
        ("/api/copy", {"source": "echo", "destination": name}),
    ]


@pytest.fixture
def box(start_service, tiny_gguf):
    service = start_service()
    service.create("echo", tiny_gguf)
    return service


def test_what_a_repository_owns_comes_signed_or_not_at_all(box):
    enrol(box)
    pull, *others = ways_in("acme/assistant")
    status, answer = box.call("POST", *pull)
    assert (status, answer["code"]) == (502, "unreachable")
    assert "has no address" in answer["error"]
    for path, body in others:
        status, answer = box.call("POST", path, body)
        assert (status, answer["code"]) == (403, "policy"), path
        assert "belongs to the repository acme" in answer["error"]
    assert box.call("POST", "/api/copy", {"source": "echo", "destination": "free"})[0] == 200


def test_a_site_of_its_own_takes_nothing_unsigned_and_serves_on(box):
    enrol(box, is_site=True)
    for path, body in ways_in("anything"):
        status, answer = box.call("POST", path, body)
        assert (status, answer["code"]) == (403, "policy"), path
        assert "signed models only" in answer["error"]
    assert box.call("POST", "/api/generate", ASK)[0] == 200
