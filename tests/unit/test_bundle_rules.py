"""The rules of states, and what smoke tests and states may look like. No disk but for the files."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from appliance.bundles import activate as rules
from appliance.bundles.resolve import Word
from appliance.bundles.revoke import revocation, take_back
from appliance.bundles.smoke import BUILT_IN, MAX_SMOKE_BYTES, SmokePlan
from appliance.bundles.state import MAX_BAD, BundleState, Kept, States, empty_state
from appliance.errors import ActivationError, LibraryError, NotFoundError
from appliance.library.manifest import Digest
from appliance.library.names import ModelName
from appliance.trust.repositories import Repository

NAME = ModelName.parse("acme/assistant:1.0")


def kept(version, variant="q4"):
    index, manifest = (str(Digest.of(f"{version} {what}".encode())) for what in ("i", "m"))
    return Kept(version, index, manifest, (index, manifest), variant, target=f"acme/a/{version}")


NEW = empty_state(NAME, "acme")
ONE, TWO, THREE = kept("1"), kept("2"), kept("3")


def installed(*releases):
    state = NEW
    for release in releases:
        state = rules.promote(rules.begin_smoke(rules.stage(state, release)), 5.0)
    return state


def versions(state):
    return [release and release.version for release in (state.active, state.previous)]


def test_what_is_promoted_is_active_and_the_one_before_is_kept():
    assert versions(installed(ONE)) == ["1", None]
    assert versions(installed(ONE, TWO, THREE)) == ["3", "2"]
    assert installed(ONE).active.tokens_per_s == 5.0


def test_the_same_release_again_does_not_push_the_previous_one_out():
    assert versions(installed(ONE, TWO, TWO)) == ["2", "1"]


def test_a_cut_short_test_counts_and_the_second_one_decides():
    state = rules.begin_smoke(rules.stage(installed(ONE), TWO))
    state = rules.resume(state, 10)
    assert (state.phase, state.staged.attempts) == ("staged", 1)
    state = rules.resume(rules.begin_smoke(rules.stage(state, TWO)), 20)
    assert (state.phase, state.staged) == ("failed", None)
    assert state.why_bad(Digest.parse(TWO.index), "q4").at_s == 20
    assert versions(state) == ["1", None]


def test_a_stopped_test_does_not_count():
    state = rules.stop_smoke(rules.begin_smoke(rules.stage(NEW, ONE)))
    assert (state.staged.attempts, state.phase) == (0, "staged")


def test_another_staged_release_starts_at_nought():
    state = rules.resume(rules.begin_smoke(rules.stage(NEW, ONE)), 10)
    assert rules.stage(state, TWO).staged.attempts == 0


def test_another_variant_of_a_bad_release_may_be_tried():
    failed = rules.fail(installed(ONE), rules.failure_of(TWO, "slow", 10))
    assert failed.why_bad(Digest.parse(TWO.index), "q8") is None
    assert rules.promote(rules.stage(failed, TWO), 1.0).bad == ()


def test_the_list_of_bad_ones_is_bounded_and_keeps_the_newest():
    state = NEW
    for number in range(MAX_BAD + 5):
        state = rules.fail(state, rules.failure_of(kept(str(number)), "bad", number))
    assert len(state.bad) == MAX_BAD
    assert state.bad[-1].version == str(MAX_BAD + 4)


STEPS = {
    "stage": rules.stage,
    "smoke": lambda state, _: rules.begin_smoke(state),
    "stop": lambda state, _: rules.stop_smoke(state),
    "die": lambda state, _: rules.resume(state, 1),
    "promote": lambda state, _: rules.promote(state, 1.0),
    "fail": lambda state, release: rules.fail(state, rules.failure_of(release, "bad", 1)),
    "back": lambda state, _: rules.go_back(state, 1),
    "pin": lambda state, release: rules.pin(state, release.version),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.sampled_from([ONE, TWO, THREE]))))
def test_no_order_of_steps_leaves_a_box_without_a_release_once_it_had_one(steps):
    state = installed(ONE)
    for step, release in steps:
        try:
            state = STEPS[step](state, release)
        except ActivationError:
            continue
        assert state.active is not None
        assert state.previous != state.active
        assert state.staged is None or state.staged.attempts >= 0
        if step in {"promote", "back"}:
            assert state.why_bad(Digest.parse(state.active.index), "q4") is None
        assert {Digest.parse(text) for text in state.active.blobs} <= state.digests
        assert msgspec.json.decode(msgspec.json.encode(state), type=BundleState) == state


# -- revocation


class Listed:
    def __init__(self, release, is_revoked=False):
        self.sha256 = release.index.removeprefix("sha256:")
        self.is_revoked = is_revoked


def word(**targets):
    return Word(None, {f"acme/a/{version[1:]}": target for version, target in targets.items()})


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (word(v2=Listed(TWO)), ""),
        (word(v1=None), ""),  # nobody asked for this one
        (word(v2=None), "does not list"),
        (word(v2=Listed(TWO, is_revoked=True)), "took"),
        (word(v2=Listed(THREE)), "replaced"),
    ],
)
def test_what_counts_as_taken_back(said, why):
    assert why in revocation(TWO, said)
    assert bool(why) == bool(revocation(TWO, said))


def test_actions_on_a_release_that_was_taken_back():
    state, gone = installed(ONE, TWO), word(v2=None, v1=Listed(ONE))
    assert versions(take_back(state, "gone", gone, "warn")) == ["2", "1"]
    assert take_back(state, "gone", gone, "warn").revoked == "gone"
    assert versions(take_back(state, "gone", gone, "replace")) == ["1", "2"]
    newer = word(v2=None, v1=Listed(ONE), v3=Listed(THREE))
    assert versions(take_back(state, "gone", newer, "replace")) == ["2", "1"]  # 3 is on its way
    bad = rules.fail(state, rules.failure_of(THREE, "it failed", 5))
    assert versions(take_back(bad, "gone", newer, "replace")) == ["1", "2"]  # and 3 failed here
    both = word(v2=None, v1=None)
    assert versions(take_back(state, "gone", both, "replace")) == ["2", "1"]
    stopped = take_back(state, "gone", gone, "stop")
    assert (stopped.active, stopped.is_stopped) == (None, True)
    assert stopped.bad[-1].version == "2"
    assert take_back(replace(state, revoked="gone"), "", gone, "warn").revoked == ""


# -- files


def test_states_are_kept_apart_and_found_without_case(tmp_path):
    states = States(tmp_path)
    states.write(NAME, installed(ONE))
    assert versions(states.get(ModelName.parse("ACME/Assistant:1.0"))) == ["1", None]
    assert states.find(ModelName.parse("acme/assistant")) is None
    with pytest.raises(NotFoundError):
        states.get(ModelName.parse("acme/other"))
    assert list(states.names()) == [NAME]
    assert states.roots() == installed(ONE).digests
    states.remove(NAME)
    assert list(states.names()) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: body | {"sha256": "0" * 64},
        lambda body: body | {"more": 1},
        lambda body: {**body, "state": {**body["state"], "more": 1}},
        lambda body: {**body, "state": {**body["state"], "name": "another"}},
        lambda body: [body],
    ],
)
def test_a_file_that_was_changed_is_refused(tmp_path, spoil):
    states = States(tmp_path)
    states.write(NAME, installed(ONE))
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(json.dumps(spoil(json.loads(path.read_bytes()))).encode())
    for ask in (lambda: states.get(NAME), states.roots):
        with pytest.raises(LibraryError, match="damaged"):
            ask()


def test_a_digest_that_is_none_is_refused(tmp_path):
    states = States(tmp_path)
    states.write(NAME, replace(installed(ONE), active=replace(ONE, blobs=("../../etc/passwd",))))
    with pytest.raises(LibraryError, match="damaged"):
        states.get(NAME)


def test_an_unchanged_state_is_not_written_again(tmp_path):
    states = States(tmp_path)
    states.write(NAME, installed(ONE))
    (path,) = tmp_path.rglob("*.json")
    before = path.stat().st_ino
    states.change(NAME, replace)
    assert path.stat().st_ino == before


# -- smoke tests

TURN = {"role": "user", "content": "hi"}
TEST = {"name": "t", "messages": [TURN]}


def plan(**fields):
    return json.dumps({"tests": [TEST], **fields}).encode()


def test_smoke_tests_have_defaults():
    (test,) = SmokePlan.parse(plan()).tests
    assert (test.max_tokens, test.timeout_s, test.contains, test.matches) == (64, 120, (), "")
    assert BUILT_IN.tests[0].max_tokens == 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        plan(tests=[]),
        plan(tests=[TEST] * 65),
        plan(more=1),
        plan(min_tokens_per_s=-1),
        plan(min_tokens_per_s="fast"),
        plan(tests=[{**TEST, "messages": []}]),
        plan(tests=[{**TEST, "messages": [{**TURN, "role": "tool"}]}]),
        plan(tests=[{**TEST, "messages": [{**TURN, "images": []}]}]),
        plan(tests=[{**TEST, "messages": [{**TURN, "content": "x" * 70_000}]}]),
        plan(tests=[{**TEST, "max_tokens": 0}]),
        plan(tests=[{**TEST, "max_tokens": 1 << 20}]),
        plan(tests=[{**TEST, "timeout_s": 0}]),
        plan(tests=[{**TEST, "matches": "("}]),
        plan(tests=[{**TEST, "matches": "x" * 1001}]),
        plan(tests=[{**TEST, "contains": [""]}]),
        plan(tests=[{**TEST, "name": ""}]),
        b"[" * 100_000,
        b" " * MAX_SMOKE_BYTES + plan(),
    ],
    ids=lambda data: data[:60].decode(),
)
def test_smoke_tests_that_are_refused(data):
    with pytest.raises(LibraryError, match="smoke tests cannot be used"):
        SmokePlan.parse(data)


# -- where releases are had


@pytest.mark.parametrize(
    ("metadata_url", "content", "addresses"),
    [
        ("https://a/x/tuf/acme/metadata/", (), ("https://a/x",)),
        ("https://a/metadata/", (), ()),
        ("", (), ()),
        ("https://a/tuf/acme/metadata", ("registry+https://r:5000",), ("registry+https://r:5000",)),
    ],
)
def test_the_addresses_of_a_repository(metadata_url, content, addresses):
    repository = Repository("acme", ("acme/*",), metadata_url=metadata_url, content=content)
    repository.check()
    assert repository.addresses == addresses
