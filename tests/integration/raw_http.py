"""Requests as an attacker writes them: any header, any number of times, any bytes."""

import http.client
import json
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from appliance.http.errors import VLLM_PATHS

TIMEOUT_S = 30


@dataclass
class Reply:
    """An answer, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def json(self):
        return json.loads(self.content)

    @property
    def lines(self):
        """The objects of an NDJSON body."""
        return [json.loads(line) for line in self.content.splitlines()]

    @property
    def events(self):
        """The data of an SSE body, as text."""
        parts = self.content.decode().split("\n\n")
        assert parts.pop() == ""
        assert all(part.startswith("data: ") for part in parts)
        return [part.removeprefix("data: ") for part in parts]


def send(service, method, path, *, body=None, headers=(), host="own"):
    """One request; `host` "own" is the right Host header, None is none."""
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=TIMEOUT_S)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        if host is not None:
            connection.putheader("Host", f"127.0.0.1:{address.port}" if host == "own" else host)
        for name, value in headers:
            connection.putheader(name, value)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None:
            connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def connect(service, *, receive_buffer=None):
    """A connection on which nothing was sent."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(TIMEOUT_S)
    connection.connect(("127.0.0.1", urlsplit(service.url).port))
    return connection


def open_request(service, path, body, *, headers=(), receive_buffer=None):
    """A socket on which the request has been sent and nothing was read."""
    connection = connect(service, receive_buffer=receive_buffer)
    port = connection.getpeername()[1]
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(data)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers)
    connection.sendall(f"{head}\r\n".encode() + data)
    return connection


def assert_error(reply, status, path):
    """The one shape of errors per dialect; returns the message."""
    assert reply.status == status, reply.content[:500]
    assert reply.headers["Content-Type"].startswith("application/json")
    error = reply.json["error"]
    if path.startswith("/v1/messages"):
        assert reply.json.keys() == {"type", "error", "request_id"}
        assert reply.json["type"] == "error"
        assert error.keys() == {"type", "message"}
        assert reply.json["request_id"] == reply.headers["request-id"]
        error = error["message"]
    elif path.startswith("/v1/") or path in VLLM_PATHS:
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["type"]
        assert error["code"]
        error = error["message"]
    else:
        assert reply.json.keys() <= {"error", "code", "hint"}
        assert reply.json["code"]
    assert isinstance(error, str)
    assert error
    assert "Traceback" not in error
    return error
