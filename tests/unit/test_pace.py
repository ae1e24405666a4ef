"""Rates and pauses of transfers, on a clock that only moves when somebody sleeps."""

import asyncio

import pytest

from appliance.transfer import pace
from appliance.transfer.pace import MOVE_S, PAUSE_S, Bucket, Gate, Pace


class Clock:
    def __init__(self):
        self.now = 1000.0
        self.naps = []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.naps.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock():
    return Clock()


@pytest.mark.parametrize("piece", [100, 1000, 7000])
async def test_a_long_transfer_has_the_rate(clock, piece):
    bucket = Bucket(1000, clock, clock.sleep)
    began, sent = clock.now, 0
    while sent < 70_000:
        await bucket.take(piece)
        sent += piece
    assert (clock.now - began) == pytest.approx(70.0, rel=0.02)


async def test_all_who_take_share_one_rate(clock):
    bucket = Bucket(1000, clock, clock.sleep)
    began = clock.now

    async def worker():
        for _ in range(10):
            await bucket.take(500)

    await asyncio.gather(*(worker() for _ in range(4)))
    assert clock.now - began >= 19.7


async def test_silence_earns_no_more_than_a_moment(clock):
    bucket = Bucket(1000, clock, clock.sleep)
    clock.now += 3600
    assert await bucket.take(1000) == pytest.approx(1 - pace.BURST_S)


async def test_no_limit_waits_for_nothing(clock):
    assert await Bucket(0, clock, clock.sleep).take(1 << 40) == 0
    assert await Pace.free().received(1 << 40) == 0
    assert clock.naps == []


async def test_who_waits_long_is_heard_of_every_second(clock):
    beats = []
    await Bucket(1000, clock, clock.sleep).take(5000, lambda: beats.append(clock.now))
    assert len(beats) >= 4
    assert max(clock.naps) <= 1.0


class Activity:
    """A model that generates until told otherwise."""

    def __init__(self):
        self.quiet = asyncio.Event()

    @property
    def is_generating(self):
        return not self.quiet.is_set()

    async def wait_quiet(self):
        await self.quiet.wait()


async def test_a_pause_ends_with_the_generation(clock):
    activity = Activity()
    gate = Gate(activity, clock)
    waiting = asyncio.create_task(gate.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.now += 12
    activity.quiet.set()
    assert await waiting == 12
    assert await gate.wait() == 0


async def test_a_pull_never_starves(clock, monkeypatch):
    monkeypatch.setattr(pace, "PAUSE_S", 0.001)  # of the loop's own time
    gate = Gate(Activity(), clock)
    await gate.wait()
    assert await gate.wait() == 0  # it moves now
    clock.now += MOVE_S - 0.1
    assert await gate.wait() == 0
    clock.now += 0.2
    again = asyncio.create_task(gate.wait())
    await asyncio.sleep(0)
    assert not again.done()
    await again


def test_the_rule_is_what_the_help_says():
    assert (PAUSE_S, MOVE_S) == (60, 10)
