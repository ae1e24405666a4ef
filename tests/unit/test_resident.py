"""models/resident.py: a worker never gets more requests than it has slots."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace

from appliance.library.names import ModelName
from appliance.models.resident import Resident
from engine.api import LoadSpec


class Client:
    """A worker with so many slots."""

    is_alive = True

    def __init__(self, slots):
        self.info = SimpleNamespace(slots=slots)

    async def stats(self):
        return {}

    async def close(self):
        self.is_alive = False


async def load(slots):
    return Client(slots)


async def test_who_runs_more_goes_later_in_the_engine():
    """A client's requests, whichever of its users asks, go behind those of one who runs less."""
    resident = Resident(ModelName.parse("m"), max_waiting=64)
    shares = [("a", "ann"), ("a", "bob"), ("b", ""), ("a", "ann")]
    async with AsyncExitStack() as stack:
        leases = [
            await stack.enter_async_context(
                resident.lease(LoadSpec(engine="paged"), None, share, lambda: load(8))
            )
            for share in shares
        ]
    assert [lease.priority for lease in leases] == [0, -1, 0, -2]


async def test_requests_that_hold_slots_of_a_wider_worker_take_turns_on_a_narrow_one():
    resident = Resident(ModelName.parse("m"), max_waiting=64)
    wide, narrow = LoadSpec(engine="paged"), LoadSpec(engine="llama")
    active, most, served = 0, 0, 0
    release = asyncio.Event()

    async def hold():
        async with resident.lease(wide, None, ("first", ""), lambda: load(8)):
            await release.wait()

    async def use():
        nonlocal active, most, served
        async with resident.lease(narrow, None, ("later", ""), lambda: load(1)):
            active += 1
            most = max(most, active)
            await asyncio.sleep(0)
            active -= 1
            served += 1

    holder = asyncio.create_task(hold())
    while resident.queue.slots == 1:
        await asyncio.sleep(0)
    users = [asyncio.create_task(use()) for _ in range(5)]  # as the model was made anew meanwhile
    while resident.queue.running < 6:
        await asyncio.sleep(0)
    release.set()
    await asyncio.gather(holder, *users)
    assert (served, most) == (5, 1)
    assert resident.queue.running == 0
