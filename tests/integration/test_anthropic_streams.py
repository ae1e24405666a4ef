"""Anthropic's streams on the wire: their frames, pings in silence, clients that leave, refusals."""

import asyncio
import dataclasses
import json

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from appliance.config import load_settings
from appliance.errors import OverloadedError
from appliance.http.anthropic import EVENTS
from appliance.http.context import FIELDS, REQUEST_ID, SETTINGS
from appliance.http.streams import stream
from tests.fakes.waiting import wait_for
from tests.integration.raw_http import assert_error, open_request, send

PATH = "/v1/messages"
DEFAULTS = load_settings({}, {}, None)
# Slowly, else a busy machine sees the end at the context's limit before it has looked.
FOREVER = "[[forever]] [[slow 20]]"


def body_for(prompt, **fields):
    messages = [{"role": "user", "content": prompt}]
    return {"model": "echo", "max_tokens": 10**6, "messages": messages, "stream": True, **fields}


def events_of(content):
    """(name, data) of each event, whose frame is checked."""
    *frames, rest = content.decode().split("\n\n")
    assert rest == ""
    found = []
    for frame in frames:
        name, data = frame.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert all(name == data["type"] for name, data in found)
    return found


def load_of(service):
    models = send(service, "GET", "/hearth/v1/status").json["models"]
    return [(model["running"], model["waiting"]) for model in models]


def test_the_stream_says_what_the_whole_answer_says(service):
    whole = send(service, "POST", PATH, body=body_for("one two", stream=False)).json
    reply = send(service, "POST", PATH, body=body_for("one two"))
    assert reply.headers["Content-Type"] == "text/event-stream"
    assert reply.headers["request-id"].startswith("req_")
    events = events_of(reply.content)
    text = "".join(d["delta"]["text"] for n, d in events if n == "content_block_delta")
    assert text == whole["content"][0]["text"]
    assert events[-2][1]["usage"] == whole["usage"]
    assert events[-1] == ("message_stop", {"type": "message_stop"})


def test_a_crash_in_mid_stream_is_the_last_word(start_service, tiny_gguf):
    service = start_service()
    service.create("echo", tiny_gguf)
    reply = send(service, "POST", PATH, body=body_for("[[crash]] x"))
    name, error = events_of(reply.content)[-1]
    assert name == "error"
    assert error["error"]["type"] == "api_error"
    assert "SIGKILL" in error["error"]["message"]
    assert error["request_id"] == reply.headers["request-id"]
    wait_for(lambda: f"id={error['request_id']}" in service.log)  # who asks can be helped


@pytest.mark.parametrize("prompt", [FOREVER, "[[prefill 99999]]"])
@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_frees_its_slot(service, prompt, streams):
    send(service, "POST", PATH, body=body_for("load", stream=False))
    connection = open_request(service, PATH, body_for(prompt, stream=streams))
    wait_for(lambda: load_of(service) == [(1, 0)])
    connection.close()
    wait_for(lambda: load_of(service) == [(0, 0)])


def test_a_full_queue_is_529_with_a_guess(start_service, tiny_gguf):
    service = start_service(max_queue=1)
    service.create("echo", tiny_gguf)
    send(service, "POST", PATH, body=body_for("load", stream=False))
    slots = send(service, "GET", "/hearth/v1/status").json["models"][0]["slots"]
    held = [open_request(service, PATH, body_for(FOREVER)) for _ in range(slots + 1)]
    wait_for(lambda: load_of(service) == [(slots, 1)])
    reply = send(service, "POST", PATH, body=body_for("x"))
    assert_error(reply, 529, PATH)
    assert reply.json["error"]["type"] == "overloaded_error"
    assert int(reply.headers["Retry-After"]) >= 1
    for connection in held:
        connection.close()


def test_the_guards_refusals_have_the_shape_too(service):
    strange = send(service, "POST", PATH, body=body_for("x"), host="evil.example")
    assert "Host" in assert_error(strange, 403, PATH)
    assert strange.json["error"]["type"] == "permission_error"
    foreign = [("Origin", "https://evil.example")]
    assert_error(send(service, "POST", PATH, body=body_for("x"), headers=foreign), 403, PATH)


# -- pings ---------------------------------------------------------------------------------------


async def answered(documents):
    """What a client reads of `documents`, where silence counts after 50 ms."""
    quick = dataclasses.replace(EVENTS, ping_s=0.05)

    async def handler(request):
        request[FIELDS], request[REQUEST_ID] = {}, "req_1"
        return await stream(request, documents(), quick)

    app = web.Application()
    app[SETTINGS] = DEFAULTS
    app.router.add_get("/", handler)
    async with (
        TestServer(app) as server,
        ClientSession() as session,
        session.get(server.make_url("/")) as reply,
    ):
        return reply.status, events_of(await reply.read())


async def silent_until_pinged():
    await asyncio.sleep(0.3)
    yield b'{"type":"message_start"}'


async def test_silence_before_the_first_piece_is_filled_with_pings():
    status, events = await answered(silent_until_pinged)
    assert status == 200
    assert events[0] == ("ping", {"type": "ping"})
    assert events[-1][0] == "message_start"


async def test_an_error_behind_a_ping_is_an_event():
    async def fails():
        await asyncio.sleep(0.3)
        raise OverloadedError("too much")
        yield b""

    status, events = await answered(fails)
    assert status == 200
    assert events[0][0] == "ping"
    assert events[-1][1]["error"] == {"type": "overloaded_error", "message": "too much"}
    assert events[-1][1]["request_id"] == "req_1"


async def test_nobody_is_pinged_while_pieces_come():
    async def steady():
        for _ in range(10):
            await asyncio.sleep(0.01)
            yield b'{"type":"x"}'

    _, events = await answered(steady)
    assert len(events) == 10
