"""models/queue.py: bounded, fair, and no slot is ever lost."""

import asyncio
from random import Random

import pytest

from appliance.errors import OverloadedError, RateLimitedError
from appliance.models.queue import FairQueue

FIRST = ("first",)


async def enter(queue, caller, order, name):
    position = await queue.acquire((caller,))
    order.append((name, position))


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_free_slot_is_given_at_once():
    queue = FairQueue(max_waiting=1)
    assert await queue.acquire(("a",)) == 0
    assert (queue.running, queue.waiting) == (1, 0)


async def test_callers_take_turns():
    queue = FairQueue(max_waiting=20)
    await queue.acquire(FIRST)
    order = []
    names = [("greedy", f"g{i}") for i in range(3)] + [("modest", "m0")]
    tasks = [asyncio.create_task(enter(queue, caller, order, name)) for caller, name in names]
    await settle()
    for _ in names:
        queue.release(FIRST, 0.1)
        await settle()
    await asyncio.gather(*tasks)
    assert [name for name, _ in order] == ["g0", "m0", "g1", "g2"]
    assert dict(order) == {"g0": 1, "g1": 2, "g2": 3, "m0": 2}


@pytest.mark.parametrize("came", ["aaab", "abab", "abcabc", "aabbbc", "aabca", "abbbac"])
async def test_the_place_in_the_queue_is_the_turn_that_the_last_comer_gets(came):
    """Also after turns have been given, which changes whose is next."""
    for given in range(len(came) - 1):
        queue = FairQueue(max_waiting=20)
        await queue.acquire(FIRST)
        order = []
        tasks = [asyncio.create_task(enter(queue, caller, order, caller)) for caller in came[:-1]]
        await settle()
        for _ in range(given):
            queue.release(FIRST)
            await settle()
        tasks.append(asyncio.create_task(enter(queue, came[-1], order, "last")))
        await settle()
        for _ in range(len(came) - given):
            queue.release(FIRST)
            await settle()
        await asyncio.gather(*tasks)
        (place,) = [place for name, place in order if name == "last"]
        assert [name for name, _ in order].index("last") == given + place - 1


async def test_full_queue_refuses_with_a_time_to_come_back():
    queue = FairQueue(max_waiting=1)
    await queue.acquire(("a",))
    waiting = asyncio.create_task(queue.acquire(("b",)))
    await settle()
    with pytest.raises(OverloadedError) as refused:
        await queue.acquire(("c",))
    assert refused.value.retry_after_s >= 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert queue.waiting == 0


async def test_slot_granted_to_someone_who_left_goes_to_the_next():
    queue = FairQueue(max_waiting=5)
    await queue.acquire(("a",))
    leaver = asyncio.create_task(queue.acquire(("b",)))
    stayer = asyncio.create_task(queue.acquire(("c",)))
    await settle()
    queue.release(FIRST)  # grants b's turn …
    leaver.cancel()  # … who leaves before taking it
    await asyncio.gather(leaver, return_exceptions=True)
    assert await asyncio.wait_for(stayer, 1) == 2
    assert (queue.running, queue.waiting) == (1, 0)


async def test_more_slots_let_more_run():
    queue = FairQueue(max_waiting=5)
    await queue.acquire(("a",))
    waiting = [asyncio.create_task(queue.acquire(("b",))) for _ in range(3)]
    await settle()
    queue.resize(3)
    await settle()
    assert [task.done() for task in waiting] == [True, True, False]
    waiting[2].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_retry_after_follows_what_requests_really_take():
    queue = FairQueue(max_waiting=5)
    for _ in range(50):
        await queue.acquire(("a",))
        queue.release(("a",), 30.0)
    assert queue.retry_after_s() == pytest.approx(30, abs=1)


class Desk:
    """A queue whose requests are let through one by one; says in which order they got a slot."""

    def __init__(self, **settings):
        self.queue = FairQueue(**settings)
        self.order = []
        self.holders = []
        self.tasks = []

    async def come(self, *path):
        self.tasks.append(asyncio.create_task(self._hold(path)))
        await settle()

    async def _hold(self, path):
        place = await self.queue.acquire(path)
        self.order.append((path, place))
        self.holders.append(path)

    async def end(self, *path):
        self.holders.remove(path)
        self.queue.release(path)
        await settle()

    async def drain(self):
        while self.holders:
            await self.end(*self.holders[0])
        await asyncio.gather(*self.tasks)
        return [path for path, _ in self.order]


async def test_of_200_streams_of_one_the_other_is_next():
    desk = Desk(max_waiting=400)
    for _ in range(200):
        await desk.come("key:greedy", "")
    await desk.come("key:modest", "")
    await desk.end("key:greedy", "")
    assert desk.order[1] == (("key:modest", ""), 1)
    assert len(await desk.drain()) == 201


async def test_to_be_many_users_or_guests_gets_no_more_turns():
    desk = Desk(max_waiting=100)
    await desk.come("box", "")
    for number in range(20):
        await desk.come("key:greedy", f"user{number}")
        await desk.come("guests", f"10.0.0.{number}", f"10.0.0.{number}")
    await desk.come("key:modest", "")
    await desk.come("key:modest", "")
    order = [path[0] for path in await desk.drain()]
    assert order[1:7] == ["key:greedy", "guests", "key:modest"] * 2


async def test_users_of_one_key_take_turns():
    desk = Desk(max_waiting=100)
    for _ in range(3):
        await desk.come("key:k", "ann")
    await desk.come("key:k", "bob")
    order = [path[1] for path in await desk.drain()]
    assert order == ["ann", "bob", "ann", "ann"]


async def test_one_client_fills_half_of_the_queue_and_the_box_all_of_it():
    desk = Desk(max_waiting=6)
    for _ in range(4):
        await desk.come("guests", "10.0.0.1", "10.0.0.1")
    with pytest.raises(RateLimitedError, match="3 requests of this client already wait") as refused:
        await desk.queue.acquire(("guests", "10.0.0.2", "10.0.0.2"))
    assert refused.value.retry_after_s >= 1
    await desk.drain()
    for _ in range(7):
        await desk.come("box", "")
    with pytest.raises(OverloadedError):
        await desk.queue.acquire(("key:k", ""))
    await desk.drain()


async def test_with_more_slots_who_runs_nothing_goes_before_who_runs():
    desk = Desk(max_waiting=20, slots=2)
    for _ in range(4):
        await desk.come("key:a", "")
    await desk.come("key:b", "")
    await desk.come("key:c", "")
    assert desk.queue.running_of(("key:a", "")) == 2
    assert desk.queue.running_of(("key:b", "")) == 0
    order = [path[0][-1] for path in await desk.drain()]
    assert order == ["a", "a", "b", "c", "a", "a"]


@pytest.mark.parametrize("seed", range(30))
async def test_random_crowds_lose_nothing_and_get_the_place_that_they_were_told(seed):
    """The last comer gets the turn that it was told; nobody waits for more than one turn of each
    other client per own turn; in the end nothing is counted any more."""
    random = Random(seed)
    desk = Desk(max_waiting=1000, slots=1)
    for _ in range(random.randrange(3, 40)):
        if desk.holders and random.random() < 0.3:
            await desk.end(*desk.holders[0])
        else:
            client = random.choice("abc")
            await desk.come(client, random.choice("xyz"))
        if random.random() < 0.1 and not desk.tasks[-1].done():
            desk.tasks[-1].cancel()
            await asyncio.gather(desk.tasks.pop(), return_exceptions=True)
    await desk.come("late", "comer")
    came = len(desk.order)
    await desk.drain()
    paths = [path for path, _ in desk.order]
    place = dict(desk.order)[("late", "comer")]
    assert paths.index(("late", "comer")) == (came - 1 if place == 0 else came + place - 1)
    queue = desk.queue
    assert (queue.running, queue.waiting) == (0, 0)
    assert not queue.running_of(("a", "x"))


async def test_who_leaves_the_line_is_forgotten_and_delays_nobody():
    desk = Desk(max_waiting=20)
    await desk.come("key:a", "")
    await desk.come("key:b", "ann")
    await desk.come("key:c", "")
    leaver = desk.tasks[1]
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    desk.tasks.remove(leaver)
    assert await desk.drain() == [("key:a", ""), ("key:c", "")]
