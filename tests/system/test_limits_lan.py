"""A box and a greedy neighbour in two network namespaces: who is on the LAN, and what one gets.

Needs root. The namespaces, `limbox` and `limpeer`, are joined by a cable and hold real addresses:
an IPv6 prefix as a home gets it, of which the neighbour takes as many addresses as it likes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.library.library import Library
from tests.fakes.libraries import add_model
from tests.fakes.waiting import wait_for

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

BOX, PEER = "limbox", "limpeer"
BOX_4, PEER_4, OTHER_4 = "192.168.77.1", "192.168.77.2", "192.168.77.3"
PREFIX = "2001:db8:77:1::"
MANY = 24  # addresses of the neighbour
RATE = 3
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "stream": False}
CLIENT = Path(__file__).with_name("lan_client.py")
INSIDE = ["ip", "netns", "exec"]


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


@pytest.fixture(scope="module")
def lan():
    """Both namespaces with their addresses."""
    for name in (BOX, PEER):
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, timeout=10)
        ip("netns", "add", name)
    ip("link", "add", "lim0", "netns", BOX, "type", "veth", "peer", "name", "lim1", "netns", PEER)
    ours = {BOX: ("lim0", [f"{BOX_4}/24", f"{PREFIX}1/64"])}
    many = [f"{PREFIX}{n + 16:x}/64" for n in range(MANY)]
    ours[PEER] = ("lim1", [f"{PEER_4}/24", f"{OTHER_4}/24", *many])
    for name, (link, addresses) in ours.items():
        for address in addresses:
            extra = ["nodad"] if ":" in address else []
            ip("-n", name, "addr", "add", address, "dev", link, *extra)
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "set", link, "up")
    yield
    for name in (BOX, PEER):
        ip("netns", "del", name)


class LanBox:
    """The service in its namespace, and requests to it from both."""

    def __init__(self, state, host, **settings):
        environ = {k: v for k, v in os.environ.items() if not k.startswith("HEARTH_")}
        environ |= {"HEARTH_HOST": f"{host}:11434", "HEARTH_STATE": str(state)}
        environ |= {"HEARTH_ENGINE": "echo", "HEARTH_DISCOVERY": "off"}
        environ |= {f"HEARTH_{name.upper()}": str(value) for name, value in settings.items()}
        self.is_six = ":" in host
        self.url = f"http://[{PREFIX}1]:11434" if self.is_six else f"http://{BOX_4}:11434"
        self._log = state / "log"
        state.mkdir()
        add_model(Library(state / "models"), state, "echo")
        with self._log.open("wb") as log:
            command = [*INSIDE, BOX, sys.executable, "-m", "appliance", "serve"]
            self.process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        wait_for(lambda: "ready address=" in self.log)

    @property
    def log(self):
        return self._log.read_text()

    def ask(self, *wanted, inside=PEER):
        """The (status, headers, body) of each request, all sent at once."""
        requests = [{"url": self.url, "path": "/api/chat", **each} for each in wanted]
        done = subprocess.run(
            [*INSIDE, inside, sys.executable, str(CLIENT)], input=json.dumps(requests) + "\n",
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return json.loads(done.stdout)

    def statuses(self, *wanted):
        return [status for status, _, _ in self.ask(*wanted)]

    def hold(self, *wanted):
        """A process whose requests stay open; end it with `communicate`."""
        requests = [{"url": self.url, "is_held": True, **each} for each in wanted]
        process = subprocess.Popen(
            [*INSIDE, PEER, sys.executable, str(CLIENT)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        process.stdin.write(json.dumps(requests) + "\n")
        process.stdin.flush()
        return process

    def on_the_box(self, method, path, body=None):
        url = "http://[::1]:11434" if self.is_six else "http://127.0.0.1:11434"
        wanted = {"url": url, "method": method, "path": path}
        wanted |= {"body": body} if body is not None else {}
        ((status, _, text),) = self.ask(wanted, inside=BOX)
        assert status < 300, text
        return json.loads(text)

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture
def start_box(lan, tmp_path):
    started = []

    def start(host, **settings):
        box = LanBox(tmp_path / f"state{len(started)}", host, **settings)
        started.append(box)
        return box

    yield start
    for box in started:
        box.stop()
        print(box.log)


def chat(source, *headers):
    return {"source": source, "body": CHAT, "headers": headers}


def test_a_neighbour_chats_and_is_limited_by_address(start_box):
    box = start_box("0.0.0.0", guest_rate_per_minute=RATE, guest_concurrency=0)
    assert sorted(box.statuses(*[chat(PEER_4)] * 6)) == [200] * RATE + [429] * 3
    assert box.statuses(chat(OTHER_4)) == [200]
    assert box.statuses({"source": OTHER_4, "path": "/api/delete", "method": "DELETE"}) == [401]
    guests = box.on_the_box("GET", "/hearth/v1/keys")["guests"]
    assert {guest["address"] for guest in guests} == {PEER_4, OTHER_4}


def test_forwarded_headers_of_a_neighbour_are_no_passport(start_box):
    box = start_box("0.0.0.0", trusted_proxies=OTHER_4)
    spoofed = ("X-Forwarded-For", "127.0.0.1")
    assert box.statuses(chat(PEER_4), chat(PEER_4, spoofed), chat(OTHER_4, spoofed)) == [
        200, 401, 401,
    ]  # fmt: skip
    assert box.statuses(chat(OTHER_4, ("X-Forwarded-For", f"127.0.0.1, {PEER_4}"))) == [200]
    assert box.statuses(chat(OTHER_4, ("X-Forwarded-For", "203.0.113.9"))) == [401]


def test_rebinding_from_the_lan(start_box):
    box = start_box("0.0.0.0")
    for path in ("/", "/healthz", "/api/tags", "/nothing", "/hearth/v1/keys"):
        wanted = {"source": PEER_4, "method": "GET", "path": path, "host": "rebind.example"}
        ((status, headers, _),) = box.ask(wanted)
        assert status == 403
        assert headers["Server"] == "hearth"


def test_many_addresses_of_one_ipv6_network_are_a_few_guests(start_box):
    """A global prefix on a link is LAN; whoever takes many of its addresses gains little."""
    box = start_box("[::]", guest_rate_per_minute=RATE, guest_concurrency=0)
    greedy = [chat(f"{PREFIX}{n + 16:x}") for n in range(MANY)]
    assert sorted(box.statuses(*greedy)) == [200] * (4 * RATE) + [429] * (MANY - 4 * RATE)


def test_200_streams_of_a_neighbour_and_the_owner_is_next(start_box):
    box = start_box("0.0.0.0", guest_concurrency=0, guest_rate_per_minute=0, max_queue=40)
    secret = box.on_the_box("POST", "/hearth/v1/keys", {"name": "o", "scopes": ["chat"]})["secret"]
    endless = {"model": "echo", "prompt": "[[forever]] [[slow 2]]", "raw": True}
    stream = {"source": PEER_4, "path": "/api/generate", "body": endless}
    first = box.hold(*[stream] * 8)
    wait_for(lambda: load(box) == (8, 0))
    rest = box.hold(*[stream] * 192)
    wait_for(lambda: load(box) == (8, 20))
    owner = box.hold(chat(OTHER_4, ("Authorization", f"Bearer {secret}")) | {"path": "/api/chat"})
    wait_for(lambda: load(box) == (8, 21))
    first.communicate("\n", timeout=30)
    ((status, headers, _),) = json.loads(owner.stdout.readline())
    assert (status, headers["X-Hearth-Queue-Position"]) == (200, "1")
    for process in (owner, rest):
        process.terminate()
        process.communicate(timeout=30)


def load(box):
    models = box.on_the_box("GET", "/hearth/v1/status")["models"]
    return (models[0]["running"], models[0]["waiting"]) if models else (0, 0)
