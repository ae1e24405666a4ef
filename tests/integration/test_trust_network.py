"""A repository over HTTP that is slow, endless, broken or away: said by code, nothing kept."""

import asyncio

import pytest
from aiohttp import web

from appliance.trust.fetch import Limits
from tests.fakes.tuf_repository import TufRepository, serving
from tests.integration.trust_box import Box

LIMITS = Limits(stall_s=0.3, total_s=1.5)


async def _silent(request):
    await asyncio.sleep(60)
    return web.Response()


async def _drip(request):
    """A byte now and then, for ever: never a stall, never an end."""
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b" ")
        await asyncio.sleep(0.02)


async def _stops(request):
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(b"{")
    await asyncio.sleep(60)
    return answer


async def _cut(request):
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(b"{")
    request.transport.close()
    return answer


async def _endless(request):
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b" " * 65536)


async def _bomb(request):
    """Claims to be compressed: we asked for identity and believe no other."""
    return web.Response(body=b"\x1f\x8b" + b"0" * 50, headers={"Content-Encoding": "gzip"})


async def _loop(request):
    raise web.HTTPFound(request.path)


async def _to_a_file(request):
    return web.Response(status=302, headers={"Location": "file:///etc/passwd"})


def _status(code):
    async def answer(request):
        return web.Response(status=code)

    return answer


@pytest.mark.parametrize("name", ["2.root.json", "timestamp.json"])
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (_silent, "stalled"),
        (_drip, "stalled"),
        (_stops, "stalled"),
        (_cut, "unreachable"),
        (_endless, "too_large"),
        (_bomb, "unreachable"),
        (_loop, "unreachable"),
        (_to_a_file, "unreachable"),
        (_status(500), "unreachable"),
        (_status(503), "unreachable"),
        (_status(401), "unreachable"),
        (_status(206), "unreachable"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_bad_answers(tmp_path, name, answer, code):
    repo = TufRepository()
    with serving(repo) as server:
        box = Box(tmp_path, repo, server)
        box.refresh()
        state = box.state()
        repo.publish("targets")
        server.answers[name] = answer
        box.limits = LIMITS
        assert box.refused() == code
        assert box.state() == state
        server.answers.clear()
        box.limits = Limits()
        box.refresh()


def test_nobody_there_is_unreachable(tmp_path):
    repo = TufRepository()
    with serving(repo) as server:
        box = Box(tmp_path, repo, server)
        box.refresh()
    state = box.state()
    assert box.refused() == "unreachable"
    assert box.state() == state


def test_a_redirect_to_a_mirror_is_followed(tmp_path):
    repo = TufRepository()

    async def moved(request):
        if request.query:
            return web.Response(body=repo.files["timestamp.json"])
        raise web.HTTPFound(request.path + "?mirror")

    with serving(repo) as server:
        server.answers["timestamp.json"] = moved
        assert Box(tmp_path, repo, server).refresh().versions["timestamp"] == 1


def test_only_what_is_new_is_asked_for(tmp_path):
    repo = TufRepository()
    with serving(repo) as server:
        box = Box(tmp_path, repo, server)
        box.refresh()
        assert server.requests == [
            "2.root.json",
            "timestamp.json",
            "1.snapshot.json",
            "1.targets.json",
        ]
        server.requests.clear()
        box.refresh()
        assert server.requests == ["2.root.json", "timestamp.json"]
