"""A transfer that several callers may watch: one task, any number of followers.

A job starts with its first follower and is cancelled when the last one leaves, as in Ollama. Each
follower gets every status line once, the lines of blobs as often as they change, though at most
every 60 ms. A new job of the same key waits until the old one has let go of its files.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from appliance.errors import ApplianceError, OverloadedError
from appliance.transfer.progress import Progress, Tell

TICK_S = 0.06  # Ollama's interval of progress lines

Work = Callable[[Tell], Awaitable[None]]


class SharedJobs:
    """All jobs that run, by key."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # also of jobs that nobody follows any more
        self._is_closing = False

    async def follow(self, key: str, work: Work) -> AsyncGenerator[Progress, None]:
        """The lines of the job `key`, which is started with `work` unless it runs already.

        Raises what the work raises. Leaving is how a caller loses interest.
        """
        if self._is_closing:
            raise _stopping()
        job = self._jobs.get(key)
        if job is None or job.is_left:
            job = self._jobs[key] = _Job(work, job)
            self._tasks.add(job.task)
            job.task.add_done_callback(self._ended)
        job.followers += 1
        try:
            async with aclosing(job.lines()) as lines:
                async for line in lines:
                    yield line
        finally:
            job.followers -= 1
            if job.followers == 0:
                job.leave()
                if self._jobs.get(key) is job and job.task.done():
                    del self._jobs[key]

    async def close(self) -> None:
        """End all jobs; their followers hear that the service stops."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        for key in [key for key, job in self._jobs.items() if job.task is task and job.is_left]:
            del self._jobs[key]
        if not task.cancelled():
            task.exception()  # its followers raise it; here it only counts as seen


class _Job:
    """One task and the latest of what it told."""

    def __init__(self, work: Work, predecessor: "_Job | None") -> None:
        self.followers = 0
        self.is_left = False  # by its last follower, though it may still be closing its files
        self._latest: dict[str, Progress] = {}  # by status text, in order of appearance
        self._watches: set[asyncio.Event] = set()
        self.task = asyncio.create_task(self._run(work, predecessor))

    async def _run(self, work: Work, predecessor: "_Job | None") -> None:
        if predecessor is not None:
            await asyncio.wait([predecessor.task])
        await work(self._tell)

    def _tell(self, line: Progress) -> None:
        self._latest[line.status] = line
        for watch in self._watches:
            watch.set()

    def leave(self) -> None:
        """Nobody is interested any more."""
        self.is_left = True
        self.task.cancel()

    async def lines(self) -> AsyncGenerator[Progress, None]:
        """What is new since this follower last looked, until the task ends."""
        seen: dict[str, Progress] = {}
        news = asyncio.Event()
        news.set()  # who joins late first hears what was told before
        self._watches.add(news)
        self.task.add_done_callback(lambda _: news.set())
        try:
            is_over = False
            while not is_over:
                await news.wait()
                is_over = self.task.done()
                news.clear()
                for status, line in list(self._latest.items()):
                    if seen.get(status) != line:
                        seen[status] = line
                        yield line
                if not is_over:
                    await asyncio.wait([self.task], timeout=TICK_S)
        finally:
            self._watches.discard(news)
        if self.task.cancelled():
            raise _stopping()
        if (error := self.task.exception()) is not None:
            raise error


def _stopping() -> ApplianceError:
    return OverloadedError(
        "the service is stopping; what was transferred is kept", hint="try again in a moment"
    )
