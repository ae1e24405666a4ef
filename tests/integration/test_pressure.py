"""What the box does by itself: real workers, the kernel's real trigger, trees of a hot board."""

import asyncio
import os
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from appliance.config import load_settings
from appliance.device.device import Device
from appliance.incidents import Incidents, Kind
from appliance.library.create import CreateRequest, create
from appliance.library.library import Library
from appliance.library.names import ModelName
from appliance.library.space import Space
from appliance.metrics import Metrics
from appliance.models.manager import Models
from appliance.pressure import Pressure, Trigger
from tests.fakes import boards
from tests.fakes.waiting import until

CPU_PRESSURE = Path("/proc/pressure/cpu")


class NoBundles:
    def make_room(self, wanted):
        return []


class CountedDevice(Device):
    looks = 0

    def read(self):
        self.looks += 1
        return super().read()


def prepared(folder, gguf):
    """Settings, a library, and the models in it."""
    settings = load_settings(
        {"engine": "echo", "state": str(folder / "s"), "memory_reserve_mib": "0"}, {}, None
    )
    library = Library(settings.models_dir)
    digest, _ = library.blobs.put_file(gguf)
    for name in "ab":
        request = CreateRequest(name=ModelName.parse(name), files={"m.gguf": str(digest)})
        list(create(library, request))
    return settings, library, {name: library.get(ModelName.parse(name)) for name in "ab"}


class World:
    """Models a and b on the echo engine, on a board whose files a test writes."""

    def __init__(self, root, settings, library, stored):
        self.stored = stored
        self.models = Models(settings)
        self.device = CountedDevice(settings, root)
        self.metrics, self.incidents = Metrics(), Incidents()
        self.pressure = Pressure(
            self.models,
            NoBundles(),
            Space(library.blobs.root, 0),
            self.device,
            self.metrics,
            self.incidents,
            look_s=0.02,
            settle_s=0.02,
        )
        self.models.on_worker_end = self.pressure.note_worker_end

    async def use(self, name):
        async with self.models.lease(self.stored[name], {}):
            pass

    def loaded(self):
        return {model.name.short for model in self.models.loaded()}

    def kinds(self):
        return [each.kind for each in self.incidents.latest()]


@pytest.fixture
def world(tmp_path, tiny_gguf):
    @asynccontextmanager
    async def build(root):
        world = World(root, *await asyncio.to_thread(prepared, tmp_path, tiny_gguf))
        task = asyncio.create_task(world.pressure.run_forever())
        try:
            yield world
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await world.models.close()

    return build


@contextmanager
def all_cores_busy():
    burning = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(2 * (os.cpu_count() or 1))
    ]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


async def test_idle_models_go_when_memory_is_short_and_busy_ones_stay(world, tmp_path):
    root = boards.any_board(tmp_path / "root", memory_stall="25.00")
    async with world(root) as box:
        await box.use("a")
        async with box.models.lease(box.stored["b"], {}):
            await until(box.kinds)
            assert box.loaded() == {"b:latest"}
        assert box.kinds()[0] is Kind.UNLOADED
        assert "a:latest" in box.incidents.latest()[0].text
        assert box.metrics.actions.value(Kind.UNLOADED) >= 1
        assert (root / "proc/pressure/memory").read_text().startswith("some avg10=25.00")


async def test_a_little_pressure_unloads_nothing(world, tmp_path):
    root = boards.any_board(tmp_path / "root", memory_stall="20.00")
    async with world(root) as box:
        await box.use("a")
        async with box.models.lease(box.stored["b"], {}):
            await until(lambda: box.device.looks > 3)
        assert box.loaded() == {"a:latest", "b:latest"}
        assert box.kinds() == []


async def test_nobody_looks_while_nothing_generates(world, tmp_path):
    async with world(boards.any_board(tmp_path / "root")) as box:
        async with box.models.lease(box.stored["a"], {}):
            await until(lambda: box.device.looks > 0)
        await asyncio.sleep(0.1)  # a look that had begun ends
        before = box.device.looks
        await asyncio.sleep(0.3)
        assert box.device.looks == before


async def test_the_kernel_tells_of_pressure_while_nothing_generates(world, tmp_path):
    """The trigger is the kernel's own, on the file for the CPU, which a test can press."""
    if not os.access(CPU_PRESSURE, os.W_OK):
        pytest.skip(f"{CPU_PRESSURE} is not there or takes no triggers here")
    root = boards.any_board(tmp_path / "root")
    (root / "proc/pressure/memory").unlink()
    (root / "proc/pressure/memory").symlink_to(CPU_PRESSURE)
    with all_cores_busy():
        async with world(root) as box:
            await box.use("a")
            looks = box.device.looks
            await until(box.kinds, limit_s=60)
            assert box.kinds()[0] is Kind.UNLOADED
            assert box.loaded() == set()
            assert box.device.looks <= looks + 1


def test_a_file_that_is_not_the_kernels_gets_no_trigger(tmp_path):
    root = boards.any_board(tmp_path)
    assert Trigger.open(root / "proc/pressure/memory") is None
    assert Trigger.open(root / "proc/pressure/absent") is None


async def test_a_hot_board_takes_fewer_at_once_and_a_cool_one_as_many_as_before(world, tmp_path):
    root = boards.pi(tmp_path / "root", tmp_path, celsius="85000")
    temperature = root / "sys/class/thermal/thermal_zone0/temp"
    async with world(root) as box, box.models.lease(box.stored["a"], {}):
        await until(lambda: box.incidents.lowered_slots == 1)
        assert Kind.SLOWED in box.kinds()
        second = asyncio.create_task(box.use("a"))
        await until(lambda: box.models.queues()["a:latest"] == (1, 1))
        temperature.write_text("55000")
        await until(lambda: box.incidents.lowered_slots is None)
        await asyncio.wait_for(second, 30)
        assert box.kinds()[-1] is Kind.RESTORED
        assert box.models.loaded()[0].slots == 8


async def test_a_kill_by_the_kernel_is_told_from_one_by_a_person(world, tmp_path):
    root = boards.any_board(tmp_path / "root")
    vmstat = root / "proc/vmstat"
    async with world(root) as box:
        for kills, reason, kind in (
            (3, "crashed", Kind.WORKER_CRASHED),
            (4, "oom", Kind.WORKER_OOM),
        ):
            async with box.models.lease(box.stored["a"], {}) as lease:
                vmstat.write_text(f"oom_kill {kills}\n")
                lease.client.kill()
                await lease.client.wait_ended()
            await until(lambda: box.metrics.worker_ends.value(reason) == 1)  # noqa: B023
            assert box.kinds() == [*box.kinds()[:-1], kind]
