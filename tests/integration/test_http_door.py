"""Hand-written bytes at the door: smuggling, floods, slowness, nonsense, on a LAN binding."""

import contextlib
import json
import re
import resource
import select
import time
from pathlib import Path

import pytest

from appliance.http.door import HERE_EXTRA
from tests.fakes.waiting import wait_for
from tests.integration.raw_http import connect, send

BODY = b'{"model":"nobody"}'
SHOW = b"POST /api/show HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = SHOW + b"Transfer-Encoding: chunked\r\n\r\n"


def length(value):
    return SHOW + b"Content-Length: " + value + b"\r\n\r\n" + BODY


def coding(value):
    return SHOW + b"Transfer-Encoding: " + value + b"\r\n\r\n12\r\n" + BODY + b"\r\n0\r\n\r\n"


MALFORMED = {
    "cl-te": SHOW + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "te-cl": SHOW + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two-lengths": SHOW + b"Content-Length: 18\r\nContent-Length: 0\r\n\r\n" + BODY + SMUGGLED,
    "same-length-twice": SHOW + b"Content-Length: 18\r\nContent-Length: 18\r\n\r\n" + BODY,
    "length-list": length(b"18, 18"),
    "length-plus": length(b"+18"),
    "length-negative": length(b"-1"),
    "length-hex": length(b"0x12"),
    "length-overflow": length(b"9" * 30),
    "te-unknown": coding(b"xchunked"),
    "te-identity": coding(b"identity"),
    "te-gzip": coding(b"gzip"),
    "te-not-last": coding(b"chunked, identity"),
    "te-twice": coding(b"chunked, chunked"),
    "te-two-fields": coding(b"chunked\r\nTransfer-Encoding: identity"),
    "te-tab": coding(b"\x0bchunked"),
    "te-nul": coding(b"chunked\x00"),
    "te-gzip-first": coding(b"gzip, chunked"),
    "te-http-1.0": coding(b"chunked").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "chunk-overflow": CHUNKED + b"fffffffffffffffff\r\n" + BODY,
    "chunk-negative": CHUNKED + b"-1\r\n" + BODY,
    "chunk-bare-lf": CHUNKED + b"12\n" + BODY + b"\n0\n\n" + SMUGGLED,
    "chunk-extension-lf": CHUNKED + b"12;a\n=b\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk-longer-than-said": CHUNKED + b"5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "obs-fold": GET + b"X-A: a\r\n b\r\n\r\n",
    "fold-first": b"GET / HTTP/1.1\r\n X: y\r\nHost: localhost\r\n\r\n",
    "bare-lf": GET.replace(b"\r\n", b"\n") + b"\n",
    "bare-cr": GET + b"X-A: a\rb\r\n\r\n",
    "name-space": GET + b"Transfer-Encoding : chunked\r\n\r\n",
    "host-space": b"GET / HTTP/1.1\r\nHost : evil.example\r\nHost: localhost\r\n\r\n",
    "two-hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    "no-colon": GET + b"Xabc\r\n\r\n",
    "nul-in-value": GET + b"X: a\x00b\r\n\r\n",
    "nul-in-path": b"GET /a\x00b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "lf-in-path": b"GET /a\nINFO ready HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "escape-in-path": b"GET /\x1b[31m HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "bytes-in-path": b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "http-1.2": b"GET / HTTP/1.2\r\nHost: localhost\r\n\r\n",
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http-0.9": b"GET /\r\n\r\n",
    "lower-case": b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no-method": b"HACK / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00" + b"a" * 100,
    "target-other-host": b"GET http://evil.example/api/tags HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "target-user": b"GET http://localhost@evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "target-scheme": b"GET ftp://x:y/api/version HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "target-authority": b"GET evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "target-star": b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "connect": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
}
TOO_LARGE = {
    "long-target": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "long-value": GET + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
    "long-name": GET + b"X" * 20_000 + b": a\r\n\r\n",
    "many-fields": GET + b"X: a\r\n" * 1000 + b"\r\n",
}


@pytest.fixture(scope="module")
def lan(module_service, tiny_gguf):
    """One service on every address; clients that wait are told within a second."""
    running = module_service(host="0.0.0.0:0", head_timeout_s=0.3, idle_timeout_s=0.6)
    running.create("echo", tiny_gguf)
    return running


def exchange(service, data):
    """Everything that the service answers to `data` until it closes."""
    with connect(service) as connection:
        connection.sendall(data)
        return read_all(connection)


def read_all(connection):
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


def parse(answer):
    """(status, headers, JSON body) of the only answer in these bytes."""
    assert len(re.findall(rb"HTTP/\d\.\d \d{3} ", answer)) == 1, answer
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    return int(first.split()[1]), dict(f.split(": ", 1) for f in fields), json.loads(body)


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_a_request_gets_one_clear_error(lan, name):
    before = len(lan.log)
    status, headers, body = parse(exchange(lan, MALFORMED[name]))
    log = lan.log[before:]
    assert status == 400
    assert body["code"] in {"malformed_http", "bad_request"}
    assert headers["Server"] == "hearth"
    assert headers["Content-Type"].startswith("application/json")
    assert "Traceback" not in log
    assert "smuggled" not in log
    assert "\nINFO ready HTTP" not in log
    assert log.count("request method=") == 1


@pytest.mark.parametrize("name", TOO_LARGE)
def test_heads_over_a_limit_are_told_which(lan, name):
    status, _, body = parse(exchange(lan, TOO_LARGE[name]))
    assert status == 431
    assert body["code"] == "head_too_large"
    assert "8190 bytes" in body["error"] or "128 fields" in body["error"]


def test_a_head_without_end_is_cut(lan):
    """Field after field within their own limits; the connection is not held for the rest."""
    with connect(lan) as connection:
        connection.sendall(GET)
        with contextlib.suppress(ConnectionError):
            for number in range(100):
                connection.sendall(b"X-%d: %s\r\n" % (number, b"a" * 4000))
        read_all(connection)  # the answer may be lost, as more was sent than was read
    assert lan.log.count("error=head_too_large") >= 1


def test_broken_chunks_after_a_good_head_are_the_clients_fault(lan):
    """The handler waits for the body already, as its invitation shows."""
    with connect(lan) as connection:
        head = CHUNKED.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
        connection.sendall(head)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"2\r\n{}zz\r\n")
        status, _, body = parse(read_all(connection))
    assert (status, body["code"]) == (400, "malformed_http")


@pytest.mark.parametrize("te", [b"chunked", b"Chunked", b" chunked "])
def test_honest_chunks_pass(lan, te):
    status, _, body = parse(exchange(lan, coding(te)))
    assert (status, body["code"]) == (404, "model_not_found")


def test_trailers_are_not_header_fields(lan):
    """Neither a second Host nor a length changes what the request was admitted as."""
    data = CHUNKED + b"12\r\n" + BODY + b"\r\n0\r\nOrigin: null\r\nX-A: b\r\n\r\n"
    assert parse(exchange(lan, data))[2]["code"] == "model_not_found"


def test_chunk_extensions_and_own_absolute_targets_pass(lan):
    data = CHUNKED + b"12;name=value\r\n" + BODY + b"\r\n0\r\n\r\n"
    assert parse(exchange(lan, data))[2]["code"] == "model_not_found"
    own = b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert parse(exchange(lan, own))[0] == 200


def test_absolute_targets_cannot_go_round_the_host_rule(lan):
    data = b"GET http://evil.example/api/tags HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    status, _, body = parse(exchange(lan, data))
    assert status == 403
    assert "models" not in body


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "TRACK"])
def test_methods_that_we_have_not(lan, method):
    data = f"{method} / HTTP/1.1\r\nHost: localhost\r\nX-Secret: 7\r\n\r\n".encode()
    answer = exchange(lan, data)
    assert parse(answer)[0] in {400, 405}
    assert b"X-Secret" not in answer


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"TLS/1.0"])
def test_upgrades_are_declined_and_nothing_is_smuggled_behind_them(lan, protocol):
    ask = GET + b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
    answer = exchange(lan, ask + GET + b"\r\n")
    assert b" 101 " not in answer
    assert answer.count(b"HTTP/1.1 200") in {1, 2}


def test_a_body_is_asked_for_only_when_the_caller_is_admitted(lan):
    ask = b"Expect: 100-continue\r\nContent-Length: 18\r\n\r\n"
    with connect(lan) as connection:
        connection.sendall(SHOW + ask)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert b"model_not_found" in connection.recv(2000)
    stranger = SHOW.replace(b"localhost", b"evil.example")
    assert parse(exchange(lan, stranger + ask))[0] == 403
    page = SHOW + b"Origin: http://evil.example\r\n"
    assert parse(exchange(lan, page + ask))[0] == 403


def test_other_expectations_are_refused(lan):
    data = SHOW + b"Expect: 200-maybe\r\nContent-Length: 18\r\n\r\n" + BODY
    status, _, body = parse(exchange(lan, data))
    assert (status, body["code"]) == (417, "bad_expectation")


def test_the_body_of_a_head_request_is_not_the_next_request(lan):
    data = SMUGGLED
    ask = b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data)
    before = len(lan.log)
    answer = exchange(lan, ask + data)
    assert answer.count(b"HTTP/1.1 200") == 1
    assert b"smuggled" not in answer
    assert "smuggled" not in lan.log[before:]


def test_a_pipelined_flood_is_answered_in_order(lan):
    answer = exchange(lan, (GET + b"\r\n") * 1000)
    assert answer.count(b"HTTP/1.1 200") == 1000


def test_slow_heads_are_ended(lan):
    """One byte at a time keeps nobody's place: the time counts from the first byte."""
    with connect(lan) as connection:
        connection.settimeout(0.05)
        answer, slowly = b"", iter(GET[i : i + 1] for i in range(len(GET)))
        deadline = time.monotonic() + 20
        with contextlib.suppress(ConnectionError):
            while not answer and time.monotonic() < deadline:
                connection.send(next(slowly))
                with contextlib.suppress(TimeoutError):
                    answer = connection.recv(2000)
    status, _, body = parse(answer)
    assert (status, body["code"]) == (408, "head_timeout")


def test_a_second_head_has_its_own_time(lan):
    with connect(lan) as connection:
        connection.sendall(GET + b"\r\n" + GET)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200")


def test_silent_and_idle_connections_are_closed(lan):
    with connect(lan) as silent, connect(lan) as idle:
        idle.sendall(GET + b"\r\n")
        assert idle.recv(2000).startswith(b"HTTP/1.1 200")
        assert idle.recv(2000) == b""
        assert read_all(silent) == b""


def test_stalled_bodies_are_told(start_service):
    quick = start_service(host="0.0.0.0:0", write_timeout_s=0.3)
    stalled = SHOW + b"Content-Length: 18\r\n\r\n{"
    status, _, body = parse(exchange(quick, stalled))
    assert (status, body["code"]) == (408, "body_timeout")


def test_bodies_together_have_a_limit(start_service):
    """Each is within its own; a LAN full of clients cannot fill the memory with them."""
    strict = start_service(host="0.0.0.0:0", max_body_mib=1)
    size = 1024 * 1000
    ask = SHOW + b"Content-Length: %d\r\n\r\n" % (size + 1)
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(connect(strict)) for _ in range(5)]
        for sender in senders:
            sender.sendall(ask + b" " * size)
        (refused,), _, _ = select.select(senders, [], [], 30)  # whichever came last
        answer = refused.recv(2000)
    status, headers, body = parse(answer)
    assert (status, body["code"]) == (503, "overloaded")
    assert headers["Retry-After"]
    wait_for(lambda: send(strict, "POST", "/api/show", body=BODY).status == 404)


def test_bombs_are_refused_before_they_are_unpacked(lan):
    data = SHOW + b"Content-Encoding: gzip\r\nContent-Length: 18\r\n\r\n" + BODY
    status, _, body = parse(exchange(lan, data))
    assert status == 400
    assert "uncompressed" in body["error"]


@pytest.mark.parametrize("opening", [b"", GET, SHOW + b"Content-Length: 18\r\n\r\n{"],
                         ids=["silent", "head", "body"])  # fmt: skip
def test_the_longest_idle_makes_room(start_service, opening):
    """More connections than there are places, none of them with a whole request."""
    small = start_service(host="0.0.0.0:0", max_connections=16)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(small)) for _ in range(60)]
        for connection in held:
            with contextlib.suppress(ConnectionError):
                connection.sendall(opening)
        for _ in range(5):
            assert send(small, "GET", "/healthz").status == 200
        closed = select.select(held, [], [], 0)[0]  # nothing is sent to them but the end
        assert len(closed) >= 60 - 16 - HERE_EXTRA


def test_running_out_of_files_is_survived(start_service):
    service = start_service(host="0.0.0.0:0", head_timeout_s=30)
    pid = service.process.pid
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (files + 10, files + 10))
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connect(service))
        wait_for(lambda: "no further connection can be opened" in service.log)
    assert send(service, "GET", "/healthz").status == 200
    assert service.log.count("no further connection") == 1
    assert "Traceback" not in service.log


def test_who_never_reads_is_let_go(start_service):
    """Answers that nobody takes hold a connection no longer than write_timeout_s."""
    service = start_service(host="0.0.0.0:0", write_timeout_s=1)
    folder = Path(f"/proc/{service.process.pid}/fd")
    before = len(list(folder.iterdir()))
    with connect(service, receive_buffer=4096) as deaf:
        deaf.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            for _ in range(200):
                deaf.sendall((GET + b"\r\n") * 100)
        wait_for(lambda: len(list(folder.iterdir())) > before)
        wait_for(lambda: len(list(folder.iterdir())) <= before)
    assert send(service, "GET", "/healthz").status == 200
