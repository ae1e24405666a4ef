"""`hearth scrub` on a real service: what has rotted is found, named, set aside and healed."""

import json
import urllib.request

import pytest

from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.integration.cli_process import Command


@pytest.fixture
def box(start_service, tiny_gguf, tmp_path):
    """A service with two models of different weights; with the path of the first one's weights."""
    service = start_service()
    service.create("good", tiny_llama_gguf(tmp_path / "other.gguf", vocab=330))
    service.create("rotten", tiny_gguf)
    manifest = service.state / "models/manifests/registry.ollama.ai/library/rotten/latest"
    layer = json.loads(manifest.read_bytes())["layers"][0]["digest"]
    service.weights = service.state / "models/blobs" / layer.replace(":", "-")
    return service


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def scrubbed(service, **body):
    """All documents of one scrub."""
    status, text = service.call("POST", "/hearth/v1/scrub", body)
    assert status == 200, text
    return [json.loads(line) for line in text.splitlines()]


def test_a_sound_store_is_read_to_the_end(box):
    documents = scrubbed(box)
    *_, last_read, end = documents
    assert documents[0]["completed"] == 0
    assert last_read["completed"] == last_read["total"] > box.weights.stat().st_size
    assert end == {"status": "success", "damaged": 0, "repaired": 0}


def test_a_flipped_bit_takes_one_model_out_and_no_other(box):
    flip(box.weights)
    (found,) = [line for line in scrubbed(box) if line["status"] == "damaged"]
    assert found["digest"] == box.weights.name.replace("-", ":")
    assert found["models"] == ["rotten:latest"]
    assert found["reason"] == "its bytes have changed"
    ask = {"prompt": "one two", "stream": False}
    assert box.call("POST", "/api/generate", ask | {"model": "good"})[0] == 200
    status, answer = box.call("POST", "/api/generate", ask | {"model": "rotten"})
    assert status == 500
    assert "is missing" in answer["error"]
    (problem,) = box.call("GET", "/hearth/v1/status")[1]["problems"]
    assert "rotten" in problem


def test_the_damaged_bytes_are_kept_until_good_ones_come(box, tiny_gguf):
    flip(box.weights)
    rotten = box.weights.read_bytes()
    scrubbed(box)
    kept = box.weights.with_name(f"damaged-{box.weights.name}")
    assert kept.read_bytes() == rotten
    assert [line["reason"] for line in scrubbed(box) if line["status"] == "damaged"] == [
        "it is missing"
    ]
    assert kept.read_bytes() == rotten
    box.create("rotten", tiny_gguf)
    assert box.weights.read_bytes() == tiny_gguf.read_bytes()
    assert not kept.exists()
    assert scrubbed(box)[-1] == {"status": "success", "damaged": 0, "repaired": 0}


def test_a_model_that_is_removed_meanwhile_is_no_damage(box):
    request = urllib.request.Request(
        f"{box.url}/hearth/v1/scrub", data=b'{"rate": 1}', method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.loads(answer.readline())["completed"] == 0
        assert box.call("DELETE", "/api/delete", {"model": "rotten"})[0] == 200
    assert scrubbed(box)[-1] == {"status": "success", "damaged": 0, "repaired": 0}


@pytest.mark.parametrize("rate", [-1, "fast", 1.5])
def test_a_rate_that_is_none_is_refused(box, rate):
    status, answer = box.call("POST", "/hearth/v1/scrub", {"rate": rate})
    assert status == 400
    assert "rate" in answer["error"]


def test_the_command_says_what_is_damaged_and_exits_with_1(box):
    hearth = Command(box.url)
    assert "nothing is damaged" in hearth("scrub").stdout
    flip(box.weights)
    done = hearth.run("scrub")
    assert done.returncode == 1
    assert "its bytes have changed; needed by rotten:latest" in done.stdout
    again = hearth.run("scrub", "--json", "--rate", "100")
    assert again.returncode == 1
    assert [part["models"] for part in json.loads(again.stdout)["damaged"]] == [["rotten:latest"]]
