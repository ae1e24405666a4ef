"""http/forwarded.py: whose word about a caller's address is believed, and which of its words."""

from ipaddress import ip_address, ip_network

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from appliance.http.forwarded import MAX_HOPS, is_forwarded, origin_of

PROXY = ip_address("192.168.1.2")
TRUSTED = [ip_network("192.168.1.2/32"), ip_network("10.1.0.0/16")]


def origin(*headers, peer=PROXY, trusted=TRUSTED):
    found = origin_of(CIMultiDictProxy(CIMultiDict(headers)), peer, trusted)
    return str(found) if found else None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("127.0.0.1, 203.0.113.9", "203.0.113.9"),  # the left part is the client's own invention
        ("127.0.0.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:192.168.1.9", "192.168.1.9"),
        ("10.1.0.1, 192.168.1.2", "10.1.0.1"),  # nobody but proxies: the first of them
        ("unknown", None),
        ("127.0.0.1, unknown", None),
        ("192.168.1.9, ", None),
        ("", None),
        ("192.168.1.9 10.0.0.1", None),
        ("_hidden, 10.1.0.1", None),
        (", ".join(["10.1.0.1"] * (MAX_HOPS + 1)), None),
    ],
)
def test_the_last_hop_that_is_no_proxy(value, expected):
    assert origin(("X-Forwarded-For", value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=203.0.113.9", "203.0.113.9"),
        ("for=127.0.0.1, for=203.0.113.9;proto=http;by=10.1.0.1", "203.0.113.9"),
        ('proto=http; For="[2001:db8::1]:4711"', "2001:db8::1"),
        ("for=_gazonk", None),
        ("for=unknown, for=10.1.0.1", None),
        ("proto=http", None),
        ("for=192.168.1.9;for=192.168.1.8", None),
        ("xfor=192.168.1.9", None),
        ('for="192.168.1.9, for=192.168.1.8"', None),
    ],
)
def test_the_standard_header(value, expected):
    assert origin(("Forwarded", value)) == expected


def test_only_named_proxies_are_believed():
    header = ("X-Forwarded-For", "192.168.1.9")
    assert origin(header) == "192.168.1.9"
    assert origin(header, peer=ip_address("192.168.1.3")) is None
    assert origin(header, trusted=[]) is None
    assert origin(header, peer=None) is None


def test_several_lines_are_one_list():
    lines = [("X-Forwarded-For", "127.0.0.1"), ("x-forwarded-for", "203.0.113.9")]
    assert origin(*lines) == "203.0.113.9"
    assert origin(*reversed(lines)) == "127.0.0.1"


def test_two_headers_must_agree():
    """The proxy writes one of them; the other came from the client."""
    one, other = ("X-Forwarded-For", "203.0.113.9"), ("Forwarded", "for=192.168.1.9")
    assert origin(one, other) is None
    assert origin(one, ("Forwarded", "for=203.0.113.9")) == "203.0.113.9"


@pytest.mark.parametrize("header", ["CF-Connecting-IP", "cf-ray", "True-Client-IP"])
def test_what_came_through_a_tunnel_is_nobodys(header):
    assert origin(("X-Forwarded-For", "192.168.1.9"), (header, "x")) is None


@pytest.mark.parametrize("header", ["Via", "X-Real-IP", "X-Forwarded-Host", "forwarded", "CF-Ray"])
def test_every_such_header_shows_a_proxy(header):
    assert is_forwarded(CIMultiDictProxy(CIMultiDict({header: "x"})))
    assert origin((header, "192.168.1.9")) is None or header == "forwarded"
