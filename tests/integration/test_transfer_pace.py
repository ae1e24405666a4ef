"""The rates and the pause of the settings, on a real service."""

import asyncio
import time

from tests.fakes.fault_proxy import fault_proxy
from tests.fakes.waiting import until
from tests.integration.pulls import names, offer, pull


async def test_a_pull_keeps_to_its_rate(start_service, tiny_gguf):
    weights = tiny_gguf.read_bytes()
    async with fault_proxy() as proxy:
        offer(proxy, weights)
        box = start_service(transfer_down_kbps=4000)
        began = time.monotonic()
        assert (await pull(box, f"{proxy.address}/library/m"))[-1] == {"status": "success"}
        assert time.monotonic() - began > 0.9 * len(weights) / 500_000 - 0.25


async def test_a_pull_rests_while_a_model_generates(start_service, tiny_gguf):
    async with fault_proxy() as proxy:
        offer(proxy, tiny_gguf.read_bytes())
        box = start_service(transfer_pause="generating")
        await asyncio.to_thread(box.create, "slow", tiny_gguf)
        ask = {"model": "slow", "prompt": "[[slow 100]] " + "word " * 30, "stream": False}
        generating = asyncio.create_task(asyncio.to_thread(box.call, "POST", "/api/generate", ask))
        await until(lambda: "loaded model=slow" in box.log)
        pulling = asyncio.create_task(pull(box, f"{proxy.address}/library/m"))
        await until(lambda: proxy.sent_bytes > 0)
        assert not generating.done()
        await asyncio.wait({pulling, generating}, return_when=asyncio.FIRST_COMPLETED)
        assert generating.done()
        assert (await generating)[0] == 200
        assert (await pulling)[-1] == {"status": "success"}
        assert f"{proxy.address}/library/m:latest" in await asyncio.to_thread(names, box)
