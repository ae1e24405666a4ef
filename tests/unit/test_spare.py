"""Which releases may be given up for room: never the active one, nor the last that was good."""

from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from appliance.bundles.spare import give_up, spare
from appliance.bundles.state import BundleState, Kept, Staged

DIGEST = "sha256:" + "0" * 64


def kept(version):
    return Kept(version, DIGEST, DIGEST, (DIGEST,), "f32")


ACTIVE, PREVIOUS, NEXT = kept("2"), kept("1"), kept("3")
FULL = BundleState("h/n/m:t", "acme", ACTIVE, PREVIOUS, Staged(NEXT))


@dataclass
class Case:
    changes: dict = field(default_factory=dict)
    spare: tuple = ()


@pytest.mark.parametrize(
    "case",
    [
        Case({}, (NEXT, PREVIOUS)),
        Case({"staged": None}, (PREVIOUS,)),
        Case({"previous": None}, (NEXT,)),
        Case({"staged": Staged(NEXT, is_testing=True)}, ()),
        Case({"revoked": "taken back"}, (NEXT,)),
        Case({"is_stopped": True, "active": None}, (NEXT,)),
        Case({"active": None, "staged": None}, ()),
        Case({"previous": None, "staged": None}, ()),
    ],
)
def test_what_is_spare(case):
    state = replace(FULL, **case.changes)
    assert spare(state) == case.spare
    for release in case.spare:
        after = give_up(state, release)
        assert after.active == state.active
        assert release not in after.kept


def test_what_is_not_spare_any_more_is_left_alone():
    state = replace(FULL, staged=Staged(NEXT, is_testing=True))
    for release in (ACTIVE, PREVIOUS, NEXT, kept("9")):
        assert give_up(state, release) == state
