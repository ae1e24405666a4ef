"""A box on 0.0.0.0 and a stranger on its LAN, in two network namespaces with a cable between them.

Needs root. Real addresses of both families: the neighbour's phone has a global IPv6 address of the
home's own prefix, as in life.
"""

import ctypes
import hashlib
import http.client
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from appliance.http.app import all_routes
from tests.fakes.loop_disk import require_root
from tests.fakes.waiting import wait_for

pytestmark = pytest.mark.system

BOX, PEER = "accbox", "accpeer"
BOX_4, PEER_4, STRANGER_4 = "192.168.78.1", "192.168.78.2", "198.51.100.2"
BOX_6, PEER_6 = "2001:db8:78:1::1", "2001:db8:78:1::2"
PORTS = itertools.count(11434)
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "stream": False}
START_S = 30


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


def remove():
    for name in (BOX, PEER):
        subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=10)


@pytest.fixture(scope="module")
def lan():
    """Both namespaces, with a cable and addresses."""
    require_root("ip")
    remove()
    for name in (BOX, PEER):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("link", "add", "acc0", "netns", BOX, "type", "veth", "peer", "name", "acc1", "netns", PEER)
    for name, link, addresses in (
        (BOX, "acc0", [f"{BOX_4}/24", f"{BOX_6}/64"]),
        (PEER, "acc1", [f"{PEER_4}/24", f"{STRANGER_4}/24", f"{PEER_6}/64"]),
    ):
        for address in addresses:
            ip("-n", name, "addr", "add", address, "dev", link, *(["nodad"] * (":" in address)))
        ip("-n", name, "link", "set", link, "up")
    ip("-n", BOX, "route", "add", "198.51.100.0/24", "via", PEER_4)  # the world behind a router
    ip("-n", PEER, "route", "add", "192.168.79.0/24", "dev", "acc1")
    yield
    remove()


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


class Box:
    """`hearth serve` in its namespace; `ask` sends as the neighbour does."""

    def __init__(self, state, listen="0.0.0.0", **settings):
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTH_", "OLLAMA_"))}
        self.port = next(PORTS)
        settings = {"host": f"{listen}:{self.port}", **settings}
        environ |= {"HEARTH_ENGINE": "echo", "HEARTH_STATE": str(state), "HEARTH_DISCOVERY": "off"}
        environ |= {"HEARTH_MEMORY_RESERVE_MIB": "64", "HEARTH_REGISTRY": "http://127.0.0.1:1"}
        environ |= {f"HEARTH_{name.upper()}": value for name, value in settings.items()}
        state.mkdir(parents=True, exist_ok=True)
        self.log_path = state / "service.log"
        command = ["ip", "netns", "exec", BOX, sys.executable, "-m", "appliance", "serve"]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        wait_for(lambda: "ready address=" in self.log_path.read_text(), START_S)

    def ask(self, method, path, body=None, *headers, source=PEER_4, to=BOX_4, namespace=PEER):
        """(status, JSON) of one request from the neighbour."""

        def send():
            connection = http.client.HTTPConnection(to, self.port, 30, source_address=(source, 0))
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, dict(headers))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            return answer.status, json.loads(content) if content[:1] == b"{" else content

        return inside(namespace, send)

    def here(self, method, path, body=None):
        """The same from the box itself."""
        return self.ask(method, path, body, source="127.0.0.1", to="127.0.0.1", namespace=BOX)

    def create(self, gguf):
        data = Path(gguf).read_bytes()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

        def upload():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, 30)
            connection.request("POST", f"/api/blobs/{digest}", data)
            assert connection.getresponse().status == 201
            connection.close()

        inside(BOX, upload)
        made = {"model": "echo", "files": {"m.gguf": digest}, "stream": False}
        assert self.here("POST", "/api/create", made)[0] == 200

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture
def start(lan, tmp_path):
    boxes = []

    def started(name="box", **settings):
        boxes.append(Box(tmp_path / name, **settings))
        return boxes[-1]

    yield started
    for box in boxes:
        box.stop()
        print(box.log_path.read_text())


@pytest.fixture(scope="module")
def box(lan, tmp_path_factory, tiny_gguf):
    running = Box(tmp_path_factory.mktemp("accbox"))
    running.create(tiny_gguf)
    yield running
    running.stop()
    print(running.log_path.read_text())


def changing():
    """Every route that is sent something and does not only infer, and those that tell secrets."""
    harmless = ("generate", "chat", "embed", "show", "completions", "messages", "responses")
    harmless += ("rerank", "score", "tokenize", "transcriptions", "/claim")
    refusing = ("/api/me", "/api/signout", "/api/user/", "/api/experimental/")  # ollama.com's
    for route in all_routes():
        path = route.path.replace("{digest}", f"sha256:{'0' * 64}").replace("{id}", "abc")
        tells = any(word in path for word in ("/keys", "/pair", "/audit", "/doctor", "/why"))
        changes = route.method not in {"GET", "HEAD"} or "/api/blobs/" in path
        if path.startswith(refusing):
            continue
        if tells or (changes and not any(word in path for word in harmless)):
            yield route.method, path


def test_a_guest_chats_and_lists(box):
    assert box.ask("POST", "/api/chat", CHAT)[0] == 200
    assert box.ask("POST", "/v1/chat/completions", CHAT)[0] == 200
    assert box.ask("GET", "/api/tags")[1]["models"][0]["name"] == "echo:latest"
    assert box.ask("GET", "/hearth/v1/me")[1]["ring"] == "lan"
    dummy = ("Authorization", "Bearer ollama")
    assert box.ask("POST", "/api/chat", CHAT, dummy)[0] == 200


def test_a_guest_reaches_nothing_that_changes_the_box(box):
    before = box.here("GET", "/api/tags")[1]
    reached = []
    for method, path in changing():
        body = {"model": "echo", "source": "echo", "destination": "new", "name": "echo"}
        status, answer = box.ask(method, path, body)
        if status != 401:
            reached.append((method, path, status))
        elif method != "HEAD":
            assert "hearth" in answer["hint"]
    assert reached == []
    assert len(list(changing())) > 20
    unload = {"model": "echo", "keep_alive": 0}
    for path in ("/api/generate", "/api/chat"):
        assert box.ask("POST", path, unload)[0] == 401
    assert box.here("GET", "/api/tags")[1] == before


def test_a_guest_on_a_page_or_behind_a_proxy_reaches_less(box):
    for header in (("Origin", "null"), ("Origin", "http://evil.example"), ("Host", "evil.example")):
        assert box.ask("POST", "/api/chat", CHAT, header)[0] == 403
    for name in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "CF-Ray"):
        status, answer = box.ask("POST", "/api/chat", CHAT, (name, "127.0.0.1"))
        assert status == 401
        assert "through a proxy" in answer["error"]


def test_who_is_not_on_our_link_needs_a_key(box):
    status, answer = box.ask("POST", "/api/chat", CHAT, source=STRANGER_4)
    assert status == 401
    assert "outside" in answer["error"]
    wanted = {"name": "away", "scopes": ["chat"]}
    token = box.here("POST", "/hearth/v1/keys", wanted)[1]["secret"]
    with_key = ("Authorization", f"Bearer {token}")
    assert box.ask("POST", "/api/chat", CHAT, with_key, source=STRANGER_4)[0] == 200
    assert box.ask("POST", "/api/copy", {}, with_key, source=STRANGER_4)[0] == 403


def test_an_address_that_comes_later_makes_its_network_near(box):
    ip("-n", BOX, "addr", "add", "198.51.100.1/24", "dev", "acc0")
    try:
        wait_for(lambda: box.ask("GET", "/hearth/v1/me", source=STRANGER_4)[1]["ring"] == "lan", 5)
    finally:
        ip("-n", BOX, "addr", "del", "198.51.100.1/24", "dev", "acc0")
    wait_for(lambda: box.ask("GET", "/hearth/v1/me", source=STRANGER_4)[1]["ring"] == "outside", 5)


def test_a_phone_with_a_global_address_of_our_prefix_is_near(start):
    six = start("six", listen="[::]")
    me = six.ask("GET", "/hearth/v1/me", source=PEER_6, to=BOX_6)[1]
    assert (me["ring"], me["scopes"]) == ("lan", ["chat"])
    over_four = six.ask("GET", "/hearth/v1/me")[1]  # over the same socket of both families
    assert (over_four["ring"], over_four["scopes"]) == ("lan", ["chat"])
    assert six.ask("GET", "/hearth/v1/me", source=STRANGER_4)[1]["ring"] == "outside"
    shown = six.ask("GET", "/hearth/v1/pair", source="::1", to="::1", namespace=BOX)[1]
    assert shown["urls"] == [f"http://{host}:{six.port}" for host in (BOX_4, f"[{BOX_6}]")]


def test_where_keys_are_wanted_a_guest_gets_a_sentence(start, tiny_gguf):
    site = start("site", access_lan="keys")
    site.create(tiny_gguf)
    for path in ("/api/tags", "/v1/models", "/hearth/v1/status"):
        assert site.ask("GET", path)[0] == 401
    status, answer = site.ask("POST", "/api/chat", CHAT)
    assert status == 401
    assert "needs a key" in answer["error"]
    assert "hearth keys create" in answer["hint"]
    token = site.here("POST", "/hearth/v1/keys", {"name": "a", "scopes": ["chat"]})[1]["secret"]
    assert site.ask("POST", "/api/chat", CHAT, ("Authorization", f"Bearer {token}"))[0] == 200
    assert site.ask("POST", "/api/chat", CHAT, ("x-api-key", token))[0] == 200
    assert site.ask("GET", "/healthz")[0] == 200


def test_where_the_network_is_off_only_the_box_itself_is_answered(start):
    closed = start("closed", access_lan="off")
    token = closed.here("POST", "/hearth/v1/keys", {"name": "a", "scopes": ["admin"]})[1]["secret"]
    for headers in ((), (("Authorization", f"Bearer {token}"),)):
        status, answer = closed.ask("GET", "/api/tags", None, *headers)
        assert status == 403
        assert "access_lan" in answer["error"]
    assert closed.here("GET", "/api/tags")[0] == 200


def test_a_box_is_claimed_from_the_lan_and_then_managed(start, tiny_gguf):
    new = start("new")
    new.create(tiny_gguf)
    shown = new.here("GET", "/hearth/v1/pair")[1]
    assert shown["urls"] == [f"http://{BOX_4}:{new.port}"]
    assert shown["claim_url"] == f"http://{BOX_4}:{new.port}/#claim={shown['code']}"
    status, answer = new.ask("DELETE", "/api/delete", {"model": "echo"})
    assert status == 401
    assert "hearth pair" in answer["hint"]
    claim = {"code": shown["code"], "name": "Anna"}
    status, made = new.ask("POST", "/hearth/v1/claim", claim)
    assert status == 201
    assert new.ask("POST", "/hearth/v1/claim", claim)[0] == 409
    key = ("Authorization", f"Bearer {made['secret']}")
    assert new.ask("DELETE", "/api/delete", {"model": "echo"}, key)[0] == 200
    who = [entry["who"] for entry in new.ask("GET", "/hearth/v1/audit", None, key)[1]["entries"]]
    assert f"Anna ({made['key']['id']}) at {PEER_4}" in who


def test_guessing_codes_and_keys_ends_in_a_wait(start):
    new = start("guessed")
    code = new.here("GET", "/hearth/v1/pair")[1]["code"]
    guesses = [new.ask("POST", "/hearth/v1/claim", {"code": "AAAA-AAAA"})[0] for _ in range(6)]
    assert guesses == [403] * 5 + [429]
    assert new.ask("POST", "/hearth/v1/claim", {"code": code})[0] == 429
    assert new.here("POST", "/hearth/v1/claim", {"code": code})[0] == 201
    wrong = ("Authorization", "Bearer hearth_aaaaaaaa_bbbb")
    tried = [new.ask("GET", "/api/tags", None, wrong)[0] for _ in range(12)]
    assert tried == [401] * 10 + [429] * 2
    assert new.ask("GET", "/api/tags")[0] == 200  # without the wrong key it is a guest as before
