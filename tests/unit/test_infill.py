"""chat/infill.py and chat/scores.py: what is kept of a text, and what a score means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.chat.infill import fit
from appliance.chat.scores import activated

SOME = st.lists(st.integers(0, 99), max_size=40)


@given(SOME, SOME, st.integers(0, 60))
def test_the_end_of_the_prefix_and_the_beginning_of_the_suffix_are_kept(before, after, room):
    first, second = fit(before, after, room)
    assert len(first) + len(second) == min(room, len(before) + len(after))
    assert first == before[len(before) - len(first) :]
    assert second == after[: len(second)]


def test_a_long_suffix_leaves_room_for_the_prefix():
    first, second = fit([1] * 100, [2] * 100, 40)
    assert (len(first), len(second)) == (30, 10)
    assert [len(part) for part in fit([1] * 5, [2] * 100, 40)] == [5, 35]


def test_raw_outputs_become_shares_of_one_and_others_stay():
    assert activated([0.0, 2.0, -2.0], "logit") == pytest.approx(
        [0.5, 0.880797, 0.119203], abs=1e-6
    )
    assert activated([1e4, -1e4], "logit") == [1.0, 0.0]
    assert activated([-0.5, 0.7], "cosine") == [-0.5, 0.7]
    assert activated([0.3], "probability") == [0.3]
