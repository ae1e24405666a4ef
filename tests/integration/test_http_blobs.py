"""Uploads of blobs: stored when right, and nothing left behind when not."""

import hashlib
import os
import resource

import pytest

from tests.fakes.waiting import wait_for
from tests.integration.raw_http import assert_error, connect, send

DATA = os.urandom(300_000)


def digest_of(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def files(service):
    return sorted(path.name for path in (service.state / "models" / "blobs").iterdir())


@pytest.fixture
def before(service):
    """The files in the store before the test, which must be those after it."""
    found = files(service)
    yield found
    assert files(service) == found


def head_of(service, digest, size):
    port = service.url.rsplit(":", 1)[1]
    lines = [f"POST /api/blobs/{digest} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    return "\r\n".join([*lines, f"Content-Length: {size}", "", ""]).encode()


def test_probe_upload_and_upload_again(start_service):
    service = start_service()
    path = f"/api/blobs/{digest_of(DATA)}"
    assert send(service, "HEAD", path).status == 404
    created = send(service, "POST", path, body=DATA)
    assert (created.status, created.content) == (201, b"")
    assert send(service, "HEAD", path).status == 200
    assert send(service, "POST", path, body=DATA).status == 200
    (name,) = [name for name in files(service) if name == path.rsplit("/", 1)[1].replace(":", "-")]
    assert (service.state / "models" / "blobs" / name).read_bytes() == DATA


def test_both_forms_of_a_digest_are_one(start_service):
    service = start_service()
    digest = digest_of(DATA)
    assert send(service, "POST", f"/api/blobs/{digest.replace(':', '-')}", body=DATA).status == 201
    assert send(service, "HEAD", f"/api/blobs/{digest}").status == 200


def test_an_upload_of_unknown_length(start_service):
    service = start_service()
    headers = [("Transfer-Encoding", "chunked")]
    half = len(DATA) // 2
    pieces = (DATA[:half], DATA[half:], b"")
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    with connect(service) as connection:
        head = head_of(service, digest_of(DATA), 0).replace(
            b"Content-Length: 0", ": ".join(headers[0]).encode()
        )
        connection.sendall(head + chunks)
        assert connection.recv(12) == b"HTTP/1.1 201"


@pytest.mark.usefixtures("before")
def test_a_wrong_digest_leaves_nothing(service):
    wrong = digest_of(b"other")
    reply = send(service, "POST", f"/api/blobs/{wrong}", body=DATA)
    text = assert_error(reply, 400, "/api/blobs")
    assert text == f'digest mismatch, expected "{wrong}", got "{digest_of(DATA)}"'
    assert send(service, "HEAD", f"/api/blobs/{wrong}").status == 404
    assert send(service, "HEAD", f"/api/blobs/{digest_of(DATA)}").status == 404


def test_a_client_that_leaves_in_the_middle_leaves_nothing(service, before):
    with connect(service) as connection:
        connection.sendall(head_of(service, digest_of(DATA), len(DATA)) + DATA[: len(DATA) // 2])
        wait_for(lambda: files(service) != before)
    wait_for(lambda: files(service) == before)


def test_a_client_that_stalls_is_told_and_leaves_nothing(start_service):
    service = start_service(write_timeout_s=0.3)
    before = files(service)
    with connect(service) as connection:
        connection.sendall(head_of(service, digest_of(DATA), len(DATA)) + DATA[:1000])
        assert connection.recv(12) == b"HTTP/1.1 408"
    assert files(service) == before


@pytest.mark.usefixtures("before")
def test_a_size_over_the_limit_is_refused_before_it_comes(service):
    with connect(service) as connection:
        connection.sendall(head_of(service, digest_of(b"huge"), 129 * 1024**3))
        assert connection.recv(12) == b"HTTP/1.1 413"


@pytest.mark.usefixtures("before")
def test_a_size_over_the_disk_is_refused_before_it_comes(service):
    with connect(service) as connection:
        connection.sendall(head_of(service, digest_of(b"huge"), 100 * 1024**3))
        answer = connection.recv(12)
    free = os.statvfs(service.state)
    if free.f_bavail * free.f_frsize > 100 * 1024**3:
        pytest.skip("this disk really has 100 GiB free")
    assert answer == b"HTTP/1.1 507"


def test_a_disk_that_fills_up_leaves_nothing(start_service):
    """The service may write files of 100 kB and no more, which it meets like a full disk."""
    service = start_service()
    before = files(service)
    limit = 100_000
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    reply = send(service, "POST", f"/api/blobs/{digest_of(DATA)}", body=DATA)
    assert "no space left" in assert_error(reply, 507, "/api/blobs")
    assert files(service) == before
    assert send(service, "GET", "/api/version").status == 200
