"""access/limits.py: token buckets by client, a table that cannot be flooded."""

from dataclasses import replace

import pytest

from appliance.access.caller import Caller, KeyFacts, Ring, Scope
from appliance.access.limits import CROWD_FACTOR, Limits, Rules
from appliance.errors import RateLimitedError

CHAT = frozenset({Scope.CHAT})
KEY = KeyFacts(id="k1", name="kitchen", scopes=CHAT, rate_per_minute=3)
RULES = Rules(guest_rate_per_minute=6, guest_concurrency=2, user_rate_per_minute=2)


def guest(address="192.168.1.5", **facts):
    return Caller(address, Ring.LAN, **facts)


def ask(limits, caller, now=0.0, *, computes=True):
    """One request that ends at once."""
    limits.leave(limits.enter(caller, now, computes=computes))


def count(limits, caller, now=0.0, most=1000):
    """How many requests get through at one moment."""
    for number in range(most):
        try:
            ask(limits, caller, now)
        except RateLimitedError:
            return number
    return most


def test_a_guest_has_a_minutes_requests_and_then_one_at_a_time():
    limits = Limits(RULES)
    assert count(limits, guest()) == 6
    with pytest.raises(RateLimitedError, match="a guest without a key may send 6") as refused:
        ask(limits, guest())
    assert refused.value.retry_after_s == 10
    assert "wait 10 s, or ask the owner of the box for a key" in refused.value.hint
    assert count(limits, guest(), now=10.0) == 1
    assert count(limits, guest(), now=10_000.0) == 6


def test_a_clock_that_stands_or_goes_back_gives_nothing():
    limits = Limits(RULES)
    assert count(limits, guest(), now=100.0) == 6
    assert count(limits, guest(), now=100.0) == 0
    assert count(limits, guest(), now=50.0) == 0


def test_lists_are_cheap_but_not_free():
    limits = Limits(RULES)
    for _ in range(60):
        ask(limits, guest(), computes=False)
    with pytest.raises(RateLimitedError):
        ask(limits, guest(), computes=False)


def test_at_once():
    limits = Limits(RULES)
    held = [limits.enter(guest(), 0.0, computes=True) for _ in range(2)]
    with pytest.raises(RateLimitedError, match="2 requests at once"):
        limits.enter(guest(), 0.0, computes=True)
    ask(limits, guest(), computes=False)  # lists go on
    ask(limits, guest("192.168.1.6"))
    limits.leave(held[0])
    ask(limits, guest())


def test_a_refused_request_costs_nothing_anywhere():
    limits = Limits(RULES)
    caller = replace(guest(), key=KEY, user="ann")  # her 2 are less than the key's 3
    assert count(limits, caller) == 2
    assert count(limits, caller) == 0
    assert count(limits, replace(caller, user="bob")) == 1


def test_keys_have_their_own_rate_and_those_without_have_none():
    limits = Limits(RULES)
    assert count(limits, replace(guest(), key=KEY)) == 3
    assert count(limits, replace(guest("10.0.0.9"), key=KEY)) == 0
    free = replace(KEY, id="k2", rate_per_minute=None)
    assert count(limits, replace(guest(), key=free), most=500) == 500
    with pytest.raises(RateLimitedError, match="the key 'kitchen' may send 3"):
        ask(limits, replace(guest(), key=KEY))


def test_other_users_do_not_raise_the_rate_of_a_key():
    limits = Limits(RULES)
    assert sum(count(limits, replace(guest(), key=KEY, user=f"u{n}")) for n in range(50)) == 3


def test_the_box_itself_is_not_limited():
    limits = Limits(RULES)
    here = Caller("127.0.0.1", Ring.HERE, user="somebody")
    assert count(limits, here, most=500) == 500
    assert len(limits) == 0


def test_no_limit_where_the_settings_have_none():
    limits = Limits(Rules())
    assert count(limits, guest(), most=500) == 500


def test_addresses_within_one_ipv6_network_are_a_few_guests_at_most():
    limits = Limits(RULES)
    through = sum(count(limits, guest(f"2001:db8::{n:x}")) for n in range(1, 300))
    assert through == CROWD_FACTOR * 6
    assert count(limits, guest("2001:db8:0:1::1")) == 6
    assert sum(count(limits, guest(f"fe80::{n:x}")) for n in range(1, 300)) == CROWD_FACTOR * 6


def test_a_flood_of_addresses_grows_no_memory_and_pushes_out_nobody_else():
    limits = Limits(RULES, max_clients=50)
    owner, neighbour = replace(guest(), key=KEY), guest("192.168.1.77")
    assert count(limits, owner) == 3
    assert count(limits, neighbour) == 6
    for number in range(1000):
        with_refusals = guest(f"2001:db8::{number:x}")
        count(limits, with_refusals, most=1)
    assert len(limits) == 50
    assert count(limits, owner) == 0  # still known, so not fresh either
    assert count(limits, neighbour) == 0


def test_guests_push_out_no_key_however_many_there_are():
    limits = Limits(RULES, max_clients=10)
    owners = [replace(guest(), key=replace(KEY, id=f"k{n}")) for n in range(8)]
    assert [count(limits, owner) for owner in owners] == [3] * 8
    for number in range(20):
        count(limits, guest(f"10.0.{number}.1"))
    assert [count(limits, owner) for owner in owners] == [0] * 8


def test_who_has_requests_running_is_not_forgotten():
    limits = Limits(RULES, max_clients=4)
    held = [limits.enter(guest(f"10.0.0.{n}"), 0.0, computes=True) for n in range(4)]
    with pytest.raises(RateLimitedError, match="4 clients have requests running"):
        limits.enter(guest("10.0.0.9"), 0.0, computes=True)
    limits.leave(held[2])
    limits.enter(guest("10.0.0.9"), 0.0, computes=True)
    assert len(limits) == 4
