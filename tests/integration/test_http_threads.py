"""Blocking work behind a handler whose client may leave in the middle of it."""

import asyncio
import threading
from contextlib import aclosing

import pytest

from appliance.threads import in_thread, to_end


async def test_items_and_errors_come_through():
    def steps():
        yield 1
        yield 2
        raise ValueError("three")

    async with aclosing(in_thread(steps())) as items:
        assert [await anext(items), await anext(items)] == [1, 2]
        with pytest.raises(ValueError, match="three"):
            await anext(items)


async def test_leaving_closes_the_steps_in_their_own_thread():
    go_on, closed = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def steps():
        try:
            yield 1
            go_on.wait(10)
            yield 2
            raise AssertionError("went on after everybody had left")
        finally:
            loop.call_soon_threadsafe(closed.set)

    async with aclosing(in_thread(steps())) as items:
        assert await anext(items) == 1
    go_on.set()
    async with asyncio.timeout(10):
        await closed.wait()


async def test_who_is_cancelled_leaves_only_when_the_thread_has_ended():
    go_on, order = threading.Event(), []
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def step():
        loop.call_soon_threadsafe(started.set)
        go_on.wait(10)
        order.append("thread")

    async def caller():
        try:
            await to_end(step)
        finally:
            order.append("caller")

    task = asyncio.create_task(caller())
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert order == []
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert order == ["thread", "caller"]


async def test_results_and_errors_of_one_step():
    assert await to_end(pow, 2, 3) == 8
    with pytest.raises(ZeroDivisionError):
        await to_end(divmod, 1, 0)
