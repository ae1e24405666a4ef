"""Damage that a scrub finds is repaired by fetching the damaged chunks, and no others."""

import asyncio
import json

import pytest

from appliance.library.chunks import CHUNK_BYTES
from tests.fakes.fault_proxy import fault_proxy
from tests.fakes.gguf_builder import tiny_llama_bytes
from tests.integration.cli_process import Command
from tests.integration.pulls import blobs, digest_of, offer, pull

MIB = 1 << 20
ASK = {"prompt": "one two", "stream": False}


@pytest.fixture(scope="module")
def weights():
    """Seven chunks."""
    return tiny_llama_bytes(ballast_mib=26)


@pytest.fixture
async def proxy(weights):
    async with fault_proxy() as running:
        offer(running, weights)
        yield running


@pytest.fixture
async def box(start_service, proxy, weights):
    """A service that pulled the model, with the path of its weights."""
    service = start_service()
    service.model = f"{proxy.address}/library/m"
    assert (await pull(service, service.model))[-1] == {"status": "success"}
    service.weights = service.state / "models/blobs" / digest_of(weights).replace(":", "-")
    service.map = service.state / "maps" / service.weights.name.removeprefix("sha256-")
    proxy.requests.clear()
    proxy.sent_bytes = 0
    return service


def flip(path, *offsets):
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 0x10]))


async def scrubbed(service, **body):
    """What a scrub says, without how far it is."""
    status, text = await asyncio.to_thread(service.call, "POST", "/hearth/v1/scrub", body)
    assert status == 200, text
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if line["status"] != "checking"]


async def check_whole(box, weights):
    assert box.weights.read_bytes() == weights
    assert not any("damaged" in name for name in blobs(box))
    ask = ASK | {"model": box.model}
    assert (await asyncio.to_thread(box.call, "POST", "/api/generate", ask))[0] == 200


async def test_a_flipped_bit_costs_one_chunk(box, proxy, weights):
    flip(box.weights, len(weights) // 2)
    damaged, repaired, end = await scrubbed(box)
    assert damaged["status"] == "damaged"
    assert repaired == {
        "status": "repaired",
        "digest": digest_of(weights),
        "fetched": CHUNK_BYTES,
        "source": f"http://{proxy.address}",
    }
    assert end == {"status": "success", "damaged": 1, "repaired": 1}
    assert proxy.sent_bytes == CHUNK_BYTES
    await check_whole(box, weights)


async def test_several_places_are_repaired_each_by_its_chunk(box, proxy, weights):
    flip(box.weights, 0, len(weights) // 2, len(weights) - 1)
    assert (await scrubbed(box))[-1]["repaired"] == 1
    assert proxy.sent_bytes < 3 * CHUNK_BYTES
    assert len(proxy.requests) == 3
    await check_whole(box, weights)


@pytest.mark.parametrize("change", [-5, 7])
async def test_a_file_of_another_length_is_repaired_too(box, proxy, weights, change):
    data = box.weights.read_bytes()
    box.weights.write_bytes(data[:change] if change < 0 else data + b"x" * change)
    assert (await scrubbed(box))[-1]["repaired"] == 1
    assert proxy.sent_bytes <= CHUNK_BYTES
    await check_whole(box, weights)


@pytest.mark.parametrize("content", [None, b"{}", "of zeros"])
async def test_without_a_usable_map_all_is_fetched(box, proxy, weights, content):
    if content is None:
        box.map.unlink()
    elif content == b"{}":
        box.map.write_bytes(content)
    else:
        document = json.loads(box.map.read_bytes())
        document["blobs"][digest_of(weights)]["hashes"][1] = "0" * 64
        box.map.write_text(json.dumps(document))
    flip(box.weights, len(weights) // 2)
    lines = await scrubbed(box, repair=True)
    if content == "of zeros":  # then this one chunk can have no right bytes
        assert "other bytes" in lines[1]["problem"]
        box.map.unlink()
        lines = await scrubbed(box, repair=True)
    assert lines[1]["fetched"] == len(weights)
    assert box.map.exists()
    await check_whole(box, weights)


async def test_what_is_missing_is_fetched(box, proxy, weights):
    box.weights.unlink()
    assert (await scrubbed(box))[1]["fetched"] == len(weights)
    await check_whole(box, weights)


async def test_wrong_bytes_from_the_source_repair_nothing(box, proxy, weights):
    proxy.faults.wrong_bytes = True
    flip(box.weights, len(weights) // 2)
    damaged, failed, end = await scrubbed(box)
    assert failed["status"] == "not repaired"
    assert "other bytes" in failed["problem"]
    assert end == {"status": "success", "damaged": 1, "repaired": 0}
    assert not box.weights.exists()
    proxy.faults.wrong_bytes = False
    proxy.sent_bytes = 0
    damaged, repaired, _ = await scrubbed(box)  # from what was set aside
    assert damaged["reason"] == "it is missing"
    assert repaired["fetched"] == proxy.sent_bytes == CHUNK_BYTES
    await check_whole(box, weights)


async def test_a_server_without_ranges_will_do(box, proxy, weights):
    proxy.faults.no_ranges = True
    flip(box.weights, 100)
    assert (await scrubbed(box))[-1]["repaired"] == 1
    await check_whole(box, weights)


async def test_nothing_is_fetched_unless_it_may_be(box, proxy, weights):
    flip(box.weights, len(weights) // 2)
    _damaged, end = await scrubbed(box, repair=False)
    assert end == {"status": "success", "damaged": 1, "repaired": 0}
    assert proxy.requests == []


async def test_nobody_is_asked_for_models_that_were_made_here(start_service, proxy, tiny_gguf):
    box = start_service(registry=f"http://{proxy.address}")
    await asyncio.to_thread(box.create, "secret-project", tiny_gguf)
    digest = digest_of(tiny_gguf.read_bytes())
    flip(box.state / "models/blobs" / digest.replace(":", "-"), 5000)
    _damaged, failed, _end = await scrubbed(box)
    assert "nobody is known" in failed["problem"]
    assert proxy.requests == []
    proxy.blobs[digest] = tiny_gguf.read_bytes()
    _damaged, repaired, _end = await scrubbed(box, repair=True)
    assert repaired["status"] == "repaired"
    assert "secret-project" in proxy.requests[0].path


async def test_the_command_says_what_was_fetched(box, proxy, weights):
    hearth = Command(box.url)
    flip(box.weights, len(weights) // 2)
    done = await asyncio.to_thread(hearth.run, "scrub")
    assert done.returncode == 0
    assert f"repaired, 4.2 MB fetched from http://{proxy.address}" in done.stdout
    flip(box.weights, len(weights) // 2)
    done = await asyncio.to_thread(hearth.run, "scrub", "--no-repair")
    assert done.returncode == 1
    done = await asyncio.to_thread(hearth.run, "scrub", "--json")
    (part,) = json.loads(done.stdout)["damaged"]
    assert (done.returncode, part["repaired"], part["fetched"]) == (0, True, CHUNK_BYTES)


async def test_a_blob_that_came_without_a_map_gets_one_from_a_scrub(box, weights):
    made = box.map.read_bytes()
    box.map.unlink()
    await scrubbed(box)
    ours, theirs = json.loads(box.map.read_bytes()), json.loads(made)
    theirs["blobs"][digest_of(weights)].pop("source")
    assert ours == theirs


async def test_maps_go_with_their_blobs(box, proxy):
    assert box.map.exists()
    await asyncio.to_thread(box.call, "DELETE", "/api/delete", {"model": box.model})
    assert not any(path.is_file() for path in (box.state / "maps").iterdir())


async def test_a_flipped_byte_in_several_hundred_megabytes(start_service):
    weights = tiny_llama_bytes(ballast_mib=256)
    assert len(weights) > 200 * MIB
    async with fault_proxy() as proxy:
        offer(proxy, weights)
        box = start_service()
        box.model = f"{proxy.address}/library/m"
        await pull(box, box.model)
        proxy.sent_bytes = 0
        box.weights = box.state / "models/blobs" / digest_of(weights).replace(":", "-")
        flip(box.weights, 123_456_789)
        assert (await scrubbed(box))[-1] == {"status": "success", "damaged": 1, "repaired": 1}
        assert proxy.sent_bytes == CHUNK_BYTES
        await check_whole(box, weights)
