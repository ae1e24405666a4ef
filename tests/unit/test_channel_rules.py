"""Channels as rules: documents, windows of the day, generations, back-off, addresses."""

import json
from datetime import datetime, timedelta

import pytest

from appliance.bundles.channel_document import ChannelDocument, Window, name_of
from appliance.bundles.channel_state import Followed, Outcome, key_of, rest, take, wait_of
from appliance.errors import BadRequestError
from appliance.trust.errors import TrustError

GOOD = {"generation": 3, "bundles": {"acme/assistant": "1.2.0"}}
POLL_S = 6 * 3600.0


def encoded(**fields):
    return json.dumps(GOOD | fields).encode()


def offered(**fields):
    data = encoded(**fields)
    return ChannelDocument.parse(data), data


def at(text):
    return datetime.fromisoformat(f"2026-11-27T{text}")


def test_a_document_with_everything():
    data = encoded(window="22:30-05:00", down_kbps=800, hold=True)
    document = ChannelDocument.parse(data)
    assert (document.generation, document.down_kbps, document.hold) == (3, 800, True)
    assert str(name_of("acme/assistant")) == "acme/assistant:latest"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"generation": 1}',
        encoded(generation=0),
        encoded(generation="3"),
        encoded(generation=2**60),
        encoded(more=1),
        encoded(window="2-5"),
        encoded(window="24:00-05:00"),
        encoded(down_kbps=-1),
        encoded(hold=1),
        encoded(bundles={"assistant": "1"}),
        encoded(bundles={"acme/x:1": "1"}),
        encoded(bundles={"host/acme/x": "1"}),
        encoded(bundles={"../x": "1"}),
        encoded(bundles={"acme/X": "1"}),
        encoded(bundles={"acme/x": "../1"}),
        encoded(bundles={"acme/x": ""}),
        encoded(bundles={f"acme/x{n}": "1" for n in range(1001)}),
        b"[" * 100_000,
    ],
)
def test_anything_else_is_malformed(data):
    with pytest.raises(TrustError) as caught:
        ChannelDocument.parse(data)
    assert caught.value.code == "malformed"


@pytest.mark.parametrize(
    ("window", "now", "opens_min", "closes_min"),
    [
        ("02:00-05:00", "01:00", 60, 0),
        ("02:00-05:00", "02:00", 0, 180),
        ("02:00-05:00", "04:59", 0, 1),
        ("02:00-05:00", "05:00", 21 * 60, 0),
        ("23:00-01:00", "00:30", 0, 30),
        ("23:00-01:00", "12:00", 11 * 60, 0),
        ("", "12:00", 0, 24 * 60),
        ("03:00-03:00", "12:00", 0, 24 * 60),
    ],
)
def test_windows(window, now, opens_min, closes_min):
    parsed = Window.parse(window)
    assert parsed.opens_in(at(now)) == timedelta(minutes=opens_min)
    assert parsed.closes_in(at(now)) == timedelta(minutes=closes_min)


def test_a_generation_never_goes_back_and_says_one_thing():
    followed = take(Followed("acme", "stable"), *offered(), 100)
    assert take(followed, *offered(), 200).checked_s == 200
    assert take(followed, *offered(generation=4, hold=True), 200).document.hold
    for fields in ({"generation": 2}, {"hold": True}):
        with pytest.raises(TrustError, match=r"acme/stable offers generation") as caught:
            take(followed, *offered(**fields), 200)
        assert caught.value.code == "rollback"


def outcomes(*states):
    return {f"acme/x{n}": Outcome("1", state) for n, state in enumerate(states)}


@pytest.mark.parametrize(
    ("fields", "opens_in_s", "wait_s"),
    [
        ({"outcomes": outcomes("active")}, 0, POLL_S),
        ({"outcomes": outcomes("active", "failed")}, 0, POLL_S),
        ({"outcomes": outcomes("waiting", "active")}, 0, 45),
        ({"outcomes": outcomes("waiting"), "failures": 2}, 0, 180),
        ({"outcomes": outcomes("waiting"), "failures": 100}, 0, POLL_S),
        ({"outcomes": outcomes("waiting"), "failures": 3}, 3600, 3630),
        ({"outcomes": outcomes("waiting")}, 12 * 3600, POLL_S),
        ({"problem": "unreachable"}, 0, 45),
        ({"problem": "unreachable", "failures": 1}, 3600, 90),
    ],
)
def test_when_a_channel_is_asked_again(fields, opens_in_s, wait_s):
    after = rest(Followed("acme", "stable", **fields), 1000, POLL_S, opens_in_s, 0.5)
    assert after.due_s == 1000 + wait_s


def test_boxes_do_not_come_all_at_once():
    followed = Followed("acme", "stable", outcomes=outcomes("active"))
    dues = [rest(followed, 0, POLL_S, 0, chance).due_s for chance in (0, 1)]
    assert dues == [0.75 * POLL_S, 1.25 * POLL_S]


def test_a_clock_that_was_set_back_delays_nothing_and_a_pause_everything():
    followed = Followed("acme", "stable", due_s=5000)
    assert wait_of(followed, 4000, POLL_S) == 1000
    assert wait_of(followed, 6000, POLL_S) == 0
    assert wait_of(followed, 5000 - 3 * POLL_S, POLL_S) == 0
    paused = Followed("acme", "stable", due_s=5000, is_paused=True)
    assert wait_of(paused, 6000, POLL_S) == float("inf")


ADDRESSES = {
    "acme": ("https://a.example/hub", "https://a.example/hub/tuf/acme/metadata/"),
    "lab": ("https://a.example/hub/lab",),
    "stick": (),
}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("acme/stable", "acme/stable"),
        ("https://a.example/hub/stable", "acme/stable"),
        ("https://a.example/hub/channels/stable.json", "acme/stable"),
        ("https://a.example/hub/tuf/acme/metadata/channels/stable", "acme/stable"),
        ("https://a.example/hub/lab/beta", "lab/beta"),
    ],
)
def test_what_people_may_write(text, key):
    assert key_of(text, ADDRESSES) == key


@pytest.mark.parametrize(
    "text",
    ["", "acme", "a/b/c", "acme/../x", "Acme/x", "https://a.example/hubs/x", "https://b/x",
     "https://a.example/hub/a/b", "https://a.example/hub/"],
)  # fmt: skip
def test_what_they_may_not(text):
    with pytest.raises(BadRequestError):
        key_of(text, ADDRESSES)
