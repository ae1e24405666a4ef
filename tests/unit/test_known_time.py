"""What an administrator says the time is: when it counts, and when it does not."""

import pytest

from appliance.errors import BadRequestError
from appliance.trust.clock import RELEASED_S, ClockReading
from appliance.trust.known_time import FILE, LATEST_S, KnownTime

TOLD_S = RELEASED_S + 1000


class World:
    def __init__(self, folder):
        self.wall, self.ticks, self.is_synced = 86_400.0, 50.0, False
        self.folder = folder

    def open(self):
        found = KnownTime(
            self.folder,
            lambda: ClockReading(int(self.wall), self.is_synced),
            lambda: self.ticks,
            lambda: self.wall,
        )
        found.load()
        return found


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_it_is_a_floor_that_goes_on_and_survives_a_start(world):
    known = world.open()
    assert known.read() == ClockReading(86_400, False)
    assert known.tell(TOLD_S)
    world.ticks += 60
    assert known.read() == ClockReading(TOLD_S + 60, False)
    assert known.stamp() == TOLD_S + 60
    world.ticks = 3.0
    again = world.open()
    assert again.read().now_s == TOLD_S
    world.wall = TOLD_S + 7.0
    assert (again.read().now_s, again.stamp()) == (TOLD_S + 7, TOLD_S + 7)


def test_a_clock_that_somebody_vouches_for_needs_nobody(world):
    world.open().tell(LATEST_S)  # by a browser that is wrong itself
    world.wall, world.is_synced = TOLD_S, True
    known = world.open()
    assert known.read() == ClockReading(TOLD_S, True)
    assert not known.tell(TOLD_S + 5)


def test_a_later_word_corrects_an_earlier_one(world):
    known = world.open()
    known.tell(LATEST_S)
    known.tell(TOLD_S)
    assert known.read().now_s == TOLD_S


@pytest.mark.parametrize("now_s", [0, RELEASED_S - 1, LATEST_S + 1, float("nan"), float("inf")])
def test_a_time_that_cannot_be(world, now_s):
    with pytest.raises(BadRequestError, match="it must be a time from"):
        world.open().tell(now_s)


@pytest.mark.parametrize("text", ["", "[]", '{"now_s": "x"}', '{"now_s": 5}', "{}"])
def test_a_file_that_makes_no_sense(world, text):
    (world.folder / FILE).write_text(text)
    assert world.open().read().now_s == 86_400


def test_notes_of_a_wrong_clock_go_forward(world):
    known = world.open()
    first = known.stamp()
    world.ticks += 5
    assert known.stamp() == first + 5 >= RELEASED_S
