"""One client on the LAN that takes every connection it can get, and the others beside it.

Needs root: the box and its neighbours are in two network namespaces with a cable between them,
because limits per address do not count for the machine itself.
"""

import contextlib
import ctypes
import json
import re
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from tests.fakes.loop_disk import require_root
from tests.fakes.waiting import wait_for

pytestmark = pytest.mark.system

BOX, PEER = "tlsbox", "tlspeer"
BOX_4, FLOODER, NEIGHBOUR = "192.168.77.1", "192.168.77.2", "192.168.77.3"
PER_ADDRESS = 12


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


def remove():
    for name in (BOX, PEER):
        subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=10)


@pytest.fixture(scope="module")
def lan():
    require_root("ip")
    remove()
    for name in (BOX, PEER):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("link", "add", "tls0", "netns", BOX, "type", "veth", "peer", "name", "tls1", "netns", PEER)
    for name, link, addresses in (
        (BOX, "tls0", [BOX_4]),
        (PEER, "tls1", [FLOODER, NEIGHBOUR]),
    ):
        for address in addresses:
            ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
        ip("-n", name, "link", "set", link, "up")
    yield
    remove()


@pytest.fixture
def start_box(lan, start_service):
    """Starts a service in the box's namespace; its port there."""

    def start(**settings):
        service = inside(BOX, lambda: start_service(host="0.0.0.0:0", **settings))
        return service, int(service.url.rpartition(":")[2])

    return start


def inside(name, function):
    """What `function` returns when it runs in the namespace `name`."""
    found = []

    def work():
        with Path(f"/run/netns/{name}").open() as namespace:
            assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) == 0
        found.append(function())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


def knock(port, source, namespace=PEER):
    """A connection from `source` on which nothing was sent."""
    host = BOX_4 if namespace == PEER else "127.0.0.1"
    where = (source, 0) if source else None
    return inside(namespace, lambda: socket.create_connection((host, port), 20, where))


def get(connection):
    """The answer to GET /healthz on a connection; empty when it was closed."""
    host = connection.getpeername()[0]
    with contextlib.suppress(ConnectionError):
        connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = connection.recv(4000)
    return answer


def test_one_address_cannot_take_all_places(start_box):
    service, port = start_box(max_connections_per_address=PER_ADDRESS)
    with contextlib.ExitStack() as stack:

        def enter(source, namespace=PEER):
            return stack.enter_context(knock(port, source, namespace))

        held = [enter(FLOODER) for _ in range(PER_ADDRESS)]
        wait_for(lambda: b" 200 " in get(held[-1]))
        refused = enter(FLOODER).recv(4000)  # without having asked
        assert b" 503 " in refused
        assert b"Retry-After: " in refused
        assert (
            f"{PER_ADDRESS} from {FLOODER}"
            in json.loads(refused.partition(b"\r\n\r\n")[2])["error"]
        )
        assert b" 200 " in get(enter(NEIGHBOUR))
        assert b" 200 " in get(enter(None, BOX))
        held[0].close()
        wait_for(lambda: b" 200 " in get(enter(FLOODER)))
    assert service.log.count("connections are refused") == 1  # not a line for each


def test_a_flood_of_refused_connections_leaves_the_others_alone(start_box):
    service, port = start_box(max_connections_per_address=PER_ADDRESS)
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(knock(port, FLOODER))
        for _ in range(20):
            with knock(port, NEIGHBOUR) as connection:
                assert b" 200 " in get(connection)
    assert "Traceback" not in service.log


def test_handshakes_count_too(start_box):
    """Connections over TLS are counted before their handshake, and a quarter of them is allowed."""
    service, _ = start_box(max_connections_per_address=PER_ADDRESS, tls="on", tls_port=0)
    port = int(re.search(r"https port=(\d+)", service.log)[1])
    context = ssl.create_default_context(cafile=str(service.state / "tls/ca.crt"))
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(knock(port, FLOODER)) for _ in range(PER_ADDRESS)]
        closed = silent[PER_ADDRESS // 4 :]
        for connection in closed:
            assert connection.recv(100) == b""
        plain = stack.enter_context(knock(port, NEIGHBOUR))
        with context.wrap_socket(plain, server_hostname=BOX_4) as secure:
            assert b" 200 " in get(secure)
