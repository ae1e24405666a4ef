"""The guard's rules for proxies that the settings name, and for what browsers say of a page."""

from ipaddress import ip_network

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from appliance.access.caller import Ring
from appliance.errors import ForbiddenError
from appliance.http.guard import Guard

LAN = ("192.168.1.20", 11434)
PHONE = ("192.168.1.7", 50000)
PLAIN = Guard.of("box", [], [])
PROXIED = Guard.of("box", [], [], trusted_proxies=[ip_network("192.168.1.7/32")])


def through(*headers, guard=PROXIED, peer=PHONE):
    items = [("Host", "192.168.1.20"), *headers]
    return guard.admit(CIMultiDictProxy(CIMultiDict(items)), peer, LAN)


@pytest.mark.parametrize(
    ("value", "address", "ring"),
    [
        ("192.168.1.50", "192.168.1.50", Ring.LAN),
        ("127.0.0.1, 203.0.113.9", "203.0.113.9", Ring.OUTSIDE),
        ("127.0.0.1", "127.0.0.1", Ring.OUTSIDE),  # the proxy's loopback, not ours
        ("192.168.1.20", "192.168.1.20", Ring.LAN),  # our own address is no passport
        ("unknown", "192.168.1.7", Ring.OUTSIDE),
    ],
)
def test_a_trusted_proxy_says_who_calls(value, address, ring):
    caller = through(("X-Forwarded-For", value))
    assert (caller.address, caller.ring) == (address, ring)


def test_nobody_else_does():
    for guard, peer in ((PLAIN, PHONE), (PROXIED, ("192.168.1.8", 1))):
        caller = through(("X-Forwarded-For", "192.168.1.50"), guard=guard, peer=peer)
        assert (caller.address, caller.ring) == (peer[0], Ring.OUTSIDE)
    assert through().ring is Ring.LAN  # the proxy's own requests


def test_a_followed_link_passes_and_what_a_page_embeds_does_not():
    site = ("Sec-Fetch-Site", "cross-site")
    mode, page = ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")
    assert through(site, mode, page).address == "192.168.1.7"
    for headers in ([site], [site, mode], [site, page], [site, mode, ("Sec-Fetch-Dest", "iframe")]):
        with pytest.raises(ForbiddenError, match="other sites' pages"):
            through(*headers)
    with pytest.raises(ForbiddenError, match="origin"):
        through(site, mode, page, ("Origin", "http://evil.example"))
