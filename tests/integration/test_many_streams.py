"""Sixty-four streams at once through /v1/chat/completions, and several choices of one request."""

import asyncio
import json

import aiohttp
import pytest

from engine.abilities import BLOCK_SIZE
from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.fakes.waiting import until

STREAMS = 64
PATH = "/v1/chat/completions"
TOKENS = 6
END_TOKENS = range(316, 320)  # of the tiny model


@pytest.fixture(scope="module", params=["echo", "paged"])
def served(request, module_service, tmp_path_factory):
    """A service whose engine holds many sequences, with the model `m`."""
    service = module_service(engine=request.param, threads=1)
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    service.create("m", tiny_llama_gguf(path, context=4096))
    service.engine = request.param
    return service


def body_of(prompt, **fields):
    messages = [{"role": "user", "content": prompt}]
    return {"model": "m", "messages": messages, "stream": True, "temperature": 0, **fields}


async def stream(session, service, **fields):
    """The chunks of one stream, which must have an honest end."""
    async with session.post(service.url + PATH, json=body_of(**fields)) as answer:
        assert answer.status == 200, await answer.text()
        *events, done, rest = (await answer.text()).split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def texts_of(chunks):
    """The text of each choice by its index."""
    joined = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        text = joined.get(choice["index"], "")
        joined[choice["index"]] = text + choice["delta"].get("content", "")
    return joined


def ends_of(chunks):
    return {
        choice["index"]: choice["finish_reason"]
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["finish_reason"]
    }


async def load_of(session, service):
    async with session.get(service.url + "/hearth/v1/status") as answer:
        models = (await answer.json())["models"]
    return [(model["running"], model["waiting"]) for model in models]


async def is_idle(session, service):
    async with asyncio.timeout(60):
        while await load_of(session, service) != [(0, 0)]:
            await asyncio.sleep(0.01)


def client():
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=100)
    )


async def test_of_64_streams_none_is_lost_and_each_is_its_own(served):
    prompts = [f"stream number {number} of many" for number in range(STREAMS)]
    fields = {"max_tokens": TOKENS, "stream_options": {"include_usage": True}}
    async with client() as session:
        found = await asyncio.gather(
            *(stream(session, served, prompt=prompt, **fields) for prompt in prompts)
        )
        alone = [await stream(session, served, prompt=p, **fields) for p in prompts[::21]]
        await is_idle(session, served)
    assert len({chunks[0]["id"] for chunks in found}) == STREAMS
    assert all(ends_of(chunks).keys() == {0} for chunks in found)
    assert [texts_of(chunks) for chunks in found[::21]] == [texts_of(chunks) for chunks in alone]
    for chunks in found:
        usage = chunks[-1]["usage"]
        assert usage["prompt_tokens"] > 0
        assert 0 < usage["completion_tokens"] <= TOKENS
        if ends_of(chunks) == {0: "length"}:
            assert usage["completion_tokens"] == TOKENS


async def test_choices_share_the_prompt_and_count_it_once(served):
    prompt = "the same words for every choice " * 8
    fields = {"prompt": prompt, "max_tokens": 24, "stream_options": {"include_usage": True}}
    async with client() as session:
        chunks = await stream(session, served, n=4, **fields)
        one = await stream(session, served, **fields)
    assert set(texts_of(chunks).values()) == set(texts_of(one).values())
    assert ends_of(chunks).keys() == {0, 1, 2, 3}
    usage, single = chunks[-1]["usage"], one[-1]["usage"]
    assert usage["prompt_tokens"] == single["prompt_tokens"]
    assert usage["completion_tokens"] == 4 * single["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    if served.engine == "paged":
        shared = single["prompt_tokens"] // BLOCK_SIZE * BLOCK_SIZE
        await until(lambda: f" cached={3 * shared} " in served.log)


async def test_a_client_that_leaves_frees_all_choices(served):
    endless = "[[forever]] [[slow 5]]" if served.engine == "echo" else "on and on"
    body = body_of(endless, n=4, logit_bias=never_ending(served))
    async with client() as session:
        async with session.post(served.url + PATH, json=body) as answer:
            seen = set()
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    seen.add(json.loads(line[6:])["choices"][0]["index"])
                if seen == {0, 1, 2, 3}:
                    break
            assert await load_of(session, served) == [(4, 0)]
        await is_idle(session, served)


def never_ending(service):
    """A bias that keeps the tiny model from its end tokens."""
    return {} if service.engine == "echo" else {str(token): -100 for token in END_TOKENS}
