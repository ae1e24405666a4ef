"""appliance/models: leases on real worker processes with the echo engine."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from appliance.config import load_settings
from appliance.errors import MemoryFitError, OverloadedError
from appliance.library.create import CreateRequest, create
from appliance.library.library import Library
from appliance.library.names import ModelName
from appliance.models.manager import Models
from engine.api import GenerateRequest


@pytest.fixture
def stored(tmp_path, tiny_gguf):
    """The models a, b and c by name."""
    library = Library(tmp_path / "models")
    digest, _ = library.blobs.put_file(tiny_gguf)
    for name in "abc":
        request = CreateRequest(name=ModelName.parse(name), files={"m.gguf": str(digest)})
        list(create(library, request))
    return {name: library.get(ModelName.parse(name)) for name in "abc"}


@pytest.fixture
def settings(tmp_path):
    return load_settings({"engine": "echo", "state": str(tmp_path), "memory_reserve_mib": "0"}, {})


@asynccontextmanager
async def running(settings):
    models = Models(settings)
    expiry = asyncio.create_task(models.expire_forever())
    try:
        yield models
    finally:
        expiry.cancel()
        await asyncio.gather(expiry, return_exceptions=True)
        await models.close()


async def use(models, stored, **options):
    async with models.lease(stored, options):
        pass


async def answer(client):
    request = GenerateRequest(id=0, prompt="still here")
    return b"".join([step.data async for steps in client.generate(request) for step in steps])


def names(models):
    return {model.name.short for model in models.loaded()}


async def test_second_lease_finds_the_model_loaded(settings, stored):
    async with running(settings) as models:
        async with models.lease(stored["a"], {}) as first:
            pass
        async with models.lease(stored["a"], {}) as second:
            assert second.client is first.client
            assert (first.load_ns > 0, second.load_ns) == (True, 0)


async def test_other_context_length_reloads_once_the_worker_is_idle(settings, stored):
    async with running(settings) as models:
        order = []

        async def use(num_ctx):
            async with models.lease(stored["a"], {"num_ctx": num_ctx}) as lease:
                order.append(("start", num_ctx, lease.client.info.context_length))
                await asyncio.sleep(0)
                order.append(("end", num_ctx))

        await asyncio.gather(use(64), use(128), use(64))
    starts = [entry for entry in order if entry[0] == "start"]
    assert all(asked == got for _, asked, got in starts)
    assert len(starts) == 3


async def test_reload_leaves_running_streams_their_worker(settings, stored):
    async with running(settings) as models:
        async with models.lease(stored["a"], {"num_ctx": 64}) as lease:
            other = asyncio.create_task(use(models, stored["a"], num_ctx=128))
            while models.loaded()[0].running < 2:
                await asyncio.sleep(0)
            assert await answer(lease.client) == b"still here"
        await other
        assert models.loaded()[0].context_length == 128


async def test_longest_idle_model_makes_room(settings, stored):
    async with running(replace(settings, max_loaded_models=2)) as models:
        for name in ("a", "b", "c"):
            async with models.lease(stored[name], {}):
                pass
        assert names(models) == {"b:latest", "c:latest"}


async def test_busy_models_stay_and_the_newcomer_is_told_to_wait(settings, stored):
    async with running(replace(settings, max_loaded_models=1)) as models:
        async with models.lease(stored["a"], {}):
            with pytest.raises(OverloadedError, match="busy"):
                async with models.lease(stored["b"], {}):
                    pass
        assert names(models) == {"a:latest"}


async def test_model_that_cannot_fit_is_refused_before_loading(settings, stored):
    async with running(replace(settings, memory_reserve_mib=2**20)) as models:
        with pytest.raises(MemoryFitError, match="can be used"):
            async with models.lease(stored["a"], {}):
                pass
        assert names(models) == set()


async def test_unload_waits_for_running_requests(settings, stored):
    async with running(settings) as models:
        async with models.lease(stored["a"], {}) as lease:
            await models.unload(stored["a"].name)
            assert await answer(lease.client) == b"still here"
        async with asyncio.timeout(10):
            await lease.client.wait_ended()
        assert names(models) == set()


async def test_keep_alive_for_ever_has_no_end(settings, stored):
    async with running(settings) as models:
        async with models.lease(stored["a"], {}, keep_alive=float("inf")):
            pass
        assert models.loaded()[0].expires_at is None
        async with models.lease(stored["a"], {}, keep_alive=60):
            pass
        assert models.loaded()[0].expires_at is not None


async def test_full_queue_is_refused(settings, stored):
    async with running(replace(settings, max_queue=1)) as models:
        done = asyncio.Event()

        async def hold():
            async with models.lease(stored["a"], {}):
                await done.wait()

        async with models.lease(stored["a"], {}) as lease:
            slots = lease.client.info.slots
            holders = [asyncio.create_task(hold()) for _ in range(slots)]
            while not models.loaded()[0].waiting:
                await asyncio.sleep(0)
            with pytest.raises(OverloadedError, match="maximum pending"):
                await hold()
        done.set()
        await asyncio.gather(*holders)


async def test_model_leased_while_another_leaves_keeps_its_worker(settings, stored):
    async with running(settings) as models:
        async with (
            models.lease(stored["a"], {}, keep_alive=0) as first,
            models.lease(stored["b"], {}, keep_alive=0),
        ):
            pass  # both are due at the same moment
        while "a:latest" in names(models):
            await asyncio.sleep(0)
        async with models.lease(stored["b"], {}) as lease:
            await first.client.wait_ended()
            assert await answer(lease.client) == b"still here"


async def test_memory_of_a_leaving_worker_is_awaited_before_the_next_load(settings, stored):
    async with running(settings) as models:
        async with models.lease(stored["a"], {}, keep_alive=0) as first:
            os.kill(first.client.pid, signal.SIGSTOP)  # it leaves late, as large models do
            asyncio.get_running_loop().call_later(1, os.kill, first.client.pid, signal.SIGCONT)
        while names(models):
            await asyncio.sleep(0)
        async with models.lease(stored["b"], {}):
            assert not first.client.is_alive


async def test_unload_holds_when_the_next_user_leaves_before_its_turn(settings, stored):
    async with running(settings) as models:
        async with models.lease(stored["a"], {}) as first:
            pass
        os.kill(first.client.pid, signal.SIGSTOP)  # it does not say whether it lives
        user = asyncio.create_task(use(models, stored["a"]))
        while not models.loaded()[0].running:
            await asyncio.sleep(0)
        await models.unload(stored["a"].name)
        user.cancel()
        await asyncio.gather(user, return_exceptions=True)
        os.kill(first.client.pid, signal.SIGCONT)
        async with asyncio.timeout(10):
            await first.client.wait_ended()


async def test_closed_models_load_nothing_more(settings, stored):
    models = Models(settings)
    async with models.lease(stored["a"], {}):
        pass
    await models.close()
    with pytest.raises(OverloadedError, match="stopping"):
        async with models.lease(stored["a"], {}):
            pass
