"""Which time is believed: the clock, the floor under it, and signed dates of issue."""

import pytest

from appliance.trust.clock import (
    DAY_S,
    RELEASED_S,
    ClockReading,
    ClockState,
    is_believable,
    judge_clock,
)

FLOOR = RELEASED_S + 100 * DAY_S


@pytest.mark.parametrize(
    ("now_s", "is_synced", "state", "trusted_s"),
    [
        (0, False, "behind", FLOOR),
        (0, True, "behind", FLOOR),
        (FLOOR - 1, True, "behind", FLOOR),
        (FLOOR, False, "plausible", FLOOR),
        (FLOOR, True, "synced", FLOOR),
        (FLOOR + DAY_S, False, "plausible", FLOOR + DAY_S),
        (FLOOR + 6 * 365 * DAY_S, False, "suspect", FLOOR + 6 * 365 * DAY_S),
        (FLOOR + 6 * 365 * DAY_S, True, "synced", FLOOR + 6 * 365 * DAY_S),
    ],
)
def test_the_floor_holds_and_the_state_says_how_far_to_believe(now_s, is_synced, state, trusted_s):
    trusted = judge_clock(ClockReading(now_s, is_synced), FLOOR)
    assert (trusted.state, trusted.now_s) == (ClockState(state), trusted_s)
    assert bool(trusted.cure) == (state in {"behind", "suspect"})


def test_no_time_before_the_software_was_made():
    assert judge_clock(ClockReading(0, is_synced=False)).now_s == RELEASED_S


@pytest.mark.parametrize(
    ("issued_days", "expires_days", "is_synced", "believed"),
    [
        (0, 10, True, True),
        (-50, 10, True, True),
        (0.9, 10, True, True),
        (2, 10, True, False),  # a right clock knows better
        (2, 10, False, True),  # an unknown one does not
        (11, 10, False, False),  # after its own expiry
    ],
)
def test_a_date_of_issue_that_would_poison_the_floor_is_not_believed(
    issued_days, expires_days, is_synced, believed
):
    reading = ClockReading(FLOOR, is_synced)
    issued, expires = FLOOR + int(issued_days * DAY_S), FLOOR + expires_days * DAY_S
    assert is_believable(issued, expires, reading) is believed
