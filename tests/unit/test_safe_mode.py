"""Crashes are counted within one boot; what was stopped well counts nothing."""

import json

import pytest

from appliance import safe_mode


@pytest.fixture
def clock(monkeypatch):
    """Seconds since boot, to be set."""
    now = [1000.0]
    monkeypatch.setattr(safe_mode.time, "clock_gettime", lambda _: now[0])
    return now


def crash(state, clock, after_s):
    clock[0] += after_s
    return safe_mode.start(state, ended_badly=True)


def test_the_third_crash_in_ten_minutes_is_one_too_many(tmp_path, clock):
    assert safe_mode.start(tmp_path, ended_badly=False) == ""
    assert crash(tmp_path, clock, 10) == crash(tmp_path, clock, 100) == ""
    safe_mode.note_panic(tmp_path, ValueError("no such weight"))
    why = crash(tmp_path, clock, 100)
    assert why == "it crashed 3 times within 10 minutes, last with 'ValueError: no such weight'"
    assert crash(tmp_path, clock, 100).startswith("it crashed 4 times")
    assert crash(tmp_path, clock, 700) == ""


def test_a_stop_in_order_ends_it(tmp_path, clock):
    safe_mode.start(tmp_path, ended_badly=False)
    for _ in range(3):
        why = crash(tmp_path, clock, 1)
    assert why
    safe_mode.end_well(tmp_path)
    assert safe_mode.start(tmp_path, ended_badly=False) == ""
    assert crash(tmp_path, clock, 1) == ""


def test_power_cuts_are_no_crashes(tmp_path, clock):
    safe_mode.start(tmp_path, ended_badly=False)
    for _ in range(4):
        stored = json.loads((tmp_path / safe_mode.FILE).read_text())
        (tmp_path / safe_mode.FILE).write_text(json.dumps(stored | {"boot": "another"}))
        assert crash(tmp_path, clock, 1) == ""


@pytest.mark.parametrize("text", ["", "[]", '{"boot": 1, "at": 5}', "\x00"])
def test_a_torn_file_counts_nothing(tmp_path, clock, text):
    (tmp_path / safe_mode.FILE).write_text(text)
    assert safe_mode.start(tmp_path, ended_badly=True) == ""
