"""The guard's rules: Host, Origin, and where a caller is."""

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from appliance.access.caller import OriginKind, Ring
from appliance.errors import BadRequestError, ForbiddenError
from appliance.http.guard import Guard

GUARD = Guard.of("Box.example", ["models.site"], ["https://app.site"])
LAN = ("192.168.1.20", 11434)
PHONE = ("192.168.1.7", 50000)
LOOPBACK = ("127.0.0.1", 11434)


def admit(*headers, peer=PHONE, local=LAN, host="192.168.1.20:11434"):
    items = [*([("Host", host)] if host is not None else []), *headers]
    return GUARD.admit(CIMultiDictProxy(CIMultiDict(items)), peer, local)


@pytest.mark.parametrize(
    "host",
    [
        "192.168.1.20",
        "192.168.1.20:11434",
        "127.0.0.1:9",
        "[::1]:11434",
        "localhost",
        "LocalHost:11434",
        "localhost.",
        "box",
        "box.example",
        "box.local:11434",
        "BOX.LOCAL",
        "models.site",
    ],
)
def test_our_names_and_addresses_pass(host):
    assert admit(host=host).address == "192.168.1.7"


@pytest.mark.parametrize("host", ["0.0.0.0:11434", "[::]:11434"])
def test_any_address_stands_for_loopback_on_a_loopback_connection(host):
    """ollama-python connects to OLLAMA_HOST=0.0.0.0 as it is."""
    assert admit(host=host, peer=LOOPBACK, local=LOOPBACK).is_local
    with pytest.raises(ForbiddenError):
        admit(host=host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "192.168.1.21",
        "8.8.8.8",
        "0.0.0.0",
        "localhost.evil.example",
        "box.local.evil.example",
        "evil.example:11434",
        "[::2]",
        "evil@localhost",
        "localhost/evil",
        "localhost evil.example",
        "localhost,evil.example",
        "127.0.0.1.evil.example",
        "2130706433",
        "",
        ":11434",
        "[localhost]",
        "localhost:port",
    ],
)
def test_strange_hosts_are_refused(host):
    with pytest.raises(ForbiddenError, match="not one of this box's names"):
        admit(host=host)


def test_announced_names_and_addresses_pass_as_long_as_they_are_announced():
    announced = {"hearth-0aaaaa.local", "192.168.9.9", "fd00::1"}
    guard = Guard.of("box", [], [], announced=lambda: frozenset(announced))
    for host in ("hearth-0aaaaa.local", "HEARTH-0aaaaa.local:11434", "192.168.9.9", "[fd00::1]:1"):
        assert guard.check_host([host], None)
    announced.clear()
    announced.add("hearth-0aaaaa-2.local")
    with pytest.raises(ForbiddenError):
        guard.check_host(["hearth-0aaaaa.local"], None)
    assert guard.check_host(["hearth-0aaaaa-2.local"], None)


def test_exactly_one_host_header_is_needed():
    with pytest.raises(BadRequestError, match="exactly one Host header, this has 0"):
        admit(host=None)
    with pytest.raises(BadRequestError, match="this has 2"):
        admit(("Host", "evil.example"))


def test_an_ipv4_address_over_an_ipv6_socket_is_itself():
    caller = admit(peer=("::ffff:192.168.1.7", 5, 0, 0), local=("::ffff:192.168.1.20", 6, 0, 0))
    assert caller.address == "192.168.1.7"


def test_a_link_local_address_passes_without_its_zone():
    local = ("fe80::1%eth0", 11434, 0, 2)
    assert (
        admit(host="[fe80::1]:11434", local=local, peer=("fe80::2%eth0", 1, 0, 2)).is_local is False
    )


@pytest.mark.parametrize(
    ("origin", "kind"),
    [
        ("http://192.168.1.20:11434", OriginKind.TRUSTED),
        ("https://app.site", OriginKind.TRUSTED),
        ("HTTPS://APP.SITE", OriginKind.TRUSTED),
        ("http://localhost:3000", OriginKind.TRUSTED),
        ("https://127.0.0.1", OriginKind.TRUSTED),
        ("http://[::1]:8080", OriginKind.TRUSTED),
        ("app://obsidian.md", OriginKind.APP),
        ("file://", OriginKind.APP),
        ("tauri://localhost", OriginKind.APP),
        ("vscode-webview://abc", OriginKind.APP),
        ("chrome-extension://abcdef", OriginKind.APP),
    ],
)
def test_admitted_origins(origin, kind):
    assert admit(("Origin", origin)).origin is kind


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "http://localhost.evil.example",
        "http://192.168.1.20",  # another port of this box is another site
        "https://app.site.evil.example",
        "https://app.site:444",
        "http://localhost:3000/",
        "",
    ],
)
def test_foreign_origins_are_refused(origin):
    with pytest.raises(ForbiddenError, match="may not call this box"):
        admit(("Origin", origin))


def test_two_origins_are_refused():
    with pytest.raises(ForbiddenError):
        admit(("Origin", "http://localhost"), ("Origin", "http://evil.example"))


def test_a_cross_site_fetch_without_origin_is_refused():
    with pytest.raises(ForbiddenError, match="other sites"):
        admit(("Sec-Fetch-Site", "cross-site"))
    assert admit(("Sec-Fetch-Site", "none")).origin is OriginKind.NONE
    allowed = admit(("Sec-Fetch-Site", "cross-site"), ("Origin", "https://app.site"))
    assert allowed.origin is OriginKind.TRUSTED


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        (("127.0.0.1", 5), LOOPBACK),
        (("::1", 5, 0, 0), ("::1", 11434, 0, 0)),
        (("192.168.1.20", 5), LAN),  # the box itself, over its own LAN address
        ("", "/run/hearth.sock"),
    ],
)
def test_callers_on_the_box_are_here(peer, local):
    assert admit(peer=peer, local=local, host="localhost").ring is Ring.HERE


@pytest.mark.parametrize(
    ("peer", "ring"),
    [
        ("192.168.1.7", Ring.LAN),
        ("10.9.8.7", Ring.LAN),
        ("fe80::2%eth0", Ring.LAN),
        ("fd12::7", Ring.LAN),
        ("203.0.113.9", Ring.OUTSIDE),
        ("2001:db8::7", Ring.OUTSIDE),
    ],
)
def test_others_are_near_or_far_by_address(peer, ring):
    assert admit(peer=(peer, 5)).ring is ring


@pytest.mark.parametrize(
    "name",
    ["Forwarded", "X-Forwarded-For", "x-forwarded-host", "Via", "CF-Connecting-IP", "X-Real-IP"],
)
@pytest.mark.parametrize("peer", ["127.0.0.1", "192.168.1.7"])
def test_what_came_through_a_proxy_is_outside(name, peer):
    caller = admit((name, "1"), peer=(peer, 5), local=LOOPBACK, host="localhost")
    assert caller.ring is Ring.OUTSIDE
