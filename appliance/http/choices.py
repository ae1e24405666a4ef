"""Several choices of one request as one stream of events.

On an engine with one slot they run one after the other, and the prompt's KV is reused from choice
to choice. With more slots they run at the same time. The next begins when the one before has its
first token: by then its prompt is in the prefix cache, so that both share its blocks, and never
more than one choice of a request waits in the model's queue.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from aiohttp import web

from appliance.chat.events import Event, JobRequest, Started
from appliance.http.streams import run_job

Item = tuple[int, Event]


async def run_choices(
    request: web.Request, jobs: Sequence[JobRequest]
) -> AsyncGenerator[Item, None]:
    """The events of all jobs, each with the index of its job; those of one job in their order.

    The first failure is raised and ends the others; so does leaving early.
    """
    if len(jobs) == 1:
        async with aclosing(run_job(request, jobs[0])) as events:
            async for event in events:
                yield 0, event
        return
    queue: asyncio.Queue[Item | asyncio.Task[None]] = asyncio.Queue()
    tasks: dict[asyncio.Task[None], int] = {}
    begun = 0

    def begin_next() -> None:
        nonlocal begun
        if begun < len(jobs):
            task = asyncio.create_task(post(begun))
            task.add_done_callback(queue.put_nowait)
            tasks[task] = begun
            begun += 1

    async def post(index: int) -> None:
        async with aclosing(run_job(request, jobs[index])) as events:
            async for event in events:
                # Not where events are read: a slow client would keep its other choices back.
                if isinstance(event, Started) and event.slots > 1 and index == begun - 1:
                    begin_next()
                queue.put_nowait((index, event))

    begin_next()
    try:
        while tasks:
            item = await queue.get()
            if isinstance(item, asyncio.Task):
                index = tasks.pop(item)
                item.result()
                if index == begun - 1:
                    begin_next()
                continue
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
