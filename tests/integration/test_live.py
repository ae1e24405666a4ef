"""The stream of state: what it tells, whom it tells, how it ends, how many it lets in."""

import asyncio
import contextlib
import json

import aiohttp
import pytest

from appliance.http.live_room import MAX_PER_ADDRESS
from tests.fakes.waiting import until


class Watcher:
    """One listener: the state as it knows it, and the kinds of the events that came."""

    def __init__(self, answer):
        self.answer = answer
        self.state = {}
        self.kinds = []
        self.over = False

    async def read(self):
        kind = ""
        async for line in self.answer.content:
            text = line.decode().rstrip("\n")
            if text.startswith("event: "):
                kind = text[7:]
            elif text.startswith("data: "):
                self.kinds.append(kind)
                if kind in {"snapshot", "change"}:
                    self.state |= json.loads(text[6:])
        self.over = True


@contextlib.asynccontextmanager
async def watching(service, key="", **headers):
    if key:
        headers["Authorization"] = f"Bearer {key}"
    url = f"{service.url}/hearth/v1/live"
    timeout = aiohttp.ClientTimeout(total=60)
    async with (
        aiohttp.ClientSession(read_bufsize=2**20, timeout=timeout) as session,
        session.get(url, headers=headers) as answer,
    ):
        answer.raise_for_status()
        assert answer.content_type == "text/event-stream"
        watcher = Watcher(answer)
        reading = asyncio.create_task(watcher.read())
        try:
            await until(lambda: watcher.state)
            yield watcher
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading


async def call(service, *arguments):
    status, body = await asyncio.to_thread(service.call, *arguments)
    assert status < 400, body
    return body


async def test_first_everything_then_only_what_changed(service):
    async with watching(service) as watcher:
        assert watcher.kinds == ["snapshot"]
        expected = {"box", "me", "models", "queue", "device", "transfers", "updates", "conditions"}
        assert expected <= set(watcher.state)
        assert watcher.state["me"]["ring"] == "here"
        body = {"model": "echo", "prompt": "[[forever]] [[slow 10]]", "raw": True}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{service.url}/api/generate", json=body) as answer,
        ):
            await answer.content.readline()
            await until(lambda: watcher.state["queue"]["running"] == 1)
            await until(lambda: watcher.state["queue"]["tokens_per_s"] > 10)
            (loaded,) = [m["name"] for m in watcher.state["models"] if m["loaded"]]
            assert loaded == "echo:latest"
        await until(lambda: watcher.state["queue"]["running"] == 0)
        await call(service, "POST", "/api/generate", {"model": "echo", "keep_alive": 0})
        await until(lambda: not any(m["loaded"] for m in watcher.state["models"]))
    assert set(watcher.kinds[1:]) == {"change"}


async def test_a_library_that_changes_is_told(service):
    async with watching(service) as watcher:
        await call(service, "POST", "/api/copy", {"source": "echo", "destination": "twin"})
        await until(lambda: "twin:latest" in names(watcher))
        await call(service, "DELETE", "/api/delete", {"model": "twin"})
        await until(lambda: "twin:latest" not in names(watcher))


def names(watcher):
    return {model["name"] for model in watcher.state["models"]}


async def test_a_key_for_some_models_sees_these_alone(service):
    await call(service, "POST", "/api/copy", {"source": "echo", "destination": "hidden"})
    body = {"name": "one model", "scopes": ["chat"], "models": ["echo"]}
    made = await call(service, "POST", "/hearth/v1/keys", body)
    async with watching(service, made["secret"]) as watcher:
        assert names(watcher) == {"echo:latest"}
        assert "conditions" not in watcher.state  # they name folders of the box
        assert watcher.state["me"]["key"]["name"] == "one model"
        assert "hidden" not in json.dumps(watcher.state)
    await call(service, "DELETE", "/api/delete", {"model": "hidden"})


async def test_a_key_that_is_revoked_ends_its_stream(service):
    body = {"name": "short-lived", "scopes": ["chat"]}
    made = await call(service, "POST", "/hearth/v1/keys", body)
    async with watching(service, made["secret"]) as watcher:
        await call(service, "DELETE", f"/hearth/v1/keys/{made['key']['id']}")
        await call(service, "POST", "/api/copy", {"source": "echo", "destination": "news"})
        await until(lambda: watcher.over)
        assert watcher.kinds[-1] == "error"
    await call(service, "DELETE", "/api/delete", {"model": "news"})


async def test_who_may_not_chat_hears_nothing(service):
    status, body = await asyncio.to_thread(
        service.call, "GET", "/hearth/v1/live", None, {"X-Forwarded-For": "203.0.113.9"}
    )
    assert status == 401
    assert "needs a key" in body["error"]


async def test_one_address_has_so_many_places_and_gets_them_back(service):
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MAX_PER_ADDRESS):
            await stack.enter_async_context(watching(service))
        with pytest.raises(aiohttp.ClientResponseError) as caught:
            await stack.enter_async_context(watching(service))
        assert caught.value.status == 503
        assert caught.value.headers["Retry-After"]
    async with watching(service) as watcher:
        assert watcher.state


async def test_a_service_that_stops_says_so_and_waits_for_no_page(start_service):
    service = start_service(drain_timeout_s=30)
    async with watching(service) as watcher:
        assert await asyncio.to_thread(service.stop) == 0
        await until(lambda: watcher.over)
        assert watcher.kinds[-1] == "end"
    assert "still running" not in service.log
