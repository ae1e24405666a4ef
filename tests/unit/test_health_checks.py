"""The checks of the board and of the running process: each condition alone, from its facts."""

from dataclasses import replace
from pathlib import Path

import pytest

from appliance.checks.device import DEVICE_CHECKS
from appliance.checks.running import RUN_CHECKS, RunFacts
from appliance.conditions import Severity
from appliance.device.reading import (
    Board,
    Clock,
    DeviceReading,
    Disk,
    Stall,
    Swap,
    Throttling,
    Zone,
)
from appliance.hardware import Memory
from appliance.health import CHECKS, examine, is_well
from appliance.incidents import Incident, Kind
from appliance.last_update import LastUpdate, Result
from appliance.trust.clock import ClockState
from tests.unit.test_health import WELL

GIB = 1 << 30
DISK = Disk(Path("/"), "nvme0n1", "nvme", 100 * GIB, 200 * GIB, life_used=0.03)
FINE = DeviceReading(
    memory=Memory(8 * GIB, 4 * GIB),
    clock=Clock(True, ClockState.SYNCED),
    zones=(Zone("cpu", 60.0), Zone("gpu", 90.0, passive=99.0)),
    disks=(DISK,),
    stalls={name: Stall(1.0, 1.0, 0.0) for name in ("cpu", "memory", "io")},
    swap=Swap(0, 0, 0.0),
    oom_kills=0,
    board=Board("box", 4096, "schedutil", "active"),
)


def throttling(now, past=()):
    return {"throttling": Throttling(tuple(now), tuple(past or now))}


def disk(**changes):
    return {"disks": (replace(DISK, **changes),)}


def stalls(**shares):
    return {"stalls": {name: Stall(share, share, 0.0) for name, share in shares.items()}}


BOARD = {
    "undervoltage": throttling(["undervoltage"]),
    "undervoltage_past": throttling([], ["undervoltage"]),
    "over_current": throttling([], ["over_current"]),
    "throttled": throttling(["thermal", "freq_cap"]),
    "throttled_past": throttling([], ["soft_temp_limit"]),
    "hot": {"zones": (Zone("cpu", 80.0),)},
    "storage_worn": disk(life_used=0.9),
    "disk_remounted": disk(is_read_only=True),
    "disk_errors": disk(errors=2),
    "disk_failing": disk(is_failing=True),
    "system_remounted": {"remounted": ("/boot/firmware",)},
    "models_on_card": {
        "disks": (replace(DISK, kind="sd"), DISK),
        "better_disks": ("nvme0n1",),
    },
    "clock_unsynced": {"clock": Clock(False, ClockState.PLAUSIBLE)},
    "memory_pressure": stalls(memory=20.1),
    "io_pressure": stalls(io=41.0),
    "cpu_pressure": stalls(cpu=81.0),
    "swap_thrashing": {"swap": Swap(GIB, GIB, 501.0)},
    "models_disk_slow": {"disks": (replace(DISK, kind="usb"), DISK)},
    "state_on_card": {"disks": (DISK, replace(DISK, kind="sd"))},
    "large_pages": {"board": Board(page_bytes=16384)},
    "governor_powersave": {"board": Board(governor="powersave")},
    "watchdog_inactive": {"board": Board(watchdog="inactive")},
}


def happened(kind, *texts):
    return {"incidents": [Incident(0.0, kind, text) for text in texts]}


def own_update(result, reason="", old="0.9.0", age_s=60.0):
    done = LastUpdate(1_764_306_000, old, "0.10.0", result, reason)
    return {"own_update": done, "own_update_age_s": age_s}


RUN = {
    "port_taken": {"port_holder": "another program has it"},
    "port_unusual": {"port": 8080},
    "open_files_low": {"open_files": 256},
    "service_unwatched": {"is_unit": True},
    "engine_absent": {"has_engine": False},
    "gpu_unused": {"gpu": "NVIDIA L4"},
    "setting_unknown": {"setting_warnings": ["environment variable HEARTH_PORT is not a setting"]},
    "scrub_late": {"unread_s": 61 * 86_400.0},
    "update_failed": {"failed_updates": ["release 2 of x is not used: it answers nothing"]},
    "hearth_returned": own_update(Result.RETURNED, "it ended 3 times: no"),
    "disk_reserve": {"reserve_bytes": 2 * GIB, "reserved_free_bytes": 2 * GIB - 1},
    "unclean_stop": {"ended_badly": True},
    "workers_see_files": {"has_landlock": False},
    "safe_mode": {"safe_mode": "it crashed 3 times within 10 minutes"},
    "settings_broken": {"broken_file": "hearth.toml is not TOML"},
    "worker_oom": happened(Kind.WORKER_OOM, "a", "b"),
    "worker_crashed": happened(Kind.WORKER_CRASHED, "a"),
    "unloaded_for_memory": happened(Kind.UNLOADED, "a"),
    "release_dropped": happened(Kind.DROPPED, "a"),
    "concurrency_lowered": {"lowered_slots": 2},
    "system_failed": {"failed_systems": ["system 2 was restarted: a", "system 2 is not used"]},
}


def test_a_box_that_is_well_has_no_conditions():
    assert examine(replace(WELL, device=FINE)) == []


@pytest.mark.parametrize("code", BOARD)
def test_a_board_has_each_condition_alone(code):
    (found,) = examine(replace(WELL, device=replace(FINE, **BOARD[code])))
    check(found, code)


@pytest.mark.parametrize("code", RUN)
def test_a_process_has_each_condition_alone(code):
    (found,) = examine(replace(WELL, run=RunFacts(**RUN[code])))
    check(found, code)


def check(found, code):
    """A code, one sentence, one cure."""
    assert found.code == code
    for words in (found.title, found.text, found.cure):
        assert words
        assert not words.endswith(".")
        assert "\n" not in words


def test_there_are_thirty_checks_and_each_was_seen_to_speak():
    assert len(CHECKS) + len(DEVICE_CHECKS) + len(RUN_CHECKS) >= 30
    assert len(BOARD) == len(DEVICE_CHECKS)
    assert len(RUN) == len(RUN_CHECKS)


@pytest.mark.parametrize(
    ("code", "changes", "severity"),
    [
        ("storage_worn", disk(life_used=1.1), Severity.ERROR),
        ("storage_worn", disk(is_worn=True), Severity.ERROR),
        ("storage_worn", disk(life_used=0.8), Severity.WARNING),
        ("undervoltage", throttling(["undervoltage"]), Severity.ERROR),
        ("hot", {"zones": (Zone("gpu", 97.0, passive=99.0),)}, Severity.WARNING),
    ],
)
def test_how_bad_it_is(code, changes, severity):
    (found,) = examine(replace(WELL, device=replace(FINE, **changes)))
    assert (found.code, found.severity) == (code, severity)
    assert not is_well([found])


@pytest.mark.parametrize(
    "changes",
    [
        {"zones": (Zone("cpu", 79.9), Zone("gpu", 96.9, passive=99.0))},
        stalls(memory=20.0, io=40.0, cpu=80.0),
        {"swap": Swap(GIB, GIB, None)},
        disk(life_used=0.79),
        disk(life_used=None, is_worn=False),
        {"disks": ()},
        {"zones": (), "stalls": {}, "swap": None},
    ],
)
def test_just_short_of_it_is_nothing(changes):
    assert examine(replace(WELL, device=replace(FINE, **changes))) == []


@pytest.mark.parametrize(
    ("facts", "code", "words"),
    [
        (own_update(Result.SERVES), "hearth_updated", "0.10.0 serves since 2025-11-28 05:00 UTC"),
        (own_update(Result.RETURNED, "no", age_s=1e9), "hearth_returned", "(no): 0.9.0 is back"),
        (own_update(Result.FAILED, old=""), "hearth_update_failed", "0.10.0 did not answer on"),
        (own_update(Result.REFUSED, "not signed"), "hearth_refused", "and refused (not signed)"),
    ],
)
def test_how_the_last_update_of_hearth_itself_ended(facts, code, words):
    (found,) = examine(replace(WELL, run=RunFacts(**facts)))
    check(found, code)
    assert words in found.text
    assert is_well([found]) == (code == "hearth_updated")


def test_a_good_update_is_no_news_after_a_week():
    old = own_update(Result.SERVES, age_s=7 * 86_400.0)
    assert examine(replace(WELL, run=RunFacts(**old))) == []
