"""How many requests at once a hot board takes: steps down, a pause to settle, steps up."""

from appliance.pressure import COOL_LOOKS, Heat


def limits(heat, looks, slots=8):
    found = []
    for hot in looks:
        heat.look(hot, slots)
        found.append(heat.limit)
    return found


def test_it_halves_while_it_stays_hot_but_waits_between():
    assert limits(Heat(2), [True] * 10) == [4, 4, 4, 2, 2, 2, 1, 1, 1, 1]


def test_it_doubles_when_cool_for_a_while_and_ends_without_a_limit():
    heat = Heat(1)
    assert limits(heat, [True, True, True]) == [4, 4, 2]
    cool = limits(heat, [False] * 8)
    assert cool == [2, 2, 4, 4, None, None, None, None]
    assert COOL_LOOKS == 3


def test_one_hot_look_starts_the_count_of_cool_ones_again():
    heat = Heat(0)
    assert limits(heat, [True, False, False, True, False, False]) == [4, 4, 4, 2, 2, 2]


def test_one_slot_cannot_be_halved():
    heat = Heat(0)
    assert not heat.look(True, 1)
    assert heat.limit is None


def test_only_changes_are_told():
    heat = Heat(1)
    assert [heat.look(True, 4) for _ in range(6)] == [True, False, True, False, False, False]
