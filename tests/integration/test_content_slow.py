"""A release's bytes that never end: slow drip, a head that drips, stalls and endless data, from a
web folder and from a registry, for every kind of part. Each ends by itself and changes nothing.
"""

import itertools
import json

import pytest

from appliance.library.manifest import Digest
from tests.fakes.publisher import CONFIG
from tests.fakes.tuf_repository import tree
from tests.integration.bundle_box import WEIGHTS, Box, enrol, says

PATIENCE = {"transfer_stall_s": "1", "transfer_tries": "1"}
OLD = "Be trusted."

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module", params=["web folder", "registry"])
def served(request, publisher, web, module_service, tmp_path_factory):
    """A box that serves release 1.0.0, and gets the bytes of others from such a source."""
    state = tmp_path_factory.mktemp("impatient")
    content = {"registry": (f"registry+{web.url}",)}.get(request.param, ())
    enrol(state, publisher, web.url, content=content)
    model = f"acme/slow-{request.param.partition(' ')[0]}"
    box = Box(module_service(state), publisher, web, model)  # a busy machine is slow, too
    box.publish("1.0.0", OLD)
    box.install()
    box.service.stop()
    box.service = module_service(state, **PATIENCE)
    assert OLD in box.ask()
    return box


def release(box):
    """A new release of which no part is here yet: the digest of each of its parts."""
    number = next(_NUMBERS)
    system, weights = f"Be number {number}.", b"GGUF" + str(number).encode() * 200_000
    config = CONFIG.replace(b"130K", f"{number}K".encode())
    publisher = box.publisher
    variant = publisher.variant(weights, system, config=config)
    index = publisher.release(f"2.0.{number}", variant, smoke=says(system), card=system)
    publisher.list(index, f"2.0.{number}", "latest", model=box.model)
    manifest = json.loads(publisher.blobs[str(variant.digest)])
    body = json.loads(publisher.blobs[str(index)])
    extras = next(each["digest"] for each in body["manifests"] if "artifactType" in each)
    return {
        "index": str(index),
        "manifest": str(variant.digest),
        "config": manifest["config"]["digest"],
        "weights": manifest["layers"][0]["digest"],
        "system": manifest["layers"][1]["digest"],
        "extras": extras,
        "smoke": json.loads(publisher.blobs[extras])["layers"][0]["digest"],
    }


@pytest.mark.parametrize("how", ["drip", "dripping head", "endless", "stall"])
@pytest.mark.parametrize(
    "part", ["index", "manifest", "config", "weights", "system", "extras", "smoke"]
)
def test_bytes_that_never_end_are_left(served, web, part, how):
    digest = release(served)[part]
    before = tree(served.service.state / "bundles")
    web.odd[f"blobs/sha256/{digest.removeprefix('sha256:')}"] = how
    code, error = served.refused()
    web.odd.clear()
    expected = "registry_error" if how == "endless" else "registry_unreachable"
    assert code == expected, error
    assert tree(served.service.state / "bundles") == before
    assert OLD in served.ask()
    assert not served.has_blob(Digest.parse(digest))


def test_the_source_that_recovers_is_used(served, web):
    box = served
    number = next(_NUMBERS)
    system = f"Be well {number}."
    index = box.publish(f"3.0.{number}", system, smoke=says(system), weights=WEIGHTS)
    web.odd[f"blobs/sha256/{index.hex}"] = "drip"
    assert box.refused()[0] == "registry_unreachable"
    web.odd.clear()
    for _ in range(20):  # it is impatient, and the machine may be busy
        if box.pull()[-1] == {"status": "success"}:
            break
    assert system in box.ask()
