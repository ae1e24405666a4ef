"""A disk that is full before, during or at the last write of a pull: nothing half, and it is said.

On a small tmpfs, which needs root; without, these tests are skipped and say so.
"""

import asyncio
import os

import pytest

from appliance.transfer.partial import CHUNK_BYTES
from tests.fakes.fault_proxy import fault_proxy
from tests.fakes.gguf_builder import tiny_llama_bytes
from tests.fakes.loop_disk import small_disk
from tests.fakes.waiting import until
from tests.integration.pulls import names, offer, pull

MIB = 1 << 20
DISK_MIB = 64
CHUNKS = 4  # of the weights


@pytest.fixture(scope="module")
def weights():
    data = tiny_llama_bytes(ballast_mib=24)
    assert -(-len(data) // CHUNK_BYTES) == CHUNKS
    return data


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path, DISK_MIB) as mount:
        yield mount


@pytest.fixture
async def proxy(weights):
    async with fault_proxy() as running:
        offer(running, weights)
        yield running


@pytest.fixture
def box(disk, start_service, tiny_gguf):
    """A service whose models lie on that disk, with one in use."""
    service = start_service(models=disk / "models")
    service.create("old", tiny_gguf)
    service.files = lambda: sorted(path.name for path in (disk / "models/blobs").iterdir())
    yield service
    service.stop()  # before the disk goes


def fill(disk, leave):
    """Take what is free but `leave` bytes."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / "ballast").open("ab", buffering=0) as file:
        for first in range(0, free - leave, MIB):
            file.write(bytes(min(free - leave - first, MIB)))


async def check(box, disk, proxy, lines):
    """The error says it, the old model works; with room, the pull succeeds and leaves no trace."""
    assert "space" in lines[-1]["error"] or "must stay free" in lines[-1]["error"]
    assert set(names(box)) == {"old:latest", "hearth:latest"}
    assert [name for name in box.files() if name.startswith((".", "damaged"))] == []
    ask = {"model": "old", "prompt": "one two", "stream": False}
    assert (await asyncio.to_thread(box.call, "POST", "/api/generate", ask))[0] == 200
    _, found = await asyncio.to_thread(box.call, "GET", "/hearth/v1/doctor")
    assert "disk_full" in {condition["code"] for condition in found["conditions"]}
    (disk / "ballast").unlink()
    assert (await pull(box, f"{proxy.address}/library/m"))[-1] == {"status": "success"}
    assert [name for name in box.files() if "-part" in name or name.startswith(".")] == []


async def test_before_the_first_byte(box, disk, proxy):
    await asyncio.to_thread(fill, disk, 10 * MIB)
    lines = await pull(box, f"{proxy.address}/library/m")
    assert proxy.sent_bytes == 0
    assert [name for name in box.files() if "-part" in name] == []
    await check(box, disk, proxy, lines)


async def filled_meanwhile(box, disk, proxy, requests, leave):
    """The lines of a pull whose disk gets full after that many requests for blobs."""
    proxy.faults.hold_after = requests
    pulling = asyncio.create_task(pull(box, f"{proxy.address}/library/m"))
    await until(lambda: proxy.faults.hold_after < 0)
    await asyncio.to_thread(fill, disk, leave)
    proxy.faults.hold_after = None
    proxy.faults.release.set()
    return await pulling


async def test_in_the_middle(box, disk, proxy):
    lines = await filled_meanwhile(box, disk, proxy, 1, 4 * MIB)
    assert any(line.get("completed", 0) > MIB for line in lines)
    await check(box, disk, proxy, lines)


@pytest.mark.parametrize("leave", [0, 4096])
async def test_at_the_last_write(box, disk, proxy, leave):
    """There is no room for the config, or there is for it, and none for the manifest."""
    before = set(box.files())
    lines = await filled_meanwhile(box, disk, proxy, CHUNKS, leave)
    new = [name for name in box.files() if name not in before and "-part" not in name]
    assert len(new) == (2 if leave else 1)  # the weights, and the config if it had room
    await check(box, disk, proxy, lines)
