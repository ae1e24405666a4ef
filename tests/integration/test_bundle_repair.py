"""Damaged parts of signed releases are repaired from the places that their repository names."""

import json

from appliance.library.manifest import Digest
from tests.fakes.gguf_builder import tiny_llama_bytes
from tests.integration.bundle_box import says
from tests.integration.pulls import digest_of
from tools.bundles.extras import chunk_maps

WEIGHTS = tiny_llama_bytes(ballast_mib=10)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def scrubbed(box):
    status, text = box.service.call("POST", "/hearth/v1/scrub", {})
    assert status == 200, text
    return [json.loads(line) for line in text.splitlines() if '"checking"' not in line]


def test_weights_by_range_and_the_index_whole(box):
    index = box.publish("1.0.0", "Be kind.", weights=WEIGHTS, smoke=says("Be kind."))
    box.install()
    blobs = box.service.state / "models/blobs"
    weights = blobs / digest_of(WEIGHTS).replace(":", "-")
    for path in (weights, blobs / index.filename):
        flip(path)
    before = sum(box.web.sent.values())
    lines = scrubbed(box)
    assert lines[-1] == {"status": "success", "damaged": 2, "repaired": 2}
    fetched = {line["digest"]: line["fetched"] for line in lines if line["status"] == "repaired"}
    assert fetched[digest_of(WEIGHTS)] <= 4 << 20
    assert sum(box.web.sent.values()) - before < 5 << 20
    assert weights.read_bytes() == WEIGHTS
    assert "Be kind." in box.ask()


def test_hashes_that_the_publisher_signed_help_where_our_own_are_gone(box, tmp_path):
    """As for bytes that were here before their release."""
    weights = tiny_llama_bytes(ballast_mib=11)
    (tmp_path / "weights").write_bytes(weights)
    digest = Digest.of(weights)
    chunks = chunk_maps({digest: tmp_path / "weights"}, large_bytes=1 << 20)
    box.publish("1.0.0", "Be whole.", weights=weights, smoke=says("Be whole."), chunks=chunks)
    box.install()
    (box.service.state / "maps" / digest.hex).unlink()
    flip(box.service.state / "models/blobs" / digest.filename)
    lines = scrubbed(box)
    assert lines[-1] == {"status": "success", "damaged": 1, "repaired": 1}
    (repaired,) = [line for line in lines if line["status"] == "repaired"]
    assert repaired["fetched"] <= 4 << 20
    assert "Be whole." in box.ask()
