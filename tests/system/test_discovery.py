"""Boxes on a network of their own, seen by avahi on another host."""

import json
import sys
import time
from pathlib import Path

import pytest

from tests.fakes.waiting import wait_for
from tests.system.lab import PORT, Lab, run

pytestmark = pytest.mark.system

A, B, WATCHER = "10.99.0.1", "10.99.0.2", "10.99.0.9"
LOW, HIGH = "0aaaaa0aaaaa", "fbbbbbfbbbbb"


@pytest.fixture
def switch(lab):
    return lab.switch()


@pytest.fixture
def watcher(lab, switch):
    """A host with avahi, which knows nothing of us."""
    host = lab.host("watcher", switch, f"{WATCHER}/24")
    host.start_avahi()
    return host


def host_of(lab, switch, name, address, identity=None, **options):
    """A host; `identity` is the id that its box will have."""
    host = lab.host(name, switch, f"{address}/24", **options)
    if identity is not None:
        state = host.folder / "state"
        state.mkdir()
        (state / "box.json").write_text(json.dumps({"id": identity}))
    return host


def test_a_box_is_found_under_four_types_without_a_default_route(lab, switch, watcher):
    host = host_of(lab, switch, "one", A)
    box = host.start_box(name="Kitchen box")
    for type_ in ("_hearth._tcp", "_ollama._tcp", "_openai._tcp", "_http._tcp"):
        with watcher.browse(type_) as browse:
            browse.wait("=", "Kitchen box", A)
            fields = next(f for _, sign, f in browse.events if sign == "=")
            assert fields[6] == box.host_name
            assert fields[8] == str(PORT)
            assert f'"id={box.identity["id"]}"' in fields[9] or type_ == "_http._tcp"
    assert watcher.resolve(box.host_name) == A
    status, body = box.get("/hearth/v1/status", A, header=f"{box.host_name}:{PORT}")
    assert status == 200
    assert body["discovery"]["name"] == "Kitchen box"
    assert body["discovery"]["addresses"] == [A]


def test_a_stop_is_a_goodbye_and_a_restart_needs_no_probes(lab, switch, watcher):
    host = host_of(lab, switch, "one", A)
    with watcher.browse() as browse:
        box = host.start_box(name="Kitchen")
        browse.wait("=", "Kitchen", A)
        stopped = time.monotonic()
        box.stop()
        gone = browse.wait("-", "Kitchen", after=stopped)
        again = host.start_box(name="Kitchen")
        browse.wait("=", "Kitchen", A, after=gone)
        assert again.name == "Kitchen"


def test_two_boxes_of_one_name_are_told_apart(lab, switch, watcher):
    one = host_of(lab, switch, "one", A, LOW).start_box(name="Kitchen")
    one.wait_said("announced")
    two = host_of(lab, switch, "two", B, HIGH).start_box(name="Kitchen")
    two.wait_said("announced")
    with watcher.browse() as browse:
        browse.wait("=", "Kitchen", A)
        browse.wait("=", "Kitchen (2)", B)
    assert two.identity["number"] == 2
    assert watcher.resolve(one.host_name) == A
    assert watcher.resolve(two.host_name) == B
    status, _ = two.get("/api/version", B, header=f"{two.host_name}:{PORT}")
    assert status == 200  # the new name is one that the box answers to


@pytest.mark.parametrize("ids", [(LOW, HIGH), (HIGH, LOW), (LOW, LOW)])
def test_boxes_of_one_name_that_meet_later_repair_it(lab, switch, watcher, ids):
    """The last are two cards written from one image: even the host names are the same."""
    late = host_of(lab, switch, "one", A, ids[0])
    one = late.start_box(name="Kitchen")
    one.wait_said("announced")
    late.cable(False)
    wait_for(lambda: one.get("/hearth/v1/status")[1]["discovery"]["problem"])
    two = host_of(lab, switch, "two", B, ids[1]).start_box(name="Kitchen")
    two.wait_said("announced")
    late.cable(True)
    loser = two if ids[0] <= ids[1] else one
    loser.wait_said("name taken by another box")
    loser.wait_said(f"host={loser.host_name}")
    names = {"Kitchen (2)": B, "Kitchen": A} if loser is two else {"Kitchen (2)": A, "Kitchen": B}
    wait_for(lambda: watcher.listed() == names)
    assert watcher.resolve(one.host_name) == A
    assert watcher.resolve(two.host_name) == B
    assert one.host_name != two.host_name


def test_two_switches_joined_later_are_one_network(lab, switch, watcher):
    """No carrier changes at any box: a question for neighbours brings the conflict to light."""
    island = lab.switch("island")
    one = host_of(lab, switch, "one", A, LOW).start_box(name="Kitchen")
    two = host_of(lab, island, "two", B, HIGH).start_box(name="Kitchen")
    one.wait_said("announced")
    two.wait_said("announced")
    switch.join(island)
    with watcher.browse("_hearth._tcp"):  # as any phone does
        two.wait_said("announced", 2)
        wait_for(lambda: watcher.resolve(two.host_name) == B)
    assert watcher.resolve(one.host_name) == A


def test_a_cable_out_and_in_and_in_only_after_the_start(lab, switch, watcher):
    host = host_of(lab, switch, "one", A, is_connected=False)
    box = host.start_box(name="Kitchen")
    wait_for(lambda: box.get("/hearth/v1/status")[1]["discovery"]["problem"])
    code, out, _ = host.hearth("doctor")
    assert code == 1
    assert "on no network" in out
    with watcher.browse() as browse:
        host.cable(True)
        browse.wait("=", "Kitchen", A)
        host.cable(False)
        wait_for(lambda: box.get("/hearth/v1/status")[1]["discovery"]["problem"])
        host.cable(True)
        box.wait_said("announced", 2)
    assert watcher.resolve(box.host_name) == A


def test_a_new_address_replaces_the_old_one(lab, switch, watcher):
    host = host_of(lab, switch, "one", A)
    box = host.start_box(name="Kitchen")
    with watcher.browse() as browse:
        browse.wait("=", "Kitchen", A)
    host.ip("addr", "del", f"{A}/24", "dev", "eth0")
    host.ip("addr", "add", "10.99.0.77/24", "dev", "eth0")
    wait_for(lambda: box.get("/hearth/v1/status")[1]["discovery"]["addresses"] == ["10.99.0.77"])
    wait_for(lambda: watcher.resolve(box.host_name) == "10.99.0.77")
    assert box.get("/api/version", "10.99.0.77")[0] == 200


def test_both_families(lab, switch, watcher):
    host = host_of(lab, switch, "one", A)
    host.ip("addr", "add", "fd00:99::1/64", "dev", "eth0", "nodad")
    box = host.start_box(host=f"[::]:{PORT}", name="Kitchen")
    box.wait_said("announced")
    wait_for(lambda: watcher.resolve(box.host_name, version=6) == "fd00:99::1")
    assert watcher.resolve(box.host_name) == A
    assert box.get("/api/version", "[fd00:99::1]")[0] == 200
    assert box.get("/api/version", A)[0] == 200


def test_a_listener_for_one_family_announces_one(lab, switch, watcher):
    host = host_of(lab, switch, "one", A)
    host.ip("addr", "add", "fd00:99::1/64", "dev", "eth0", "nodad")
    box = host.start_box(name="Kitchen")
    box.wait_said("announced")
    assert watcher.resolve(box.host_name) == A
    assert watcher.resolve(box.host_name, version=6) is None


def test_only_ipv6(lab, switch, watcher):
    host = lab.host("one", switch)
    host.ip("addr", "add", "fd00:99::1/64", "dev", "eth0", "nodad")
    box = host.start_box(host=f"[::]:{PORT}", name="Kitchen")
    with watcher.browse() as browse:
        browse.wait("=", "Kitchen", version=6)
    assert watcher.resolve(box.host_name, version=6) == "fd00:99::1"


def test_beside_avahi_on_one_machine(lab, switch, watcher):
    host = host_of(lab, switch, "one", A)
    host.start_avahi()
    box = host.start_box(name="Kitchen")
    box.wait_said("announced")
    for place in (host, watcher):
        assert place.resolve(box.host_name) == A
        assert place.resolve("one.local") == A
    assert "WARNING" not in box.log.read_text()


def test_no_lan_hears_the_addresses_of_another(lab, switch, watcher):
    other = lab.switch("other")
    far = lab.host("far", other, "10.77.0.9/24")
    far.start_avahi()
    host = host_of(lab, switch, "one", A)
    host.plug(other, "10.77.0.1/24", interface="eth1")
    box = host.start_box(name="Kitchen")
    box.wait_said("announced")
    for place, address in ((watcher, A), (far, "10.77.0.1")):
        with place.browse() as browse:
            browse.wait("=", "Kitchen", address)
            assert {f[7] for _, sign, f in browse.events if sign == "="} == {address}
        assert place.resolve(box.host_name) == address
    host.cable(False, "eth1")
    wait_for(lambda: box.get("/hearth/v1/status")[1]["discovery"]["interfaces"] == ["eth0"])
    assert watcher.resolve(box.host_name) == A


def test_interfaces_that_are_no_lan_are_left_out_unless_named(lab, switch, watcher):
    host = lab.host("one", switch, f"{A}/24", interface="docker0")
    box = host.start_box(name="Kitchen")
    wait_for(lambda: box.get("/hearth/v1/status")[1]["discovery"]["problem"])
    box.stop()
    box = host.start_box(name="Kitchen", discovery_interfaces="eth*,docker0")
    with watcher.browse() as browse:
        browse.wait("=", "Kitchen", A)


def test_a_closed_port_is_a_warning_and_tried_again(lab, switch, watcher):
    host = host_of(lab, switch, "one", A)
    avahi = host.start_avahi(is_alone=True)
    box = host.start_box(name="Kitchen")
    box.wait_said("discovery blocked")
    status, body = box.get("/hearth/v1/status")
    assert status == 200
    assert body["discovery"]["state"] == "blocked"
    code, out, _ = host.hearth("doctor")
    assert code == 1
    assert "disallow-other-stacks=no" in out
    avahi.terminate()
    avahi.wait(10)
    host.ip("addr", "add", "10.99.0.7/24", "dev", "eth0")  # looks again at once, not in a minute
    box.wait_said("announced")
    assert watcher.resolve(box.host_name) is not None


def test_a_reflector_carries_a_box_to_another_lan(lab, switch, watcher):
    other = lab.switch("other")
    far = lab.host("far", other, "10.77.0.9/24")
    far.start_avahi()
    router = lab.host("router", switch, "10.99.0.254/24")
    router.plug(other, "10.77.0.254/24", interface="eth1")
    router.start_avahi(reflects=True)
    box = host_of(lab, switch, "one", A).start_box(name="Kitchen")
    with far.browse() as browse:
        browse.wait("=", "Kitchen", A)
    dual = lab.host("dual", switch, f"{B}/24")
    dual.plug(other, "10.77.0.2/24", interface="eth1")
    second = dual.start_box(name="Cellar")  # hears itself again through the reflector
    second.wait_said("announced")
    wait_for(lambda: far.resolve(second.host_name) is not None)
    assert second.name == "Cellar"
    assert box.name == "Kitchen"


def test_neighbours_are_listed_and_asked(lab, switch, watcher):
    one, two = host_of(lab, switch, "one", A), host_of(lab, switch, "two", B)
    kitchen, cellar = one.start_box(name="Kitchen"), two.start_box(name="Cellar")
    found = _neighbour(kitchen, "Cellar")
    assert found["kind"] == "hearth"
    assert found["url"] == f"http://{B}:{PORT}"
    assert found["is_alive"] is True
    assert found["caps"] == ["chat", "embed", "rerank", "tools", "vision"]
    assert found["id"] == cellar.identity["id"]
    code, out, _ = one.hearth("discover")
    assert code == 0
    assert out.split()[:6] == ["NAME", "ADDRESS", "KIND", "VERSION", "CAPS", "STATE"]
    assert ["Cellar", f"{B}:{PORT}", "hearth"] in [line.split()[:3] for line in out.splitlines()]
    cellar.stop()
    wait_for(lambda: not kitchen.get("/hearth/v1/neighbours")[1]["neighbours"])


def test_discover_without_a_service_and_a_verb_for_a_named_box(lab, switch):
    host = host_of(lab, switch, "one", A)
    box = host.start_box(name="Kitchen")
    box.wait_said("announced")
    laptop = lab.host("laptop", switch, f"{B}/24")
    code, out, _ = laptop.hearth("discover", "--json")
    assert code == 0
    (found,) = json.loads(out)["neighbours"]
    assert (found["name"], found["is_alive"]) == ("Kitchen", True)
    for name in ("kitchen", box.host_name, box.host_name.removesuffix(".local")):
        code, out, err = laptop.hearth("--box", name, "status", "--json")
        assert code == 0, err
        assert json.loads(out)["discovery"]["name"] == "Kitchen"
    code, out, err = laptop.hearth("--box", "attic", "status")
    assert code == 1
    assert f"no box on this network has the name 'attic'; found: 'Kitchen' ({A})" in err
    code, _, err = laptop.hearth("--box", "kitchen", "serve")
    assert code == 2
    assert "--box is not for `serve`" in err
    laptop.start_avahi(is_alone=True)
    code, out, err = laptop.hearth("discover", "--json")
    assert code == 0, err
    assert [each["name"] for each in json.loads(out)["neighbours"]] == ["Kitchen"]


def test_the_self_test_hears_its_own_box(lab, switch):
    host = host_of(lab, switch, "one", A)
    box = host.start_box(name="Kitchen")
    box.wait_said("announced")
    code, _, err = host.hearth("doctor", "--self-test")
    assert f"discovery passed: {box.host_name} is heard" in err, (code, err)


def test_a_loopback_listener_opens_nothing(lab, switch):
    host = host_of(lab, switch, "one", A)
    box = host.start_box(host=f"127.0.0.1:{PORT}")
    assert box.get("/hearth/v1/status")[1]["discovery"]["state"] == "loopback"
    assert ":5353" not in host.exec("ss", "-uan")
    maps = (f"/proc/{box.process.pid}/maps",)
    assert "zeroconf" not in run("cat", *maps)


def _neighbour(box, name):
    """The named neighbour once it was asked whether it is alive."""
    found = []

    def is_there():
        rows = box.get("/hearth/v1/neighbours")[1]["neighbours"]
        found[:] = [row for row in rows if row["name"] == name and row["is_alive"] is not None]
        return bool(found)

    wait_for(is_there)
    return found[0]


def test_the_lab_leaves_nothing_behind(tmp_path):
    with Lab(tmp_path) as built:
        built.host("one", built.switch(), f"{A}/24")
        assert built.prefix in run("ip", "netns")
    assert built.prefix not in run("ip", "netns")


def test_an_owner_is_told_at_once(lab, switch, watcher):
    host = host_of(lab, switch, "one", A)
    box = host.start_box(name="Kitchen")
    box.wait_said("announced")

    def says(text):
        found = watcher.avahi("avahi-browse", "-rtp", "_hearth._tcp") or ""
        return f'"{text}"' in found

    wait_for(lambda: says("st=new"))
    code, _, err = host.hearth("keys", "create", "owner", "--scope", "admin")
    assert code == 0, err
    wait_for(lambda: says("st=owned"))
    status, body = box.get("/hearth/v1/pair")
    assert status == 200
    assert body["urls"] == [f"http://{A}:{PORT}", f"http://{box.host_name}:{PORT}"]


# -- somebody on the link lies ---------------------------------------------------------------


def attack(host, *what):
    script = Path(__file__).parents[1] / "fakes" / "mdns_attacker.py"
    host.exec(sys.executable, str(script), *what)


@pytest.fixture
def attacker(lab, switch):
    return lab.host("attacker", switch, "10.99.0.66/24")


def test_a_flood_of_announcements_does_not_grow_memory(lab, switch, attacker):
    one, two = host_of(lab, switch, "one", A), host_of(lab, switch, "two", B)
    box = one.start_box(name="Kitchen")
    two.start_box(name="Cellar")
    _neighbour(box, "Cellar")
    attack(attacker, "10.99.0.66", "flood", "2000")
    before = _resident_mib(box)
    attack(attacker, "10.99.0.66", "flood", "8000")
    assert _resident_mib(box) < before + 4
    rows = box.get("/hearth/v1/neighbours")[1]["neighbours"]
    assert len(rows) <= 128
    assert "Cellar" in {row["name"] for row in rows}
    assert box.get("/api/version")[0] == 200


def test_a_hostile_neighbour_is_plain_text_and_leads_nowhere_else(lab, switch, attacker):
    one = host_of(lab, switch, "one", A)
    box = one.start_box(name="Kitchen")
    box.wait_said("announced")
    attack(attacker, "10.99.0.66", "neighbour", "<script>alert(1)</script>")
    found = _neighbour(box, "<script>alert(1)</script>")
    assert found["addresses"] == ["10.99.0.66"]  # not the one that is far away
    assert found["version"] == "[31m1"
    assert found["is_alive"] is False
    code, out, _ = one.hearth("discover")
    assert code == 0
    assert "\x1b" not in out
    assert "\x07" not in out


def test_a_forged_goodbye_is_answered(lab, switch, watcher, attacker):
    box = host_of(lab, switch, "one", A).start_box(name="Kitchen")
    box.wait_said("announced")
    with watcher.browse() as browse:
        browse.wait("=", "Kitchen", A)
    attack(attacker, "10.99.0.66", "goodbye", box.host_name, A)
    time.sleep(1.5)  # what is taken back is forgotten after a second (RFC 6762, 10.1)
    assert watcher.resolve(box.host_name) == A


def test_forged_conflicts_do_not_wear_the_disk_or_the_name_for_ever(lab, switch, attacker):
    box = host_of(lab, switch, "one", A, HIGH).start_box(name="Kitchen")
    box.wait_said("announced")
    for number in range(1, 14):
        name = "Kitchen" if number == 1 else f"Kitchen ({number})"
        attack(attacker, "10.99.0.66", "claim", name, "hearth-000000.local", "3")
        wait_for(lambda n=number: box.identity["number"] > min(n, 10))
    assert box.identity["number"] <= 12
    assert "names disputed" in box.log.read_text()
    assert box.get("/api/version")[0] == 200


def _resident_mib(box):
    status = Path(f"/proc/{box.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024
