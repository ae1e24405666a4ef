"""Blocking work, seen from the event loop, when the client may leave in the middle of it."""

import asyncio
import ctypes
import platform
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # ioprio_set(2), which libc does not wrap
_IDLE_CLASS = 3 << 13


async def in_thread(steps: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """The items of `steps`, whose work is done in one thread.

    Leaving early lets the thread close `steps` at its next step; nobody waits for it. What `steps`
    raises is raised here.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[T | None, BaseException | None]] = asyncio.Queue()
    left = threading.Event()

    def post(item: T | None, error: BaseException | None) -> None:
        if not left.is_set():
            loop.call_soon_threadsafe(queue.put_nowait, (item, error))

    def work() -> None:
        try:
            with closing(steps):
                for step in steps:
                    post(step, None)
                    if left.is_set():
                        return
        except BaseException as error:
            post(None, error)
        else:
            post(None, None)

    thread = loop.run_in_executor(None, work)
    try:
        while True:
            item, error = await queue.get()
            if error is not None:
                raise error
            if item is None:
                await thread
                return
            yield item
    finally:
        left.set()


async def to_end(function: Callable[..., T], *args: object) -> T:
    """The result of `function` in a thread. Who is cancelled leaves only when it has ended.

    For short steps on a resource that is cleaned up afterwards, so that two threads never have it.
    """
    thread = asyncio.get_running_loop().run_in_executor(None, lambda: function(*args))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise


def yield_the_disk(*, on: bool = True) -> None:
    """Let every other reader of the disk go before this thread, where the kernel lets us say so
    (ioprio(2)); off: as it is by default."""
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, 1, 0, _IDLE_CLASS if on else 0)
