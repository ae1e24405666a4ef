"""The service reads its models again in time, repairs what rotted, and uses no time otherwise."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from appliance.care import DAY_S, LEDGER, MARK, RETRY_S, Care
from appliance.config import load_settings
from appliance.errors import RegistryError
from appliance.library.library import Library
from appliance.transfer.gather import Gatherer
from appliance.transfer.repair import Repairs
from tests.fakes.fault_proxy import fault_proxy
from tests.fakes.gguf_builder import tiny_llama_bytes
from tests.fakes.libraries import add_model
from tests.fakes.waiting import until
from tests.integration.pulls import digest_of, offer, pull


class Clock:
    """Wall time that goes on when somebody sleeps."""

    def __init__(self):
        self.now = time.time()
        self.slept = []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class Activity:
    def __init__(self):
        self.quiet = asyncio.Event()
        self.quiet.set()

    @property
    def is_generating(self):
        return not self.quiet.is_set()

    async def wait_quiet(self):
        await self.quiet.wait()


class World:
    """A library with one model, and care for it that the test drives."""

    def __init__(self, folder, **settings):
        environ = {"HEARTH_STATE": str(folder)} | {
            f"HEARTH_{name.upper()}": str(value) for name, value in settings.items()
        }
        self.settings = load_settings({}, environ)
        self.library = Library(self.settings.models_dir, folder / "maps")
        self.library.prune()
        add_model(self.library, folder, "m", system="be kind")
        self.digests = sorted(self.library.needed(), key=self.library.blobs.size)
        self.clock, self.activity = Clock(), Activity()
        self.ledger = folder / LEDGER
        self.sizes = {digest: self.library.blobs.size(digest) for digest in self.digests}
        self.tasks = []

    def start(self):
        repairs = Repairs(self.library, Gatherer(self.library))
        care = Care(
            *(self.settings, self.library, self.activity, repairs),
            now=self.clock,
            sleep=self.clock.sleep,
        )
        self.tasks.append(asyncio.create_task(care.run_forever()))
        return care

    def checked(self):
        try:
            return json.loads(self.ledger.read_bytes())
        except (OSError, ValueError):  # none yet, or the damaged one that a test wrote
            return {}

    def damage(self, digest):
        path = self.library.blobs.path(digest)
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.fixture
async def world(tmp_path):
    worlds = []

    async def make(**settings):
        worlds.append(await asyncio.to_thread(World, tmp_path, **settings))
        return worlds[-1]

    yield make
    for task in [task for each in worlds for task in each.tasks]:
        task.cancel()
        await asyncio.wait([task])


async def reach(condition):
    """Let the loop turn until it is so."""
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.005)


async def test_what_is_due_is_read_slowly_and_noted(world):
    w = await world(scrub_days=30, scrub_mib_s=10)
    w.clock.now += 31 * DAY_S
    w.start()
    await reach(lambda: len(w.checked()) == len(w.digests))
    read = sum(w.sizes.values())
    assert sum(w.clock.slept) == pytest.approx(read / (10 << 20))


async def test_what_came_in_lately_is_not_read(world):
    w = await world()
    w.clock.now += 29 * DAY_S
    (oldest, *_) = w.digests
    care = w.start()
    care.check_now([oldest])  # this one is, at once: then the others had their chance
    await reach(w.checked)
    assert list(w.checked()) == [oldest.hex]
    assert w.clock.slept == []


async def test_never_by_itself(world):
    w = await world(scrub_days=0)
    w.clock.now += 1000 * DAY_S
    care = w.start()
    care.check_now(w.digests[:1])
    await reach(w.checked)
    assert len(w.checked()) == 1


async def test_it_goes_on_after_a_restart_where_it_was(world):
    w = await world()
    w.clock.now += 31 * DAY_S
    first, *others = w.digests
    w.ledger.write_text(json.dumps({first.hex: w.clock.now - DAY_S, "a" * 64: 1.0}))
    before = w.checked()[first.hex]
    w.start()
    await reach(lambda: {d.hex for d in others} <= w.checked().keys())
    assert w.checked()[first.hex] == before
    assert "a" * 64 not in w.checked()  # forgotten: nobody needs that blob


async def test_it_waits_while_a_model_generates(world):
    w = await world()
    w.clock.now += 31 * DAY_S
    w.activity.quiet.clear()
    care = w.start()
    urgent = w.digests[0]
    care.check_now([urgent])
    await reach(w.checked)
    assert list(w.checked()) == [urgent.hex]
    w.activity.quiet.set()
    await reach(lambda: len(w.checked()) == len(w.digests))


@pytest.mark.parametrize("content", ["[]", "{", '{"a": "b"}', '{"a": [1]}'])
async def test_a_damaged_ledger_means_that_nothing_was_read(world, content):
    w = await world()
    w.clock.now += 31 * DAY_S
    w.ledger.write_text(content)
    w.start()
    await reach(lambda: len(w.checked()) == len(w.digests))


async def test_a_check_noted_in_the_future_by_a_wrong_clock_is_not_believed_for_ever(world):
    w = await world()
    w.ledger.write_text(json.dumps({d.hex: w.clock.now + 900 * DAY_S for d in w.digests}))
    care = w.start()
    care.check_now(w.digests[:1])
    await reach(lambda: w.checked()[w.digests[0].hex] < w.clock.now + 1)


async def test_damage_is_set_aside_and_tried_again_the_next_day(world, caplog):
    w = await world()
    w.clock.now += 31 * DAY_S
    bad = w.digests[0]
    await asyncio.to_thread(w.damage, bad)
    w.start()
    await reach(lambda: len(w.checked()) == len(w.digests))
    assert not await asyncio.to_thread(w.library.blobs.has, bad)
    assert "its bytes have changed" in caplog.text
    assert "not repaired" in caplog.text
    assert w.checked()[bad.hex] == pytest.approx(w.clock.now - 30 * DAY_S + RETRY_S, abs=60)


async def test_a_disk_in_trouble_ends_neither_the_task_nor_its_patience(world, caplog):
    w = await world()
    w.clock.now += 31 * DAY_S
    fails = [RegistryError("no roots")]

    def roots():
        if fails:
            raise fails.pop()
        return ()

    w.library.add_roots(roots)
    care = w.start()
    await reach(lambda: "trying later" in caplog.text)
    care.check_now(w.digests[:1])
    await reach(lambda: len(w.checked()) == len(w.digests))


# -- in the service --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights():
    return tiny_llama_bytes(ballast_mib=12)


async def test_a_damaged_file_is_repaired_when_a_load_trips_over_it(start_service, weights):
    async with fault_proxy() as proxy:
        offer(proxy, weights)
        box = start_service()
        model = f"{proxy.address}/library/m"
        await pull(box, model)
        path = box.state / "models/blobs" / digest_of(weights).replace(":", "-")
        assert box.stop() == 0
        path.write_bytes(b"GGUF" + bytes(16) + weights[20:])
        box = start_service(state=box.state)
        proxy.sent_bytes = 0
        ask = {"model": model, "prompt": "one two", "stream": False}
        assert (await asyncio.to_thread(box.call, "POST", "/api/generate", ask))[0] != 200
        await until(lambda: "repaired blob=" in box.log)
        assert (await asyncio.to_thread(box.call, "POST", "/api/generate", ask))[0] == 200
        assert proxy.sent_bytes < 1 << 20  # of the header, the first chunk


async def test_after_a_kill_young_blobs_are_checked_and_after_a_stop_none(start_service, weights):
    async with fault_proxy() as proxy:
        offer(proxy, weights)
        box = start_service()
        await pull(box, f"{proxy.address}/library/m")
        assert (box.state / MARK).exists()
        os.kill(box.process.pid, signal.SIGKILL)
        box.process.wait()
        path = box.state / "models/blobs" / digest_of(weights).replace(":", "-")
        data = bytearray(weights)
        data[-1] ^= 1
        path.write_bytes(data)
        again = start_service(state=box.state)
        await until(lambda: "repaired blob=" in again.log)
        assert path.read_bytes() == weights
        assert again.stop() == 0
        assert not (box.state / MARK).exists()
        path.write_bytes(data)
        third = start_service(state=box.state)
        assert third.stop() == 0
        assert "damaged" not in third.log


def test_it_costs_nothing_while_nothing_is_due(start_service, tiny_gguf):
    box = start_service()
    box.create("m", tiny_gguf)
    stat = Path(f"/proc/{box.process.pid}/task")

    def switches():
        texts = [(task / "status").read_text() for task in stat.iterdir()]
        lines = [line for text in texts for line in text.splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))

    before = switches()
    time.sleep(1.0)  # the time is what is measured
    assert switches() - before < 10
