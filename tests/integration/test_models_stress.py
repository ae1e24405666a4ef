"""appliance/models in a storm: users that come, leave and are let down, workers that die.

Seeded, but the order of events is the machine's. What must hold in any order: every lease ends, no
slot is lost or given twice, and nobody's worker is taken away but by its death.
"""

import asyncio
import os
import random
import signal
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import replace

import pytest

from appliance.config import load_settings
from appliance.errors import OverloadedError
from appliance.library.library import Library
from appliance.library.names import ModelName
from appliance.models.manager import Models
from engine.api import GenerateRequest
from engine.errors import EngineCrashedError
from tests.fakes.libraries import add_model

STORM_S = 2.0
USERS = 10
PROMPTS = ("a few words", "[[slow 5]] one after the other", "[[forever]]", "[[prefill 20]] later")
LONGEST_STEPS = 20  # then a user leaves the stream


class Storm:
    """Random users of three models of which two fit."""

    def __init__(self, models, stored, seed):
        self.models = models
        self.stored = stored
        self.random = random.Random(seed)
        self.killed = set()
        self.answers = 0

    async def user(self, name, until):
        while time.monotonic() < until:
            act = self.random.choices([self.ask, self.ask_and_leave, self.unload], [20, 15, 1])[0]
            with suppress(OverloadedError):
                await act(name)
            await asyncio.sleep(self.random.uniform(0, 0.02))

    async def ask(self, caller):
        stored = self.random.choice(self.stored)
        options = {"num_ctx": self.random.choices([512, 1024], [9, 1])[0]}  # another one: a reload
        keep_alive = self.random.choices([0, 0.01, 60], [1, 1, 4])[0]
        async with self.models.lease(
            stored, options, keep_alive=keep_alive, share=(caller, "")
        ) as held:
            client = held.client
            if self.random.random() < 0.02:
                self.killed.add(client)
                with suppress(ProcessLookupError):  # somebody else was faster
                    os.kill(client.pid, signal.SIGKILL)
            request = GenerateRequest(id=0, prompt=self.random.choice(PROMPTS))
            try:
                await self.read(client, request)
            except EngineCrashedError:
                assert client in self.killed, "a worker was taken away from its user"

    async def ask_and_leave(self, caller):
        with suppress(TimeoutError):
            async with asyncio.timeout(self.random.uniform(0, 0.05)):
                await self.ask(caller)

    async def unload(self, _caller):
        await self.models.unload(self.random.choice(self.stored).name)

    async def read(self, client, request):
        arrivals = client.generate(request)
        try:
            async for steps in arrivals:
                if steps[-1].finish is not None:
                    self.answers += 1
                elif self.random.random() < 1 / LONGEST_STEPS:
                    return
        finally:
            await arrivals.aclose()


@pytest.fixture
def stored(tmp_path):
    library = Library(tmp_path / "models")
    for name in "abc":
        add_model(library, tmp_path, name)
    return [library.get(ModelName.parse(name)) for name in "abc"]


@pytest.fixture
def settings(tmp_path):
    found = load_settings({"engine": "echo", "state": str(tmp_path)}, {})
    return replace(found, memory_reserve_mib=0, max_loaded_models=2, max_queue=USERS)


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_lease_ends_and_every_slot_comes_back(settings, stored, seed):
    models = Models(settings)
    storm = Storm(models, stored, seed)
    expiry = asyncio.create_task(models.expire_forever())
    try:
        async with asyncio.timeout(STORM_S + 30), asyncio.TaskGroup() as users:
            for number in range(USERS):
                users.create_task(storm.user(f"user {number}", time.monotonic() + STORM_S))
        assert storm.answers > 0
        for model in stored:
            await assert_all_slots_are_free(models, model)
        assert not expiry.done()
    finally:
        expiry.cancel()
        await asyncio.gather(expiry, return_exceptions=True)
        await models.close()


async def assert_all_slots_are_free(models, stored):
    """As many users as there are slots get in at once; one more has to wait."""
    async with asyncio.timeout(20), AsyncExitStack() as held:
        first = await held.enter_async_context(models.lease(stored, {}))
        for _ in range(first.client.info.slots - 1):
            await held.enter_async_context(models.lease(stored, {}))
        late = asyncio.create_task(use(models, stored))
        while not (counts := next(m for m in models.loaded() if m.stored == stored)).waiting:
            await asyncio.sleep(0)
        assert (counts.running, late.done()) == (counts.slots, False)
    await late


async def use(models, stored):
    async with models.lease(stored, {}):
        pass
