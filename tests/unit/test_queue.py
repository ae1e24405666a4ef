"""models/queue.py: bounded, fair, and no slot is ever lost."""

import asyncio

import pytest

from appliance.errors import OverloadedError
from appliance.models.queue import FairQueue


async def enter(queue, caller, order, name):
    position = await queue.acquire(caller)
    order.append((name, position))


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_free_slot_is_given_at_once():
    queue = FairQueue(max_waiting=1)
    assert await queue.acquire("a") == 0
    assert (queue.running, queue.waiting) == (1, 0)


async def test_callers_take_turns():
    queue = FairQueue(max_waiting=10)
    await queue.acquire("first")
    order = []
    names = [("greedy", f"g{i}") for i in range(3)] + [("modest", "m0")]
    tasks = [asyncio.create_task(enter(queue, caller, order, name)) for caller, name in names]
    await settle()
    for _ in names:
        queue.release(0.1)
        await settle()
    await asyncio.gather(*tasks)
    assert [name for name, _ in order] == ["g0", "m0", "g1", "g2"]
    assert dict(order) == {"g0": 1, "g1": 2, "g2": 3, "m0": 2}


@pytest.mark.parametrize("came", ["aaab", "abab", "abcabc", "aabbbc", "aabca", "abbbac"])
async def test_the_place_in_the_queue_is_the_turn_that_the_last_comer_gets(came):
    """Also after turns have been given, which changes whose is next."""
    for given in range(len(came) - 1):
        queue = FairQueue(max_waiting=10)
        await queue.acquire("first")
        order = []
        tasks = [asyncio.create_task(enter(queue, caller, order, caller)) for caller in came[:-1]]
        await settle()
        for _ in range(given):
            queue.release()
            await settle()
        tasks.append(asyncio.create_task(enter(queue, came[-1], order, "last")))
        await settle()
        for _ in range(len(came) - given):
            queue.release()
            await settle()
        await asyncio.gather(*tasks)
        (place,) = [place for name, place in order if name == "last"]
        assert [name for name, _ in order].index("last") == given + place - 1


async def test_full_queue_refuses_with_a_time_to_come_back():
    queue = FairQueue(max_waiting=1)
    await queue.acquire("a")
    waiting = asyncio.create_task(queue.acquire("b"))
    await settle()
    with pytest.raises(OverloadedError) as refused:
        await queue.acquire("c")
    assert refused.value.retry_after_s >= 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert queue.waiting == 0


async def test_slot_granted_to_someone_who_left_goes_to_the_next():
    queue = FairQueue(max_waiting=5)
    await queue.acquire("a")
    leaver = asyncio.create_task(queue.acquire("b"))
    stayer = asyncio.create_task(queue.acquire("c"))
    await settle()
    queue.release()  # grants b's turn …
    leaver.cancel()  # … who leaves before taking it
    await asyncio.gather(leaver, return_exceptions=True)
    assert await asyncio.wait_for(stayer, 1) == 2
    assert (queue.running, queue.waiting) == (1, 0)


async def test_more_slots_let_more_run():
    queue = FairQueue(max_waiting=5)
    await queue.acquire("a")
    waiting = [asyncio.create_task(queue.acquire("b")) for _ in range(3)]
    await settle()
    queue.resize(3)
    await settle()
    assert [task.done() for task in waiting] == [True, True, False]
    waiting[2].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_retry_after_follows_what_requests_really_take():
    queue = FairQueue(max_waiting=5)
    for _ in range(50):
        await queue.acquire("a")
        queue.release(30.0)
    assert queue.retry_after_s() == pytest.approx(30, abs=1)
