"""Turns of followed channels at times of the test's choosing: windows, due times, speed, idleness.

The installs are a stand-in that notes what was asked for; all else is real.
"""

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import pytest

from appliance.bundles.channels import Channels
from appliance.bundles.state import BundleState, Kept
from appliance.config import load_settings
from appliance.errors import NotFoundError, RegistryUnreachableError
from appliance.transfer.pace import Pace
from appliance.transfer.progress import Progress
from appliance.trust.repositories import Repositories, Repository, read_root
from tests.fakes.tuf_repository import TufRepository

KEY = "acme/stable"
HOUR_S = 3600


def moment(text):
    return datetime.fromisoformat(f"2026-11-27T{text}").timestamp()


class Installs:
    """What channels need of `Bundles`; `asked` are the calls. `gate` holds installs back."""

    def __init__(self):
        self.says = {"generation": 1, "bundles": {"acme/assistant": "1.0.0"}}
        self.asked = []
        self.active = {}
        self.gate = None
        self.error = None
        self.during = None

    async def document(self, repository, target, max_bytes):
        self.asked.append(("document", target))
        if self.error:
            raise self.error
        return json.dumps(self.says).encode()

    def owner(self, name):
        return SimpleNamespace(name="acme")

    def state(self, name):
        if name not in self.active:
            raise NotFoundError("none")
        digest = f"sha256:{'0' * 64}"
        kept = Kept(self.active[name], digest, digest, (), "f32")
        return BundleState(name.full.lower(), "acme", active=kept)

    async def check(self, name, origin):
        assert origin is None
        self.asked.append(("check", name.short))

    async def install(self, name, origin, *, version, retry):
        assert (origin, retry) == (None, False)
        self.asked.append(("install", version))
        yield Progress("pulling manifest")
        if self.gate:
            await self.gate.wait()
        if self.during:
            await self.during()
        self.active[name] = version
        yield Progress("success")


@pytest.fixture
def installs():
    return Installs()


@pytest.fixture
def world(tmp_path, installs):
    """Settings to channels; `world.now` is the time."""
    root = TufRepository().files["1.root.json"]
    repositories = Repositories(tmp_path / "trust")
    repository = Repository("acme", ("acme/*",), metadata_url="https://releases.example/tuf/")
    repositories.enrol(repository, root, read_root(root).fingerprint)
    world = SimpleNamespace(now=moment("12:00"), looked=0)

    def now():
        world.looked += 1
        return world.now

    settings = load_settings({"state": str(tmp_path)}, {}, None)

    def make(**fields):
        changed = replace(settings, **fields)
        return Channels(changed, installs, repositories, now, lambda: 0.5)

    world.make = make
    return world


async def turn(channels, **fields):
    async with aclosing(channels.check(KEY, **fields)) as lines:
        return [line.status async for line in lines]


async def outcome(channels):
    (found,), _ = await channels.list()
    return found.outcomes["acme/assistant"], found.due_s


async def test_outside_the_window_nothing_is_begun_but_revocations_are_heard(world, installs):
    channels = world.make(channel_window="14:00-15:00")
    await channels.follow(KEY)
    installs.asked.clear()
    await turn(channels)
    assert installs.asked == [("document", "channels/stable.json")]
    found, due_s = await outcome(channels)
    assert (found.state, found.reason) == ("waiting", "for its window")
    assert due_s == world.now + 2 * HOUR_S + 30
    world.now = moment("14:00")
    await turn(channels)
    assert (await outcome(channels))[0].state == "active"
    world.now = moment("16:00")
    installs.asked.clear()
    await turn(channels)
    assert installs.asked[1:] == [("check", "acme/assistant:latest")]
    assert (await outcome(channels))[0].state == "active"


async def test_the_channels_own_window_counts_where_the_box_has_none(world, installs):
    installs.says["window"] = "02:00-03:00"
    channels = world.make()
    await channels.follow(KEY)
    await turn(channels)
    assert (await outcome(channels))[0].state == "waiting"
    boxes_own = world.make(channel_window="11:00-13:00")
    await turn(boxes_own)
    assert (await outcome(boxes_own))[0].state == "active"


async def test_a_person_may_insist(world, installs):
    channels = world.make(channel_window="02:00-03:00")
    await channels.follow(KEY)
    assert "acme/assistant 1.0.0: pulling manifest" in await turn(channels, at_once=True)
    assert (await outcome(channels))[0].state == "active"


async def test_what_the_end_of_the_window_interrupts_waits_for_the_next(world, installs):
    installs.gate = asyncio.Event()
    world.now = moment("02:59:59.95")
    channels = world.make(channel_window="02:00-03:00")
    await channels.follow(KEY)
    await turn(channels)
    found, _ = await outcome(channels)
    assert (found.state, found.reason) == ("waiting", "the window closed; what came is kept")
    installs.gate = None
    world.now = moment("02:00:10")
    await turn(channels)
    assert (await outcome(channels))[0].state == "active"


async def test_a_source_that_is_down_is_asked_again_later_and_later(world, installs):
    channels = world.make()
    await channels.follow(KEY)
    installs.error = RegistryUnreachableError("down")
    waits = []
    for _ in range(3):
        with pytest.raises(RegistryUnreachableError):
            await turn(channels)
        (found,), _ = await channels.list()
        assert found.problem == "down"
        waits.append(found.due_s - world.now)
    assert waits == [45, 90, 180]
    installs.error = None
    await turn(channels)
    (found,), _ = await channels.list()
    assert (found.problem, found.failures) == ("", 0)
    assert found.due_s == world.now + 6 * HOUR_S


async def test_the_channels_speed_limit_holds_for_its_downloads_alone(world, installs):
    waited = []

    async def download():
        waited.append(await Pace.free().received(270_000))  # 20,000 beyond the burst

    installs.says["down_kbps"] = 8000
    installs.during = download
    channels = world.make()
    await channels.follow(KEY)
    await turn(channels)
    await download()
    assert waited[0] >= 0.02
    assert waited[1] == 0


async def test_nothing_followed_wakes_for_nothing(world, monkeypatch):
    channels, waits = world.make(), []
    real = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda delay: (waits.append(delay), real(delay))[1])
    polling = asyncio.create_task(channels.poll_forever())
    while not waits:
        await asyncio.sleep(0.01)
    assert waits == [None]
    polling.cancel()


async def test_a_background_turn_is_taken_when_due_and_after_a_change(world, installs):
    channels = world.make()
    polling = asyncio.create_task(channels.poll_forever())
    await channels.follow(KEY)
    async with asyncio.timeout(10):
        while installs.asked.count(("install", "1.0.0")) < 1:
            await asyncio.sleep(0.01)
        await channels.pause(KEY, is_paused=True)
        installs.says = {"generation": 2, "bundles": {"acme/assistant": "2.0.0"}}
        world.now += 30 * HOUR_S
        await channels.pause(KEY, is_paused=False)
        while installs.asked.count(("install", "2.0.0")) < 1:
            await asyncio.sleep(0.01)
    polling.cancel()
    await channels.close()
