"""The power goes at any moment of an install: the old model or the new one, every blob whole."""

import asyncio
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fakes.loop_disk import LoopDisk, mounted
from tests.integration.bundle_box import Box, enrol, says
from tests.integration.interrupted import installed, pulls
from tests.integration.test_bundle_install_kill import WEIGHTS, begin, check_whole

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

CUTS = 50
DISK_MIB = 128


@pytest.fixture
def folder():
    """In memory, so that a copy of the disk takes no longer than a power cut."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="hearth-cut-") as name:
        yield Path(name)


@pytest.fixture
def disk(folder):
    with LoopDisk(folder, DISK_MIB) as disk:
        yield disk


async def test_fifty_power_cuts_leave_no_broken_state(disk, folder):
    moments = random.Random(50)
    seen = set()
    state = disk.mount / "state"
    state.mkdir()
    async with pulls(state, mib=16) as world:
        whole_s = max(await world.took_s(), await world.took_s())
        for number in range(CUTS):
            old = await asyncio.to_thread(installed, state)
            pulling = asyncio.create_task(world.begin())
            await asyncio.sleep(moments.uniform(0, 1.2 * whole_s))
            after = folder / f"after-{number}.img"
            await asyncio.to_thread(disk.cut, after, world.process())
            assert await pulling == "done"
            with mounted(after, folder / "after") as again:
                found = await asyncio.to_thread(installed, again / "state")
            after.unlink()
            assert found in {old, world.digests[world.wanted]}
            seen.add(found == old)
            world.wanted = 1 - world.wanted
    assert seen == {True, False}


def test_fifty_power_cuts_of_signed_installs_leave_no_broken_state(
    disk, folder, publisher, web, start_service
):
    moments = random.Random(51)
    seen = set()
    enrol(disk.mount / "state", publisher, web.url)
    box = Box(start_service(disk.mount / "state"), publisher, web)
    text = "Be number 0."
    box.publish("0", text, smoke=says(text))
    began = time.monotonic()
    box.install()
    whole_s = time.monotonic() - began
    for number in range(1, CUTS + 1):
        text = f"Be number {number}."
        weights = WEIGHTS[number % len(WEIGHTS)]
        box.publish(str(number), text, weights=weights, smoke=says(text))
        installing = begin(box)
        time.sleep(moments.uniform(0, 1.2 * whole_s))
        after = folder / f"after-{number}.img"
        disk.cut(after, box.service.process.pid)
        installing.join(60)
        with mounted(after, folder / "after") as again:
            state = check_whole(replace(box, service=SimpleNamespace(state=again / "state")))
        after.unlink()
        assert state.active.version in {str(number - 1), str(number)}
        seen.add(state.active.version == str(number))
    assert seen == {True, False}
