"""Attacks on the door: rebinding, forged headers, foreign pages, proxies, strangers who administer.

After reference/ollama.md 8 and reference/appliance.md 4.3, on loopback and on a LAN binding.
"""

import socket

import pytest

from tests.integration.raw_http import assert_error, connect, send

PAGES = ["/", "/healthz", "/readyz", "/api/version", "/api/tags", "/v1/models", "/nothing"]
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}], "stream": False}
CHANGES = [
    ("POST", "/api/create", {"model": "new", "from": "echo"}),
    ("POST", "/api/copy", {"source": "echo", "destination": "new"}),
    ("DELETE", "/api/delete", {"model": "echo"}),
    ("POST", f"/api/blobs/sha256:{'0' * 64}", b"x"),
    ("HEAD", f"/api/blobs/sha256:{'0' * 64}", None),
    ("POST", "/hearth/v1/scrub", {}),
    ("POST", "/api/generate", {"model": "echo", "keep_alive": 0}),
    ("POST", "/api/chat", {"model": "echo", "keep_alive": 0}),
]
FORWARDED = [
    ("Forwarded", "for=203.0.113.9"),
    ("X-Forwarded-For", "127.0.0.1"),
    ("Via", "1.1 tunnel"),
    ("CF-Connecting-IP", "203.0.113.9"),
    ("X-Real-IP", "127.0.0.1"),
]


@pytest.fixture(params=["127.0.0.1:0", "0.0.0.0:0"], ids=["loopback", "lan"])
def bound(request, start_service, service):
    """The service of this file on loopback, and one that listens on every address."""
    return service if request.param.startswith("127") else start_service(host=request.param)


def assert_unchanged(service):
    """The model is still there and nothing was added."""
    names = [model["name"] for model in send(service, "GET", "/api/tags").json["models"]]
    assert "echo:latest" in names
    assert "new:latest" not in names


def test_rebound_names_see_nothing(bound):
    for path in PAGES:
        for host in ("evil.example", "evil.example:11434", "localhost.evil.example", "10.9.8.7"):
            reply = send(bound, "GET", path, host=host)
            text = assert_error(reply, 403, path)
            assert "not one of this box's names" in text
            assert "models" not in reply.json


def test_missing_and_doubled_hosts(bound):
    for path in PAGES:
        assert send(bound, "GET", path, host=None).status == 400
        assert send(bound, "GET", path, headers=[("Host", "evil.example")]).status == 400


def test_own_names_pass(bound):
    hostname = socket.gethostname().partition(".")[0]
    for host in ("localhost", "127.0.0.1", "[::1]:1", hostname, f"{hostname}.local", "LOCALHOST"):
        assert send(bound, "GET", "/api/tags", host=host).status == 200


def test_names_from_the_settings_pass(start_service):
    named = start_service(allowed_hosts="models.site")
    assert send(named, "GET", "/api/tags", host="models.site:80").status == 200
    assert send(named, "GET", "/api/tags", host="www.models.site").status == 403


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "https://evil.example:443"])
def test_foreign_pages_are_refused_before_anything_happens(service, origin):
    """A form or a no-cors fetch needs no preflight: the request is sent and would act."""
    headers = [("Origin", origin), ("Content-Type", "text/plain")]
    for method, path, body in [*CHANGES, ("POST", "/api/chat", CHAT), ("GET", "/api/tags", None)]:
        reply = send(service, method, path, body=body, headers=headers)
        assert reply.status == 403
        assert "Access-Control-Allow-Origin" not in reply.headers
    assert_unchanged(service)


def test_a_foreign_page_is_refused_before_its_body_is_read(service):
    """The announced gigabyte never comes, and the answer does not wait for it."""
    headers = [("Origin", "http://evil.example"), ("Content-Length", str(10**9))]
    assert send(service, "POST", "/api/chat", headers=headers).status == 403


def test_a_cross_site_fetch_is_refused(service):
    headers = [("Sec-Fetch-Site", "cross-site")]
    assert send(service, "GET", "/api/tags", headers=headers).status == 403


def test_preflights_of_permitted_pages_only(service):
    asks = [("Access-Control-Request-Method", "POST")]
    good = send(
        service, "OPTIONS", "/api/chat", headers=[("Origin", "http://localhost:3000"), *asks]
    )
    evil = send(service, "OPTIONS", "/api/chat", headers=[("Origin", "http://evil.example"), *asks])
    assert good.status == 204
    assert good.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert "POST" in good.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in good.headers["Access-Control-Allow-Headers"]
    assert evil.status == 403
    assert "Access-Control-Allow-Origin" not in evil.headers


def test_permitted_pages_may_read_answers_errors_and_streams(service):
    origin = [("Origin", "http://localhost:3000")]
    for path, body in (
        ("/api/chat", CHAT),
        ("/api/chat", CHAT | {"stream": True}),
        ("/api/chat", {"model": "nobody"}),
    ):
        reply = send(service, "POST", path, body=body, headers=origin)
        assert reply.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
        assert reply.headers["Vary"] == "Origin"


def test_origins_from_the_settings_pass(start_service):
    open_to = start_service(allowed_origins="https://app.site")
    assert send(open_to, "GET", "/api/tags", headers=[("Origin", "https://app.site")]).status == 200
    assert (
        send(open_to, "GET", "/api/tags", headers=[("Origin", "https://app.other")]).status == 403
    )


@pytest.mark.parametrize("origin", ["app://obsidian.md", "vscode-webview://1", "tauri://localhost"])
def test_apps_may_infer_but_change_nothing(service, origin):
    headers = [("Origin", origin)]
    assert send(service, "POST", "/api/chat", body=CHAT, headers=headers).status == 200
    for method, path, body in CHANGES:
        assert send(service, method, path, body=body, headers=headers).status == 403
    assert_unchanged(service)


@pytest.mark.parametrize("header", FORWARDED, ids=lambda header: header[0])
def test_what_came_through_a_proxy_needs_a_key(service, header):
    uses = [("POST", "/api/chat", CHAT), ("GET", "/api/tags", None)]
    for method, path, body in [*uses, *CHANGES]:
        reply = send(service, method, path, body=body, headers=[header])
        assert reply.status == 401
        assert reply.headers["WWW-Authenticate"] == 'Bearer realm="hearth"'
        if method != "HEAD":
            assert_error(reply, 401, path)
            assert "hearth" in reply.json["hint"]
    assert_unchanged(service)


def test_log_lines_cannot_be_forged(service):
    path = "/api/nothing%0AINFO%20ready%20address=http://evil"
    assert send(service, "GET", path).status == 404
    body = {"model": "x\nINFO ready address=http://evil", "prompt": "hi"}
    assert send(service, "POST", "/api/generate", body=body).status == 404
    assert not any(
        line.startswith("INFO ready address=http://evil") for line in service.log.splitlines()
    )
    assert "\nINFO ready address=http://evil" not in service.log


def test_answers_do_not_say_what_they_are_made_of(service):
    reply = send(service, "GET", "/")
    assert reply.headers["Server"] == "hearth"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


def test_junk_on_the_socket_disturbs_nobody(service):
    for junk in (b"\x16\x03\x01\x00\xa5junk", b"GET\r\n\r\n", b"\x00" * 1000, b"A" * 70_000):
        with connect(service) as connection:
            connection.sendall(junk)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)
    assert send(service, "GET", "/api/version").status == 200
