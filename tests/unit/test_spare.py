"""Which releases may be given up for room: never the active one, nor the last that was good."""

from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from appliance.bundles.spare import give_up, spare, spare_digests
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


def test_blobs_that_something_else_keeps_would_not_be_free():
    a, b, c, d = (f"sha256:{letter * 64}" for letter in "abcd")
    previous, active = (replace(ACTIVE, blobs=blobs) for blobs in ((a, b), (b, c)))
    one = replace(FULL, active=active, previous=previous, staged=None)
    other = replace(one, name="h/n/o:t", active=replace(active, blobs=(d,)), previous=None)
    assert {str(digest) for digest in spare_digests([one, other])} == {a}
    shares = replace(other, active=replace(active, blobs=(a,)))
    assert spare_digests([one, shares]) == frozenset()


def test_what_is_not_spare_any_more_is_left_alone():
    state = replace(FULL, staged=Staged(NEXT, is_testing=True))
    for release in (ACTIVE, PREVIOUS, NEXT, kept("9")):
        assert give_up(state, release) == state
