"""A disk that comes to its reserve: nothing more is taken, exactly said; what is spare goes first.

On a small tmpfs, which needs root; without, these tests are skipped and say so.
"""

import asyncio
import hashlib
import os
import shutil

import pytest

from tests.fakes.fault_proxy import fault_proxy
from tests.fakes.gguf_builder import tiny_llama_bytes
from tests.fakes.loop_disk import small_disk
from tests.fakes.waiting import wait_for
from tests.integration.pulls import offer, pull
from tests.integration.raw_http import send

MIB = 1 << 20
DISK_MIB, RESERVE_MIB = 96, 8
CODE = "disk_reserve"


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path, DISK_MIB) as mount:
        yield mount


def fill(disk, leave):
    """Take what is free but `leave` bytes; the bytes that are free then."""
    free = shutil.disk_usage(disk).free
    with (disk / "ballast").open("ab", buffering=0) as file:
        for first in range(0, free - leave, MIB):
            file.write(bytes(min(free - leave - first, MIB)))
    return shutil.disk_usage(disk).free


def codes(service):
    return {c["code"] for c in service.call("GET", "/hearth/v1/doctor")[1]["conditions"]}


async def test_nothing_comes_in_below_the_reserve_and_what_is_here_serves(
    disk, start_service, tiny_gguf
):
    box = start_service(models=disk / "models", disk_reserve_mib=RESERVE_MIB)
    box.create("old", tiny_gguf)
    assert CODE not in codes(box)
    free = await asyncio.to_thread(fill, disk, RESERVE_MIB * MIB - 4096)
    reserve = f"{RESERVE_MIB * MIB} must stay free (disk_reserve_mib), the disk has {free}"
    weights = tiny_llama_bytes(ballast_mib=2)
    async with fault_proxy() as proxy:
        offer(proxy, weights)
        last = (await pull(box, f"{proxy.address}/library/m"))[-1]
        assert proxy.sent_bytes == 0
    assert f"the model needs {len(weights) + 2} bytes and {reserve}" in last["error"]
    assert last["hint"]
    path = f"/api/blobs/sha256:{hashlib.sha256(weights).hexdigest()}"
    reply = await asyncio.to_thread(send, box, "POST", path, body=weights)
    assert reply.status == 507
    assert f"the upload needs {len(weights)} bytes and {reserve}" in reply.json["error"]
    body = {"model": "new", "from": "old", "system": "Be new."}
    status, answer = await asyncio.to_thread(box.call, "POST", "/api/create", body)
    assert (status, reserve in answer["error"]) == (507, True)
    assert CODE in await asyncio.to_thread(codes, box)
    ask = {"model": "old", "prompt": "one", "stream": False}
    assert (await asyncio.to_thread(box.call, "POST", "/api/generate", ask))[0] == 200
    (disk / "ballast").unlink()
    assert (await asyncio.to_thread(box.call, "POST", "/api/create", body))[0] == 200
    box.stop()


@pytest.fixture
def updated(disk, start_box):
    """A box with an active and a previous release, each with weights of its own."""
    box = start_box(models=disk / "models", disk_reserve_mib=RESERVE_MIB)
    for number, version in enumerate(("1.0.0", "2.0.0")):
        weights = tiny_llama_bytes(ballast_mib=12 + number)
        box.publish(version, f"Be {version}.", weights=weights)
        box.install()
    yield box
    box.service.stop()


def test_the_previous_release_makes_room_and_the_active_one_never(updated, disk):
    box = updated
    first = box.model
    fill(disk, 16 * MIB)
    box.model = f"{first}b"
    weights = tiny_llama_bytes(ballast_mib=14)
    need = {"disk_mib": 15}  # more than is free above the reserve, before something is given up
    box.publish("1.0.0", "Be another.", weights=weights, facts=need)
    box.install()
    assert "Be another." in box.ask()
    box.model = first
    state = box.state()
    assert state["active"]["version"] == "2.0.0"
    assert state["previous"] is None
    assert "Be 2.0.0." in box.ask()
    assert "release_dropped" in codes(box.service)
    assert "release 1.0.0 of" in box.service.log
    fill(disk, 10 * MIB)
    box.publish("3.0.0", "Be third.", weights=tiny_llama_bytes(ballast_mib=20))
    code, error = box.refused()
    assert code == "disk_full"
    assert f"{RESERVE_MIB * MIB} must stay free" in error
    assert "Be 2.0.0." in box.ask()


def test_a_start_below_the_reserve_gives_up_what_is_spare(updated, disk, start_service):
    box = updated
    box.service.stop()
    fill(disk, 4 * MIB)
    before = shutil.disk_usage(disk).free
    box.service = start_service(
        box.service.state, models=disk / "models", disk_reserve_mib=RESERVE_MIB
    )
    wait_for(lambda: shutil.disk_usage(disk).free > before + 11 * MIB)
    assert box.state()["previous"] is None
    assert "Be 2.0.0." in box.ask()
    assert os.path.exists(disk / "ballast")  # noqa: PTH110 - what is not ours stays
