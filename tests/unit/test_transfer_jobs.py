"""Jobs that several callers follow: one run for all, ended when nobody is interested."""

import asyncio
from contextlib import aclosing

import pytest

from appliance.errors import JobCancelledError, OverloadedError, RegistryError
from appliance.transfer.jobs import SharedJobs, Title
from appliance.transfer.progress import Progress
from tests.fakes.waiting import until

TITLE = Title("pull", "some:model")


class Work:
    """Does what the test says, and counts how often it was begun."""

    def __init__(self):
        self.begun = 0
        self.cancelled = 0
        self.go_on = asyncio.Event()

    async def __call__(self, tell):
        self.begun += 1
        tell(Progress("first"))
        tell(Progress("blob", "d", 10, 1))
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        tell(Progress("blob", "d", 10, 10))
        tell(Progress("success"))


async def collect(jobs, work, key="key"):
    return [line async for line in jobs.follow(key, work, TITLE)]


async def reads(jobs, work, count, key="key"):
    """A follower that has read `count` lines and is still there."""
    lines = jobs.follow(key, work, TITLE)
    for _ in range(count):
        await anext(lines)
    return lines


async def test_followers_share_one_run_and_all_hear_everything_once():
    jobs, work = SharedJobs(), Work()
    early = await reads(jobs, work, 2)
    late = asyncio.create_task(collect(jobs, work))
    await asyncio.sleep(0)
    work.go_on.set()
    assert [line.completed for line in [line async for line in early]] == [10, 0]
    assert [line.status for line in await late][-2:] == ["blob", "success"]
    assert work.begun == 1
    await collect(jobs, work)
    assert work.begun == 2  # a job that is over is over


async def test_the_last_to_leave_cancels():
    jobs, work = SharedJobs(), Work()
    one, two = await reads(jobs, work, 1), await reads(jobs, work, 1)
    await one.aclose()
    await asyncio.sleep(0)
    assert work.cancelled == 0
    await two.aclose()
    await asyncio.sleep(0)
    assert work.cancelled == 1


async def test_who_comes_after_waits_until_the_files_are_free():
    jobs = SharedJobs()
    closing, closed = asyncio.Event(), asyncio.Event()

    async def slow_to_close(tell):
        tell(Progress("first"))
        try:
            await asyncio.Event().wait()
        finally:
            closing.set()
            await closed.wait()

    async def second(tell):
        assert closed.is_set()
        tell(Progress("success"))

    await (await reads(jobs, slow_to_close, 1)).aclose()
    following = asyncio.create_task(collect(jobs, second))
    await closing.wait()
    assert not following.done()
    closed.set()
    assert await following == [Progress("success")]


async def test_an_error_reaches_every_follower():
    jobs = SharedJobs()

    async def fails(tell):
        tell(Progress("first"))
        await asyncio.sleep(0)
        raise RegistryError("no")

    async def lines():
        with pytest.raises(RegistryError, match="no"):
            await collect(jobs, fails)

    await asyncio.gather(lines(), lines())


async def test_closing_ends_all_and_takes_nothing_new():
    jobs, work = SharedJobs(), Work()
    lines = await reads(jobs, work, 1)
    await jobs.close()
    assert work.cancelled == 1
    async with aclosing(lines):
        with pytest.raises(OverloadedError, match="stopping"):
            _ = [line async for line in lines]
    with pytest.raises(OverloadedError, match="stopping"):
        await collect(jobs, work)


async def test_a_kept_job_goes_on_alone_and_is_reported_until_it_ends():
    jobs, work = SharedJobs(), Work()
    changes = []
    jobs.on_change = lambda: changes.append(len(jobs.reports()))
    follower = jobs.follow("key", work, TITLE, is_kept=True)
    await anext(follower)
    await follower.aclose()
    await asyncio.sleep(0)
    assert work.cancelled == 0
    (report,) = jobs.reports()
    assert (report.title, report.failure) == (TITLE, "")
    assert [line.status for line in report.lines] == ["first", "blob"]
    work.go_on.set()
    await until(lambda: changes[-1] == 0)
    assert jobs.reports() == []


async def test_a_cancelled_job_ends_for_all_who_follow_it():
    jobs, work = SharedJobs(), Work()
    follower = jobs.follow("key", work, TITLE, is_kept=True)
    await anext(follower)
    assert not jobs.cancel("other:model")
    assert jobs.cancel(TITLE.subject)
    with pytest.raises(JobCancelledError):
        async for _ in follower:
            pass
    assert work.cancelled == 1
    assert not jobs.cancel(TITLE.subject)


async def test_a_kept_job_that_failed_unseen_is_told_until_it_is_dismissed_or_tried_again():
    async def fails(tell):
        tell(Progress("first"))
        await leave.wait()
        raise RegistryError("the registry is gone")

    jobs, leave = SharedJobs(), asyncio.Event()

    async def fail_alone():
        leave.clear()
        follower = jobs.follow("key", fails, TITLE, is_kept=True)
        await anext(follower)
        assert not jobs.reports()[0].failure
        await follower.aclose()
        leave.set()
        await until(lambda: jobs.reports() and jobs.reports()[0].failure)

    await fail_alone()
    assert [report.failure for report in jobs.reports()] == ["the registry is gone"]
    await fail_alone()  # forgets the failure before
    assert len(jobs.reports()) == 1
    assert jobs.cancel(TITLE.subject)
    assert jobs.reports() == []


async def test_a_failure_that_a_follower_sees_is_not_told_twice():
    async def fails(tell):
        raise RegistryError("the registry is gone")

    jobs = SharedJobs()
    with pytest.raises(RegistryError):
        _ = [line async for line in jobs.follow("key", fails, TITLE, is_kept=True)]
    assert jobs.reports() == []
