"""Limits of a real service: guests and keys, rates and budgets, and every way around them.

Guests are made on loopback: the service trusts a proxy at 127.0.0.1, and we are that proxy.
"""

import json
import re

import pytest

from tests.fakes.waiting import wait_for
from tests.integration.cli_process import Command
from tests.integration.raw_http import assert_error, connect, open_request, send

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello there"}], "stream": False}
PATHS = ["/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/responses"]
RATE = 5


@pytest.fixture
def limited(start_service, tiny_gguf):
    """A service behind a trusted proxy."""

    def start(**settings):
        settings = {"guest_rate_per_minute": RATE, "trusted_proxies": "127.0.0.1"} | settings
        service = start_service(**settings)
        service.create("echo", tiny_gguf)
        return service

    return start


def guest(address="192.168.1.50", *more):
    return [("X-Forwarded-For", address), *more]


def key(service, **limits):
    """Headers with a new key."""
    wanted = {"name": "kitchen", "scopes": ["chat"], **limits}
    status, answer = service.call("POST", "/hearth/v1/keys", wanted)
    assert status == 201, answer
    return [("Authorization", f"Bearer {answer['secret']}")]


def chat(service, headers=(), path="/api/chat", **fields):
    return send(service, "POST", path, body=CHAT | fields, headers=headers)


def let_through(service, headers_of, tries=40):
    """How many of these requests were answered; all others were told to wait."""
    statuses = [chat(service, headers_of(number)).status for number in range(tries)]
    assert set(statuses) <= {200, 429}
    return statuses.count(200)


def keys_listed(service):
    return service.call("GET", "/hearth/v1/keys")[1]


def test_a_guest_is_told_in_its_own_dialect_when_to_come_back(limited):
    service = limited()
    for _ in range(RATE):
        assert chat(service, guest()).status == 200
    for path in PATHS:
        reply = chat(service, guest(), path)
        text = assert_error(reply, 429, path)
        assert "a guest without a key may send 5 requests a minute" in text
        assert 1 <= int(reply.headers["Retry-After"]) <= 60 / RATE
        assert "ask the owner of the box for a key" in reply.content.decode()
    error = chat(service, guest(), PATHS[1]).json["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limited")
    assert chat(service, guest("192.168.1.51")).status == 200
    assert chat(service).status == 200  # the box itself
    assert chat(service, key(service)).status == 200


def test_a_refusal_comes_before_the_body_is_read(limited):
    service = limited(guest_rate_per_minute=1)
    assert chat(service, guest()).status == 200
    endless = [*guest(), ("Content-Length", str(10**7))]
    assert send(service, "POST", "/api/chat", headers=endless).status == 429


@pytest.mark.parametrize(
    ("attempt", "allowed"),
    [
        (lambda n: guest(), RATE),  # each on a connection and port of its own
        (lambda n: guest("192.168.1.50", ("X-OpenWebUI-User-Id", f"user{n}")), RATE),
        (lambda n: guest(f"192.168.1.{n}, 192.168.1.50"), RATE),
        (lambda n: guest("192.168.1.50", ("X-Real-IP", f"192.168.1.{n}")), RATE),
        (lambda n: guest("192.168.1.50", ("Authorization", f"Bearer ollama{n}")), RATE),
        (lambda n: guest(f"192.168.1.50:{1000 + n}"), RATE),
        (lambda n: guest(f"fd00::{n + 1:x}"), 4 * RATE),
        (lambda n: guest(f"fd00:0:0:0:{n + 1:x}::"), 4 * RATE),
    ],
    ids=["ports", "users", "forged hops", "x-real-ip", "no keys", "hop ports", "ipv6", "ipv6 high"],
)
def test_ways_around_the_rate(limited, attempt, allowed):
    assert let_through(limited(), attempt) == allowed


def test_a_key_has_its_own_rate_whoever_it_says_to_ask_for(limited):
    service = limited(user_rate_per_minute=2)
    headers = key(service, rate_per_minute=7)
    named = [*headers, ("X-OpenWebUI-User-Id", "ann")]
    assert let_through(service, lambda n: named, 10) == 2
    assert let_through(service, lambda n: [*headers, ("X-OpenWebUI-User-Id", f"u{n}")], 20) == 5
    assert "the key 'kitchen' may send 7 requests a minute" in assert_error(
        chat(service, headers), 429, PATHS[0]
    )


def test_a_guest_may_have_a_few_requests_at_once(limited):
    service = limited(guest_concurrency=2, guest_rate_per_minute=0)
    endless = {"model": "echo", "prompt": "[[forever]] [[slow 5]]", "raw": True}
    held = [open_request(service, "/api/generate", endless, headers=guest()) for _ in range(2)]
    for connection in held:
        connection.recv(1)
    reply = chat(service, guest())
    assert "may have 2 requests at once" in assert_error(reply, 429, PATHS[0])
    assert int(reply.headers["Retry-After"]) >= 1
    assert send(service, "GET", "/api/tags", headers=guest()).status == 200
    assert chat(service, guest("192.168.1.51")).status == 200
    for connection in held:
        connection.close()
    wait_for(lambda: chat(service, guest()).status == 200)


def test_a_guest_may_not_have_the_memory_filled_with_context(limited):
    service = limited(guest_context=1024)
    big = {"options": {"num_ctx": 2048}}
    reply = chat(service, guest(), **big)
    assert "num_ctx is 2048, guests without a key may have 1024" in assert_error(reply, 403, "/api")
    embed = {"model": "echo", "input": "a", **big}
    assert send(service, "POST", "/api/embed", body=embed, headers=guest()).status == 403
    assert chat(service, guest(), options={"num_ctx": 1024}).status == 200
    assert chat(service, key(service), **big).status == 200


def test_a_spent_budget_comes_back_tomorrow_and_not_with_a_restart(limited, start_service):
    service = limited()
    headers = key(service, tokens_per_day=12)
    used = 0
    while (reply := chat(service, headers)).status == 200:
        used += reply.json["prompt_eval_count"] + reply.json["eval_count"]
        assert used < 1000
    for path in PATHS:
        text = assert_error(chat(service, headers, path), 429, path)
        assert f"'kitchen' used {used} tokens today, of 12 a day" in text
    reply = chat(service, headers, PATHS[1])
    assert reply.json["error"]["code"] == "budget_spent"
    assert 1 <= int(reply.headers["Retry-After"]) <= 86_400
    assert "00:00 by the box's clock" in reply.json["error"]["message"]
    assert [entry["tokens_today"] for entry in keys_listed(service)["keys"]] == [used]
    service.stop()
    again = start_service(state=service.state)
    assert chat(again, headers).status == 429
    assert [entry["tokens_today"] for entry in keys_listed(again)["keys"]] == [used]
    assert chat(again, key(again)).status == 200


def test_leaving_early_is_not_cheaper(limited):
    """Who closes each stream before its end is counted all the same."""
    service = limited()
    headers = key(service, tokens_per_day=20)
    body = {"model": "echo", "prompt": "[[forever]] [[slow 1]] one two three", "raw": True}
    for _ in range(3):
        with open_request(service, "/api/generate", body, headers=headers) as connection:
            connection.recv(1000)
    wait_for(lambda: chat(service, headers).status == 429)


def test_the_owner_sees_guests_and_what_they_use(limited):
    service = limited()
    chat(service, guest())
    chat(service, guest("fd00::1"))
    first, second = keys_listed(service)["guests"]
    assert first.keys() == {"address", "requests", "tokens", "last_seen_at"}
    assert {first["address"], second["address"]} == {"192.168.1.50", "fd00::/64"}
    assert (first["requests"], second["requests"]) == (1, 1)
    assert first["tokens"] > 0
    assert first["last_seen_at"].endswith("Z")
    assert send(service, "GET", "/hearth/v1/keys", headers=guest()).status == 401
    chat(service, key(service, tokens_per_day=500))
    screen = Command(service.url)("keys", "list").stdout
    assert re.search(r"kitchen +chat +all +\d+ of 500 ", screen), screen
    assert re.search(r"fd00::/64 +1 +\d+ ", screen), screen


def test_guests_share_a_budget_by_address(limited):
    service = limited(guest_tokens_per_day=4)
    assert chat(service, guest()).status == 200
    text = assert_error(chat(service, guest()), 429, PATHS[0])
    assert "this guest used" in text
    assert chat(service, guest("192.168.1.51")).status == 200


def test_of_200_streams_of_one_client_another_waits_for_one(limited):
    """The echo engine has eight slots; half of the queue is the most that one client fills."""
    service = limited(max_queue=64)
    chat(service)  # until the model is loaded there is one slot
    greedy, modest = key(service), key(service)
    endless = {"model": "echo", "prompt": "[[forever]] [[slow 2]]", "raw": True}
    streams = [open_request(service, "/api/generate", endless, headers=greedy) for _ in range(200)]

    def load():
        (model,) = service.call("GET", "/hearth/v1/status")[1]["models"]
        return model["running"], model["waiting"]

    wait_for(lambda: service.log.count("status=429") == 200 - 8 - 32)
    assert load() == (8, 32)
    other = open_request(service, "/api/chat", CHAT, headers=modest)
    wait_for(lambda: load() == (8, 33))
    running = [stream for stream in streams if has_begun(stream)]
    assert len(running) == 8
    running[0].close()
    answer = other.recv(100_000).decode()
    assert answer.startswith("HTTP/1.1 200")
    assert "X-Hearth-Queue-Position: 1\r\n" in answer
    assert json.loads(answer.splitlines()[-1])["done"]
    for stream in [*streams, other]:
        stream.close()
    wait_for(lambda: load() == (0, 0))


def has_begun(connection):
    """Whether a stream's head has come."""
    connection.setblocking(False)
    try:
        return connection.recv(100).startswith(b"HTTP/1.1 200")
    except BlockingIOError:
        return False
    finally:
        connection.setblocking(True)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
def test_a_page_cannot_change_the_box_with_what_a_form_could_send(limited, content_type):
    """Even one whose origin is let in: such a request comes without a preflight."""
    service = limited(allowed_origins="https://app.site")
    headers = [("Origin", "https://app.site")]
    headers += [("Content-Type", content_type)] if content_type else []
    for path, body in (
        ("/api/copy", {"source": "echo", "destination": "new"}),
        ("/hearth/v1/keys", {"name": "evil", "scopes": ["admin"]}),
        ("/hearth/v1/claim", {"code": "ABCD-EFGH"}),
    ):
        reply = send(service, "POST", path, body=body, headers=headers)
        assert "comes as application/json" in assert_error(reply, 400, path)
        assert reply.headers["Access-Control-Allow-Origin"] == "https://app.site"
    assert keys_listed(service)["keys"] == []
    right = [headers[0], ("Content-Type", "application/json; charset=utf-8")]
    body = {"source": "echo", "destination": "new"}
    assert send(service, "POST", "/api/copy", body=body, headers=right).status == 200
    assert chat(service, headers).status == 200  # apps may chat as they always could


@pytest.mark.parametrize("host", ["rebind.example", "192.168.1.99", "localhost.evil.example"])
def test_a_rebound_name_sees_no_answer_of_any_kind(limited, host):
    """Not of errors either: unknown paths, wrong methods, bad bodies, limits, preflights."""
    service = limited(guest_rate_per_minute=1)
    chat(service, guest())
    attempts = [
        ("GET", "/nothing", (), None),
        ("GET", "/api/nothing", (), None),
        ("PUT", "/api/chat", (), None),
        ("POST", "/api/chat", (), b"{"),
        ("POST", "/api/chat", guest(), CHAT),
        ("OPTIONS", "/api/chat", [("Origin", f"http://{host}")], None),
        ("GET", "/hearth/v1/me", [("Origin", f"http://{host}")], None),
        ("POST", "/api/chat", [("Expect", "nonsense")], CHAT),
        ("POST", "/hearth/v1/claim", (), {"code": "x"}),
    ]
    for method, path, headers, body in attempts:
        reply = send(service, method, path, headers=headers, body=body, host=host)
        assert reply.status == 403, (method, path)
        assert reply.headers["Server"] == "hearth"
        assert "Access-Control-Allow-Origin" not in reply.headers


def test_who_holds_a_body_back_is_refused_before_it_is_asked_for(limited):
    """`Expect: 100-continue`: only who passes the guard and the limits hears "go on"."""
    service = limited(guest_rate_per_minute=1)
    chat(service, guest())
    data = json.dumps(CHAT).encode()
    for headers, first in (
        (("Origin", "http://evil.example"), b"HTTP/1.1 403"),
        (guest()[0], b"HTTP/1.1 429"),
        (("X-Nothing", "1"), b"HTTP/1.1 100 Continue\r\n\r\n"),
    ):
        with connect(service) as connection:
            head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n{headers[0]}: {headers[1]}\r\n"
            head += f"Expect: 100-continue\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith(first)
            if b"100" in first:
                connection.sendall(data)
                assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_what_one_client_asked_is_not_in_anothers_cache(limited):
    """The count of cached tokens would tell; on the real engine."""
    service = limited(engine="llama", threads=1)
    body = {"model": "echo", "prompt": "a secret plan " * 5, "max_tokens": 1}

    def cached(headers):
        reply = send(service, "POST", "/v1/completions", body=body, headers=headers)
        return reply.json["usage"]["prompt_tokens_details"]["cached_tokens"]

    ann, bob = key(service), key(service)
    assert cached(ann) == 0
    assert cached(ann) > 0
    assert [cached(who) for who in (bob, guest(), guest("192.168.1.51"), ())] == [0, 0, 0, 0]
