"""Asking neighbours whether they are alive, when they are anything but friendly."""

import asyncio
import json

import pytest

from appliance.discovery import alive
from appliance.discovery.alive import MAX_ANSWER_BYTES, ask_all
from appliance.discovery.neighbours import Neighbour


@pytest.fixture
async def server():
    """Starts servers that answer every request with given bytes, then `after()`."""
    running, handling = [], []

    async def start(answer, after=None):
        async def handle(reader, writer):
            handling.append(asyncio.current_task())
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            try:
                writer.write(answer)
                await writer.drain()
                if after is not None:
                    await after(writer)
            except ConnectionError:
                pass
            finally:
                writer.close()

        seen = []
        listener = await asyncio.start_server(handle, "127.0.0.1", 0)
        running.append(listener)
        port = listener.sockets[0].getsockname()[1]
        return Neighbour("x", "ollama", "x.local", port, ("127.0.0.1",), 0.0), seen

    yield start
    for task in handling:
        task.cancel()
    await asyncio.gather(*handling, return_exceptions=True)
    for listener in running:
        listener.close()
        await listener.wait_closed()


def http(body, status="200 OK", *headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + data


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (http({"version": "0.12.0"}), (True, "0.12.0")),
        (http({"version": "0.12.0", "hearth": "1.0"}), (True, "1.0")),
        (http({"version": "\x1b[2J" + "9" * 99}), (True, "[2J" + "9" * 29)),
        (http({"version": ["no"]}), (True, "")),
        (http("[" * 20_000), (True, "")),
        (http(b"\xff\x00", "401 Unauthorized"), (True, "")),
        (http("", "500 Oops"), (False, "")),
        (http("", "302 Found", "Location: http://127.0.0.1:1/"), (True, "")),
        (http(b"\x1f\x8b", "200 OK", "Content-Encoding: gzip"), (True, "")),
        (b"SSH-2.0-OpenSSH\r\n", (False, "")),
        (b"", (False, "")),
    ],
)
async def test_any_answer_has_one_meaning(server, answer, expected):
    row, seen = await server(answer)
    assert await ask_all([row]) == [(row, *expected)]
    assert len(seen) <= (1 if answer else 2)  # no redirect was followed; aiohttp asks a mute twice
    assert seen[0].startswith(b"GET /api/version HTTP/1.1\r\n")
    assert b"Cookie" not in seen[0]


async def test_an_endless_answer_is_read_up_to_the_limit(server):
    sent = 0

    async def pour(writer):
        nonlocal sent
        while True:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    row, _ = await server(b"HTTP/1.1 200 OK\r\n\r\n", pour)
    assert await ask_all([row]) == [(row, True, "")]
    assert sent < 200 * MAX_ANSWER_BYTES


async def test_who_says_nothing_is_left_after_the_time(server, monkeypatch):
    monkeypatch.setattr(alive, "TIMEOUT_S", 0.2)
    row, _ = await server(b"", lambda _: asyncio.sleep(30))
    late = Neighbour("y", "openai", "y.local", 1, ("127.0.0.1",), 0.0)
    answers = await ask_all([row, late])
    assert sorted(found.name for found, is_alive, _ in answers if not is_alive) == ["x", "y"]


async def test_nobody_is_asked_when_there_is_nobody():
    assert await ask_all([]) == []
