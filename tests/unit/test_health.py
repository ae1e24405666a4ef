"""The doctor's rules: each condition from the facts that make it, and a healthy box without any."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from appliance.cli.doctor import screen
from appliance.discovery.discovery import DiscoveryStatus, Word
from appliance.hardware import Memory
from appliance.health import (
    CHECKS,
    DAY_S,
    GIB,
    MIB,
    Facts,
    Folder,
    PartialBlob,
    RepositoryState,
    Severity,
    examine,
    is_well,
)
from appliance.http.doctor import answer
from appliance.library.library import Problem
from appliance.trust.clock import ClockState, TrustedTime

NOW_S = 1_800_000_000
STATE = Folder(Path("/state"), True, True, True, 100 * GIB, 200 * GIB)
WELL = Facts(
    state=STATE,
    models=replace(STATE, path=Path("/state/models")),
    memory=Memory(8 * GIB, 4 * GIB),
    reserve_bytes=512 * MIB,
    clock=TrustedTime(NOW_S, ClockState.SYNCED),
    repositories=[RepositoryState("acme", NOW_S + 90 * DAY_S, NOW_S - DAY_S)],
    partials=[PartialBlob("sha256-x-part", 5 * MIB, 60.0)],
    has_database=True,
)


def repository(**changes):
    return {"repositories": [replace(WELL.repositories[0], **changes)]}


CASES = {
    "state_absent": {"state": Folder(Path("/no"), False, False, True, 0, 0)},
    "state_read_only": {"state": replace(STATE, is_writable=False)},
    "models_read_only": {"models": replace(STATE, is_writable=False)},
    "state_not_private": {"state": replace(STATE, is_private=False)},
    "disk_full": {"models": replace(STATE, free_bytes=MIB)},
    "disk_low": {"models": replace(STATE, free_bytes=5 * GIB)},
    "manifest_unreadable": {"problems": [Problem(PurePosixPath("h/n/m/t"), "not JSON")]},
    "blob_missing": {"problems": [Problem(PurePosixPath("h/n/m/t"), "gone", is_missing=True)]},
    "blobs_damaged": {"set_aside": ["sha256-ab"]},
    "downloads_stuck": {"partials": [PartialBlob("sha256-x-part", MIB, 2 * DAY_S)]},
    "memory_low": {"memory": Memory(8 * GIB, 100 * MIB)},
    "reserve_too_large": {"reserve_bytes": 5 * GIB},
    "clock_behind": {"clock": TrustedTime(NOW_S, ClockState.BEHIND)},
    "clock_suspect": {"clock": TrustedTime(NOW_S, ClockState.SUSPECT)},
    "repository_unreadable": repository(problem="torn"),
    "repository_expired": repository(expires_s=NOW_S - 3 * DAY_S),
    "repository_silent": repository(issued_s=NOW_S - 40 * DAY_S),
    "repository_expires_soon": repository(expires_s=NOW_S + 3 * DAY_S),
    "discovery_blocked": {"discovery": DiscoveryStatus(Word.BLOCKED, "port 5353 is taken")},
    "discovery_no_network": {"discovery": DiscoveryStatus(Word.ON, "no network")},
    "database_absent": {"has_database": False},
}
NOTES = {"repository_expires_soon", "database_absent"}


def test_a_healthy_box_has_no_conditions():
    assert examine(WELL) == []
    assert screen(answer([])) == "Nothing is wrong.\n"


@pytest.mark.parametrize("code", CASES)
def test_each_condition_comes_alone_from_its_facts(code):
    (found,) = examine(replace(WELL, **CASES[code]))
    assert found.code == code
    assert found.title
    assert found.text
    assert is_well([found]) == (code in NOTES)
    assert found.cure or found.severity is Severity.NOTE
    assert found.text in screen(answer([found]))


def test_the_worst_comes_first_and_every_check_has_a_case():
    everything = {}
    for changes in CASES.values():
        everything |= changes
    found = examine(replace(WELL, **everything))
    ranks = [list(Severity).index(condition.severity) for condition in found]
    assert ranks == sorted(ranks, reverse=True)
    silent = [
        check.__name__
        for check in CHECKS
        if not any(list(check(replace(WELL, **changes))) for changes in CASES.values())
    ]
    assert silent == []


def test_one_disk_is_told_once():
    full = replace(STATE, free_bytes=MIB)
    assert [c.code for c in examine(replace(WELL, state=full, models=full))] == ["disk_full"]


def test_a_small_disk_that_is_half_free_is_no_trouble():
    small = replace(STATE, free_bytes=2 * GIB, total_bytes=8 * GIB)
    assert examine(replace(WELL, state=small, models=small)) == []
