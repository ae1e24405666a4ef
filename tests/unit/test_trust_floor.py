"""The floor only rises, except where the root of trust replaced the online keys."""

import json

import pytest

from appliance.trust.clock import DAY_S, RELEASED_S, ClockReading
from appliance.trust.errors import TrustError
from appliance.trust.floor import MAX_VERSION, Floor, Held

NOW = RELEASED_S + 100 * DAY_S
CLOCK = ClockReading(NOW, is_synced=True)


def held(epoch="e1", issued_s=None, **versions):
    return Held(epoch, versions, dict.fromkeys(versions, NOW + 30 * DAY_S), issued_s)


def seen(*steps):
    floor = Floor()
    for step in steps:
        floor = floor.raised_by(step, CLOCK)
    return floor


def test_versions_rise_and_roles_that_were_not_seen_again_are_remembered():
    floor = seen(held(root=1, timestamp=5, acme=7), held(root=2, timestamp=6))
    assert floor.versions == {"root": 2, "timestamp": 6, "acme": 7}


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "acme"])
def test_a_lower_version_of_any_role_is_a_rollback(role):
    floor = seen(held(**{role: 5}))
    with pytest.raises(TrustError, match="version 4, this box has already seen 5") as caught:
        floor.raised_by(held(**{role: 4}), CLOCK)
    assert caught.value.code == "rollback"


def test_new_online_keys_start_a_new_epoch_for_all_but_the_root():
    floor = seen(held(root=1, timestamp=99999, acme=99999, issued_s=NOW))
    recovered = floor.raised_by(held("e2", root=2, timestamp=1, issued_s=NOW - DAY_S), CLOCK)
    assert recovered.versions == {"root": 2, "timestamp": 1}
    assert recovered.issued_s == NOW - DAY_S
    with pytest.raises(TrustError) as caught:
        recovered.raised_by(held("e1", root=1, timestamp=100000), CLOCK)
    assert caught.value.code == "rollback"


def test_the_date_of_issue_never_goes_back():
    floor = seen(held(timestamp=1, issued_s=NOW))
    assert floor.issued_s == NOW
    with pytest.raises(TrustError) as caught:
        floor.raised_by(held(timestamp=2, issued_s=NOW - 1), CLOCK)
    assert caught.value.code == "rollback"


def test_a_date_of_issue_in_the_future_does_not_raise_the_time():
    floor = seen(held(timestamp=1, issued_s=NOW), held(timestamp=2, issued_s=NOW + 9 * DAY_S))
    assert floor.issued_s == NOW


def test_a_version_that_no_honest_publisher_reaches_is_malformed():
    with pytest.raises(TrustError) as caught:
        Floor().raised_by(held(timestamp=MAX_VERSION + 1), CLOCK)
    assert caught.value.code == "malformed"


def test_a_floor_survives_its_file_and_damage_is_noticed():
    floor = Floor(3, "e1", {"root": 1}, NOW)
    data = floor.encode()
    assert Floor.decode(data) == floor
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1
        if not _same(damaged, data):
            assert Floor.decode(bytes(damaged)) is None
    for torn in (b"", data[:-1], b"[]", b"null", b'{"sha256": "x"}', b"[" * 100_000):
        assert Floor.decode(torn) is None


def _same(a, b):
    """Whether a flipped bit changed only white space."""
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False
