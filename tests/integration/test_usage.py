"""access/usage.py over a real database: budgets that survive restarts, refusals that say when."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from appliance.access.caller import Caller, KeyFacts, Ring, Scope
from appliance.access.shares import BOX_SHARE
from appliance.access.usage import Usage
from appliance.db import Database
from appliance.errors import BudgetSpentError, LibraryError

KEY = KeyFacts(id="k1", name="kitchen", scopes=frozenset({Scope.CHAT}), tokens_per_day=100)
HOLDER = Caller("192.168.1.5", Ring.LAN, key=KEY)
GUEST = Caller("192.168.1.6", Ring.LAN)


class Clock:
    def __init__(self):
        self.now = datetime(2026, 11, 27, 22, 30, tzinfo=UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@asynccontextmanager
async def usage_in(folder, clock, guest_tokens=0):
    database = Database(folder)
    await database.open()
    usage = Usage(database, guest_tokens, clock)
    await usage.load()
    try:
        yield usage
    finally:
        await usage.close()
        await database.close()


async def test_a_spent_budget_says_when_it_comes_back(tmp_path, clock):
    async with usage_in(tmp_path, clock) as usage:
        purse = usage.share_of(HOLDER).purse
        usage.count(HOLDER)
        purse.charge(60)
        purse.check()
        purse.charge(60)
        with pytest.raises(BudgetSpentError, match="'kitchen' used 120 tokens today, of 100") as no:
            usage.count(HOLDER)
        assert no.value.retry_after_s == 90 * 60
        assert "go on from 2026-11-28 00:00 by the box's clock" in no.value.hint
        assert usage.tokens_today(KEY) == 120
        clock.now += timedelta(minutes=90)
        usage.count(HOLDER)
        assert usage.tokens_today(KEY) == 0


async def test_a_restart_gives_nothing_back(tmp_path, clock):
    async with usage_in(tmp_path, clock) as usage:
        usage.charge(HOLDER, 150)
    async with usage_in(tmp_path, clock) as usage:
        with pytest.raises(BudgetSpentError):
            usage.count(HOLDER)


async def test_what_was_counted_is_written_without_a_clean_stop(tmp_path, clock, monkeypatch):
    monkeypatch.setattr("appliance.access.usage.FLUSH_S", 0.01)
    async with usage_in(tmp_path, clock) as usage:
        writing = asyncio.create_task(usage.run_forever())
        usage.charge(HOLDER, 150)
        other = Database(tmp_path)
        await other.open()

        async def written():
            rows = await other.read(lambda c: c.execute("SELECT who, tokens FROM usage").fetchall())
            return [tuple(row) for row in rows]

        async with asyncio.timeout(10):
            while await written() != [("key:k1", 150)]:
                await asyncio.sleep(0.01)
        await other.close()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def test_guests_have_a_budget_by_address_and_one_by_network_in_ipv6(tmp_path, clock):
    async with usage_in(tmp_path, clock, guest_tokens=10) as usage:
        usage.charge(GUEST, 10)
        with pytest.raises(BudgetSpentError, match="this guest used 10 tokens today, of 10"):
            usage.count(GUEST)
        usage.count(Caller("192.168.1.7", Ring.LAN))
        for number in range(4):
            clock.now += timedelta(seconds=1)
            usage.count(Caller(f"2001:db8::{number}", Ring.LAN))
            usage.charge(Caller(f"2001:db8::{number}", Ring.LAN), 10)
        with pytest.raises(BudgetSpentError, match="of 40 a day"):
            usage.count(Caller("2001:db8::99", Ring.LAN))
        last, *_ = usage.guests()
        assert (last.address, last.requests, last.tokens) == ("2001:db8::/64", 4, 40)


async def test_the_box_itself_pays_nothing(tmp_path, clock):
    here = Caller("127.0.0.1", Ring.HERE)
    async with usage_in(tmp_path, clock, guest_tokens=1) as usage:
        assert usage.share_of(here) == BOX_SHARE
        usage.share_of(here).purse.charge(10**9)
        usage.count(here)
        assert usage.guests() == []


async def test_a_clock_that_was_set_back_gives_nothing_back(tmp_path, clock):
    async with usage_in(tmp_path, clock) as usage:
        usage.charge(HOLDER, 150)
    clock.now -= timedelta(
        days=400
    )  # a board without a clock starts before its time server answers
    async with usage_in(tmp_path, clock) as usage:
        with pytest.raises(BudgetSpentError):
            usage.count(HOLDER)


async def test_a_database_that_cannot_be_written_costs_no_count(tmp_path, clock):
    async with usage_in(tmp_path, clock) as usage:
        usage.charge(HOLDER, 60)
        await set_read_only(usage, "ON")
        with pytest.raises(LibraryError):
            await usage.flush()
        assert usage.tokens_today(KEY) == 60
        usage.charge(HOLDER, 1)
        await set_read_only(usage, "OFF")
    async with usage_in(tmp_path, clock) as usage:
        assert usage.tokens_today(KEY) == 61


async def set_read_only(usage, word):
    """What a disk without room does to writes."""
    await usage.database.read(lambda c: c.execute(f"PRAGMA query_only = {word}").fetchall())
