"""What is announced where, and who yields when two boxes go by one name."""

from ipaddress import ip_interface

import pytest

from appliance.box import Box
from appliance.discovery.conflicts import Identity, Verdict, is_taken, judge
from appliance.discovery.heard import Heard, Kind
from appliance.discovery.lans import lans_of, shown_addresses
from appliance.discovery.records import (
    HEARTH,
    HTTP,
    MAX_TXT_BYTES,
    OLLAMA,
    OPENAI,
    Facts,
    services_of,
)
from appliance.network import Interface

LOW, HIGH = Box("0aaaaa0aaaaa", "Kitchen"), Box("fbbbbbfbbbbb", "Kitchen")
EVERY_FOUR, EVERY = ["0.0.0.0"], ["0.0.0.0", "::"]


def interface(name, *addresses, **more):
    return Interface(name, 2, addresses=tuple(map(ip_interface, addresses)), **more)


# -- records ---------------------------------------------------------------------------------


def test_four_services_share_one_name_host_and_port():
    services = services_of(LOW, 11434, Facts("1.2"))
    assert [s.type for s in services] == [HEARTH, OLLAMA, OPENAI, HTTP]
    assert {(s.instance, s.host, s.port) for s in services} == {
        ("Kitchen", "hearth-0aaaaa.local.", 11434)
    }
    hearth, ollama, openai, http = (dict(s.txt) for s in services)
    assert next(iter(hearth)) == "txtvers"  # RFC 6763, 6.7: first
    assert hearth["id"] == LOW.id
    assert (hearth["auth"], hearth["st"], hearth["v"]) == ("open", "new", "1.2")
    assert not {"tls", "fp"} & set(hearth)
    assert (ollama["path"], openai["path"], http) == ("/", "/v1", {"path": "/"})


def test_tls_and_ownership_are_told():
    facts = Facts("1", auth="keys", state="owned", tls_port=11435, fingerprint="f" * 43)
    txt = services_of(LOW, 1, facts)[0].txt
    assert (txt["auth"], txt["st"], txt["tls"], txt["fp"]) == ("keys", "owned", "11435", "f" * 43)
    size = sum(1 + len(f"{key}={value}") for key, value in txt.items())
    assert size <= MAX_TXT_BYTES
    assert all(len(key) <= 9 for key in txt)


def test_a_record_that_does_not_fit_is_an_error_of_ours():
    with pytest.raises(ValueError, match="does not fit"):
        services_of(LOW, 1, Facts("1", fingerprint="f" * 300))


# -- LANs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["docker0", "veth12ab", "br-0123", "cni0", "tun0", "wg0", "tailscale0", "usb0", "ppp0"]
)
def test_what_is_no_lan_is_left_out_unless_named(name):
    found = interface(name, "192.168.1.5/24")
    assert lans_of([found], [], EVERY_FOUR) == ()
    assert lans_of([found], [name], EVERY_FOUR)[0].addresses == ("192.168.1.5",)


@pytest.mark.parametrize(
    "state",
    [
        {"is_up": False},
        {"has_carrier": False},
        {"is_loopback": True},
        {"is_point_to_point": True},
    ],
)
def test_a_lan_has_a_cable_and_neighbours(state):
    assert lans_of([interface("eth0", "192.168.1.5/24", **state)], [], EVERY_FOUR) == ()


def test_patterns_choose_interfaces():
    found = [interface("eth0", "10.0.0.1/24"), interface("wlan0", "10.1.0.1/24")]
    assert [lan.interface for lan in lans_of(found, ["wl*"], EVERY_FOUR)] == ["wlan0"]


def test_only_what_is_listened_on_is_announced():
    eth = interface("eth0", "10.0.0.1/24", "10.0.0.2/24", "fd00::1/64", "fe80::1/64")
    (lan,) = lans_of([eth], [], EVERY)
    assert lan.addresses == ("10.0.0.1", "10.0.0.2", "fd00::1")
    assert lan.senders == ("10.0.0.1", "fe80::1")
    assert lans_of([eth], [], EVERY_FOUR)[0].addresses == ("10.0.0.1", "10.0.0.2")
    assert lans_of([eth], [], ["10.0.0.2"])[0].addresses == ("10.0.0.2",)
    assert lans_of([eth], [], ["192.168.7.7"]) == ()


def test_no_lan_is_told_the_addresses_of_another_but_cable_and_wifi_of_one_are():
    found = [
        interface("eth0", "10.0.0.1/24", "fe80::1/64"),
        interface("wlan0", "10.0.0.2/24", "fe80::2/64"),
        interface("eth1", "10.9.0.1/24", "fe80::3/64"),
    ]
    told = {lan.interface: lan.addresses for lan in lans_of(found, [], EVERY_FOUR)}
    assert told == {
        "eth0": ("10.0.0.1", "10.0.0.2"),
        "wlan0": ("10.0.0.1", "10.0.0.2"),
        "eth1": ("10.9.0.1",),
    }


def test_people_are_shown_ipv4_first_and_link_local_only_if_need_be():
    lans = lans_of([interface("eth0", "fe80::1/64", "fd00::1/64", "10.0.0.1/24")], [], EVERY)
    assert shown_addresses(lans) == ["10.0.0.1", "fd00::1"]
    assert shown_addresses(lans_of([interface("eth0", "fe80::1/64")], [], EVERY)) == ["fe80::1"]


# -- conflicts -------------------------------------------------------------------------------


def identity(box, *addresses):
    return Identity.of(box, services_of(box, 11434, Facts("1")), addresses)


def said_by(box, *addresses):
    """The records of a box's announcement, as another hears them."""
    service = services_of(box, 11434, Facts("1"))[0]
    text = b"".join(
        bytes([len(item)]) + item for item in (f"{k}={v}".encode() for k, v in service.txt.items())
    )
    return [
        Heard(Kind.POINTER, service.type, 120, target=service.name),
        Heard(Kind.SERVICE, service.name, 120, target=service.host, port=service.port),
        Heard(Kind.TEXT, service.name, 120, text=text),
        *(Heard(Kind.ADDRESS, service.host, 120, address=a) for a in addresses),
    ]


def test_our_own_words_are_no_conflict():
    own = identity(LOW, "10.0.0.1", "10.9.0.1")
    assert judge(own, said_by(LOW, "10.0.0.1")) is Verdict.NOTHING
    assert judge(own, said_by(LOW, "10.9.0.1")) is Verdict.NOTHING  # through a reflector
    for echo in ("fe80::7", "127.0.0.1", "169.254.3.3"):
        assert judge(own, said_by(LOW, echo)) is Verdict.NOTHING
    assert judge(own, said_by(Box("0" * 12, "Attic"), "10.0.0.9")) is Verdict.NOTHING


def test_of_two_boxes_exactly_the_greater_id_yields():
    low, high = identity(LOW, "10.0.0.9"), identity(HIGH, "10.0.0.1")
    assert judge(low, said_by(HIGH, "10.0.0.1")) is Verdict.ANNOUNCE
    assert judge(high, said_by(LOW, "10.0.0.9")) is Verdict.YIELD
    # The same from the service record alone, which holds the end of the id.
    assert judge(low, said_by(HIGH)[:2]) is Verdict.ANNOUNCE
    assert judge(high, said_by(LOW)[:2]) is Verdict.YIELD


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (["10.0.0.1"], ["10.0.0.2"]),
        (["10.0.0.1", "fd00::9"], ["10.0.0.2", "fd00::1"]),  # IPv4 decides
        (["fd00::1"], ["fd00::2", "fd00::3"]),
    ],
)
def test_of_two_cards_of_one_image_exactly_the_greater_address_yields(ours, theirs):
    assert judge(identity(LOW, *ours), said_by(LOW, *theirs)) is Verdict.ANNOUNCE
    assert judge(identity(LOW, *theirs), said_by(LOW, *ours)) is Verdict.YIELD


def test_who_knows_nothing_of_our_rule_keeps_the_name():
    own = identity(LOW, "10.0.0.1")
    printer = Heard(Kind.SERVICE, f"kitchen.{HTTP}", 120, target="printer.local.", port=80)
    assert judge(own, [printer]) is Verdict.YIELD
    assert is_taken(own, [printer])


def test_a_goodbye_that_we_did_not_say_is_answered():
    own = identity(LOW, "10.0.0.1")
    forged = Heard(Kind.ADDRESS, "hearth-0aaaaa.local.", 0, address="10.0.0.1")
    assert judge(own, [forged]) is Verdict.ANNOUNCE
    other = Heard(Kind.ADDRESS, "hearth-0aaaaa.local.", 0, address="10.0.0.2")
    assert judge(own, [other]) is Verdict.NOTHING
