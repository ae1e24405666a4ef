"""Waiting for what another process does: look until it is so, fail when it never is."""

import asyncio
import time

LIMIT_S = 30
PAUSE_S = 0.01


def wait_for(condition, limit_s=LIMIT_S):
    """Return once `condition()` holds; fails after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {limit_s} s"
        time.sleep(PAUSE_S)


async def until(condition, limit_s=LIMIT_S):
    """The same while other tasks of the test go on."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(PAUSE_S)
