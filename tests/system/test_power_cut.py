"""The power goes at any moment of a pull: the old model or the new one, every blob whole."""

import asyncio
import random
import tempfile
from pathlib import Path

import pytest

from tests.fakes.loop_disk import LoopDisk, mounted
from tests.integration.interrupted import installed, pulls

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

CUTS = 50
DISK_MIB = 128


@pytest.fixture
def folder():
    """In memory, so that a copy of the disk takes no longer than a power cut."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="hearth-cut-") as name:
        yield Path(name)


async def test_fifty_power_cuts_leave_no_broken_state(folder):
    moments = random.Random(50)
    seen = set()
    with LoopDisk(folder, DISK_MIB) as disk:
        state = disk.mount / "state"
        state.mkdir()
        async with pulls(state, mib=16) as world:
            whole_s = max(await world.took_s(), await world.took_s())
            for _ in range(CUTS):
                old = await asyncio.to_thread(installed, state)
                pulling = asyncio.create_task(world.begin())
                await asyncio.sleep(moments.uniform(0, 1.2 * whole_s))
                after = folder / "after.img"
                await asyncio.to_thread(disk.cut, after, world.process())
                assert await pulling == "done"
                with mounted(after, folder / "after") as again:
                    found = await asyncio.to_thread(installed, again / "state")
                assert found in {old, world.digests[world.wanted]}
                seen.add(found == old)
                world.wanted = 1 - world.wanted
    assert seen == {True, False}
