"""A transfer that several callers may watch: one task, any number of followers.

A job starts with its first follower and is cancelled when the last one leaves, as in Ollama, unless
one of them asked to keep it. Each follower gets every status line once, the lines of blobs as often
as they change, though at most every 60 ms. A new job of the same key waits until the old one has
let go of its files.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from appliance.errors import ApplianceError, JobCancelledError, OverloadedError
from appliance.transfer.progress import Progress, Tell

log = logging.getLogger("hearth.transfer")

TICK_S = 0.06  # Ollama's interval of progress lines
MAX_FAILURES = 8  # of kept jobs, which nobody saw fail

Work = Callable[[Tell], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Title:
    """What people call a job: `pull` of `smollm2:135m`."""

    verb: str
    subject: str


@dataclass(frozen=True, slots=True)
class JobReport:
    """A job that runs, with the latest line of each status, or a kept one that failed."""

    title: Title
    lines: tuple[Progress, ...]
    failure: str = ""


class SharedJobs:
    """All jobs that run, by key."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # also of jobs that nobody follows any more
        self._failures: dict[str, JobReport] = {}  # by key, the oldest first
        self._is_closing = False
        self.on_change: Callable[[], None] = lambda: None  # a job began, moved or ended

    async def follow(
        self, key: str, work: Work, title: Title, *, is_kept: bool = False
    ) -> AsyncGenerator[Progress, None]:
        """The lines of the job `key`, which is started with `work` unless it runs already.

        Raises what the work raises, and JobCancelledError. Leaving is how a caller loses interest,
        unless it `is_kept`: then the job goes on, and only `cancel` ends it.
        """
        if self._is_closing:
            raise _stopping()
        self._failures.pop(key, None)
        job = self._jobs.get(key)
        if job is None or job.is_left:
            job = self._jobs[key] = _Job(work, job, title, self._moved)
            self._tasks.add(job.task)
            job.task.add_done_callback(self._ended)
            self._moved()
        job.is_kept = job.is_kept or is_kept
        job.followers += 1
        try:
            async with aclosing(job.lines()) as lines:
                async for line in lines:
                    yield line
        finally:
            job.followers -= 1
            if job.followers == 0 and not job.is_kept:
                job.leave()
            if job.followers == 0 and self._jobs.get(key) is job and job.task.done():
                del self._jobs[key]

    def reports(self) -> list[JobReport]:
        """The jobs that run, and the kept ones that failed last."""
        running = [job for job in self._jobs.values() if not job.is_left and not job.task.done()]
        return [
            *(JobReport(job.title, job.latest) for job in running),
            *self._failures.values(),
        ]

    def cancel(self, subject: str) -> bool:
        """End the jobs of this subject, whoever follows them, and forget their failures; what came
        is kept. Returns whether there was anything."""
        found = [job for job in self._jobs.values() if job.title.subject == subject]
        for job in found:
            job.is_cancelled = True
            job.leave()
        failed = [key for key, each in self._failures.items() if each.title.subject == subject]
        for key in failed:
            del self._failures[key]
        self._moved()
        return bool(found or failed)

    async def close(self) -> None:
        """End all jobs; their followers hear that the service stops."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()  # its followers raise it too
        for key, job in [pair for pair in self._jobs.items() if pair[1].task is task]:
            if error is not None and job.is_kept and not job.followers:
                log.warning("failed %s=%s error=%r", job.title.verb, job.title.subject, str(error))
                self._failures[key] = JobReport(job.title, job.latest, str(error))
            if job.is_left or not job.followers:
                del self._jobs[key]
        while len(self._failures) > MAX_FAILURES:
            del self._failures[next(iter(self._failures))]
        self._moved()

    def _moved(self) -> None:
        self.on_change()


class _Job:
    """One task and the latest of what it told."""

    def __init__(
        self,
        work: Work,
        predecessor: "_Job | None",
        title: Title,
        moved: Callable[[], None],
    ) -> None:
        self.title = title
        self.followers = 0
        self.is_kept = False  # also when nobody follows it
        self.is_left = False  # by its last follower, though it may still be closing its files
        self.is_cancelled = False
        self._moved = moved
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
        self._moved()

    @property
    def latest(self) -> tuple[Progress, ...]:
        """The latest line of each status, in order of appearance."""
        return tuple(self._latest.values())

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
            raise _cancelled() if self.is_cancelled else _stopping()
        if (error := self.task.exception()) is not None:
            raise error


def _stopping() -> ApplianceError:
    return OverloadedError(
        "the service is stopping; what was transferred is kept", hint="try again in a moment"
    )


def _cancelled() -> JobCancelledError:
    return JobCancelledError(
        "cancelled; what was transferred is kept", hint="start it again to go on where it was"
    )
