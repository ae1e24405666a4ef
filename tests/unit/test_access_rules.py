"""Rings, scopes, shares and refusals: the pure rules of who may do what."""

from ipaddress import ip_address, ip_network

import pytest
from aiohttp import web

from appliance.access.caller import (
    EVERYTHING,
    Caller,
    KeyFacts,
    OriginKind,
    Ring,
    Scope,
    clean_user,
    expand,
    site_of,
)
from appliance.access.guessers import MAX_GUESSERS, PERIOD_S, WRONG_KEYS, Guessers
from appliance.access.policy import refusal, scopes_of, who
from appliance.access.rings import Neighbourhood, ring_of
from appliance.errors import ForbiddenError, UnauthorizedError
from appliance.http.access import NEEDS, need_of
from appliance.http.app import all_routes

CHAT = frozenset({Scope.CHAT})
OURS = ip_address("192.168.1.20")
HOME = Neighbourhood([ip_network("2001:db8:1:2::/64"), ip_network("203.0.113.0/24")])
KEY = KeyFacts("abc", "Anna", frozenset({Scope.MANAGE}))


def ring(theirs, *, near=HOME, is_forwarded=False):
    address = ip_address(theirs) if theirs else None
    return ring_of(address, OURS, near, is_forwarded=is_forwarded)


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (None, Ring.HERE),
        ("127.0.0.1", Ring.HERE),
        ("::1", Ring.HERE),
        ("192.168.1.20", Ring.HERE),
        ("192.168.1.7", Ring.LAN),
        ("172.31.255.255", Ring.LAN),
        ("172.32.0.1", Ring.OUTSIDE),
        ("100.64.0.1", Ring.OUTSIDE),  # a carrier's NAT is not a home
        ("169.254.3.4", Ring.LAN),
        ("2001:db8:1:2:a::b", Ring.LAN),  # a phone's global address in our own prefix
        ("2001:db8:1:3::b", Ring.OUTSIDE),  # the neighbour's house
        ("203.0.113.7", Ring.LAN),
        ("203.0.114.7", Ring.OUTSIDE),
        ("8.8.8.8", Ring.OUTSIDE),
    ],
)
def test_rings(theirs, expected):
    assert ring(theirs) is expected
    assert ring(theirs, is_forwarded=True) is Ring.OUTSIDE


@pytest.mark.parametrize("wide", ["0.0.0.0/0", "::/0", "8.0.0.0/7", "2000::/3"])
def test_a_prefix_of_everything_is_no_neighbourhood(wide):
    assert ring("8.8.8.8", near=Neighbourhood([ip_network(wide)])) is Ring.OUTSIDE
    assert ring("2a00::1", near=Neighbourhood([ip_network(wide)])) is Ring.OUTSIDE


def test_networks_that_are_left_do_not_count_any_more():
    near = Neighbourhood([ip_network("203.0.113.0/24")])
    near.replace([])
    assert ring("203.0.113.7", near=near) is Ring.OUTSIDE


@pytest.mark.parametrize(
    ("place", "lan", "key", "expected"),
    [
        (Ring.HERE, "open", None, EVERYTHING),
        (Ring.HERE, "off", None, EVERYTHING),
        (Ring.HERE, "open", KEY, {Scope.CHAT, Scope.MANAGE}),  # a key says what one wants to be
        (Ring.LAN, "open", None, CHAT),
        (Ring.LAN, "keys", None, set()),
        (Ring.LAN, "off", None, set()),
        (Ring.LAN, "open", KEY, {Scope.CHAT, Scope.MANAGE}),
        (Ring.LAN, "keys", KEY, {Scope.CHAT, Scope.MANAGE}),
        (Ring.LAN, "off", KEY, set()),
        (Ring.OUTSIDE, "open", None, set()),
        (Ring.OUTSIDE, "keys", KEY, {Scope.CHAT, Scope.MANAGE}),
        (Ring.OUTSIDE, "off", KEY, set()),
    ],
)
def test_scopes(place, lan, key, expected):
    assert scopes_of(place, OriginKind.NONE, key, lan) == expected
    assert scopes_of(place, OriginKind.TRUSTED, key, lan) == expected
    assert scopes_of(place, OriginKind.APP, key, lan) == set(expected) & CHAT


def test_each_scope_holds_those_before_it():
    assert expand(frozenset()) == frozenset()
    assert expand(frozenset({Scope.MANAGE})) == {Scope.CHAT, Scope.MANAGE}
    assert expand(frozenset({Scope.ADMIN})) == EVERYTHING


def test_sites():
    assert site_of("2001:db8:1:2::7") == site_of("2001:db8:1:2:ffff::9")
    assert site_of("2001:db8:1:2::7") != site_of("2001:db8:1:3::7")
    assert site_of("fe80::1") != site_of("fe80::2")
    assert site_of("") == ""


def test_a_user_is_short_and_printable():
    assert clean_user("u\x00\n\x1b[31m" + "x" * 100) == "u[31m" + "x" * 56


@pytest.mark.parametrize(
    ("caller", "scope", "lan", "is_claimed", "kind", "says"),
    [
        (Caller("10.0.0.7", Ring.LAN), Scope.MANAGE, "open", True, UnauthorizedError, "10.0.0.7"),
        (Caller("10.0.0.7", Ring.LAN), Scope.MANAGE, "open", False, UnauthorizedError, "no owner"),
        (Caller("10.0.0.7", Ring.LAN), Scope.CHAT, "keys", True, UnauthorizedError, "needs a key"),
        (Caller("10.0.0.7", Ring.LAN), Scope.CHAT, "off", True, ForbiddenError, "access_lan"),
        (Caller("8.8.8.8", Ring.OUTSIDE), Scope.CHAT, "open", True, UnauthorizedError, "outside"),
        (Caller("", Ring.HERE, key=KEY), Scope.ADMIN, "open", True, ForbiddenError, "'Anna'"),
        (
            Caller("", Ring.HERE, OriginKind.APP, "app://x"),
            *(Scope.MANAGE, "open", True, ForbiddenError, "app://x"),
        ),
    ],
)
def test_a_refusal_says_what_to_do(caller, scope, lan, is_claimed, kind, says):
    error = refusal(caller, scope, lan, is_claimed=is_claimed)
    assert isinstance(error, kind)
    assert says in str(error)
    assert error.hint
    assert "\n" not in str(error) + error.hint


def test_the_audit_log_names_callers():
    assert who(Caller("", Ring.HERE)) == "this box"
    assert who(Caller("10.0.0.7", Ring.LAN)) == "10.0.0.7"
    assert who(Caller("10.0.0.7", Ring.LAN, key=KEY)) == "Anna (abc) at 10.0.0.7"


def registered():
    app = web.Application()
    app.add_routes(all_routes())
    return {(route.method, route.resource.canonical) for route in app.router.routes()}


def test_every_route_says_what_it_needs():
    missing = {
        (method, route)
        for method, route in registered()
        if (method, route) not in NEEDS and (method != "HEAD" or ("GET", route) not in NEEDS)
    }
    assert not missing


def test_no_entry_is_left_of_a_route_that_is_gone():
    assert set(NEEDS) <= registered()


def test_only_harmless_routes_are_for_everybody():
    free = {entry for entry, scope in NEEDS.items() if scope is None}
    assert {method for method, _ in free} == {"GET", "POST"}
    assert [route for method, route in free if method == "POST"] == ["/hearth/v1/claim"]


def test_what_a_guest_may_send():
    """Written out, so that a slip in the table shows: all else that is sent changes something."""
    asks = {f"/api/{word}" for word in ("generate", "chat", "embed", "embeddings", "show")}
    asks |= {"/rerank", "/v2/rerank", "/score", "/tokenize", "/detokenize"}
    openai = {"chat/completions", "completions", "embeddings", "responses", "rerank", "score"}
    openai |= {"messages", "messages/count_tokens", "audio/transcriptions"}
    asks |= {f"/v1/{word}" for word in openai} | {"/hearth/v1/claim"}
    cloud = (
        "me",
        "signout",
        "user/keys/{key}",
        "experimental/web_search",
        "experimental/web_fetch",
    )
    asks |= {f"/api/{route}" for route in cloud}  # which only refuse
    sent = {
        route
        for (method, route), scope in NEEDS.items()
        if method not in {"GET", "HEAD"} and scope in {None, Scope.CHAT}
    }
    assert sent == asks


def test_what_tells_secrets_or_paths_is_not_for_guests():
    for route in ("pair", "keys", "audit", "doctor", "bundles/why"):
        assert NEEDS["GET", f"/hearth/v1/{route}"] in {Scope.MANAGE, Scope.ADMIN}
    administrators = {route for (_, route), scope in NEEDS.items() if scope is Scope.ADMIN}
    assert {"/hearth/v1/keys", "/hearth/v1/keys/{id}", "/hearth/v1/import"} <= administrators


def test_an_unknown_route_needs_the_highest_scope():
    assert need_of("POST", "/hearth/v1/new") is Scope.ADMIN
    assert need_of("PUT", "/api/tags") is Scope.ADMIN
    assert need_of("HEAD", "/api/tags") is Scope.CHAT
    assert need_of("HEAD", "/api/blobs/{digest}") is Scope.MANAGE


def test_a_flood_of_guessing_addresses_is_bounded():
    guessers = Guessers()
    for number in range(MAX_GUESSERS * 2):
        assert guessers.count(f"site {number}", 0.0) == 0
    assert len(guessers) == MAX_GUESSERS


def test_a_guesser_waits_for_the_rest_of_the_period():
    guessers = Guessers()
    waits = [guessers.count("10.0.0.7", 100.0) for _ in range(WRONG_KEYS + 1)]
    assert waits == [0] * WRONG_KEYS + [PERIOD_S]
    assert guessers.count("10.0.0.8", 100.0) == 0
    assert guessers.count("10.0.0.7", 100.0 + PERIOD_S - 5) == 5
    assert guessers.count("10.0.0.7", 100.0 + PERIOD_S) == 0
    assert guessers.count("10.0.0.7", 50.0) == 0  # a clock that was set back locks nobody out
