"""Damaged and hostile metadata: flipped bytes, names that want out of the folder, odd text."""

import pytest
from tuf.api.metadata import MetaFile

from appliance.trust.errors import TrustError
from tests.fakes.tuf_repository import TufRepository, tree
from tests.integration.trust_box import NAME, Box, opened, published


@pytest.fixture(params=["stick", "network"])
def form(request):
    return request.param


def test_every_flipped_byte_is_refused_or_without_effect(tmp_path):
    repo = published()
    box = Box(tmp_path, repo)
    box.refresh(NAME)
    repo.publish("targets", "acme")
    names = ["timestamp.json", f"{repo.snapshot.version}.snapshot.json"]
    names += [f"{repo.targets.version}.targets.json", f"{repo.roles['acme'].version}.acme.json"]
    state, refusals = box.state(), 0
    for name in names:
        honest = repo.files[name]
        for position in range(0, len(honest), 61):
            damaged = bytearray(honest)
            damaged[position] ^= 0x04
            repo.files[name] = bytes(damaged)
            assert box.refused(NAME) in {"malformed", "signature", "mix", "too_large", "rollback"}
            assert box.state() == state
            refusals += 1
        repo.files[name] = honest
    assert refusals > 30
    box.refresh(NAME)


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "acme/../x/y", "acme/a\0b/c", "/etc/passwd", "", "a" * 100_000]
)
def test_hostile_target_names_are_not_listed(form, tmp_path, name):
    repo = published()
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        box.refresh(NAME)
        state = box.state()
        assert box.refused(name) == "not_listed"
        assert box.state() == state


def test_a_name_outside_of_a_publishers_delegation_is_not_listed(form, tmp_path):
    repo = published()
    repo.add("acme/assistant/6.6.6", b"evil", "rival")
    repo.publish("rival")
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        assert box.refused("acme/assistant/6.6.6") == "not_listed"
        assert box.store.read(["acme/assistant/6.6.6"]).targets == {}


@pytest.mark.parametrize("role", ["../../../evil", "..", "a/b", "a\0b", "%2e%2e/x", "ロール"])
def test_hostile_role_names_stay_in_the_folder(form, tmp_path, role):
    repo = TufRepository()
    repo.delegate(role, ["acme/*/*"])
    repo.add(NAME, b"one", role)
    repo.publish("targets", role)
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        outside = {name for name in tree(tmp_path) if not name.startswith(("trust/", "stick/"))}
        assert box.refresh(NAME).targets[NAME].length == 3
        now = {name for name in tree(tmp_path) if not name.startswith(("trust/", "stick/"))}
        assert now == outside
        assert {name.count("/") for name in box.current()} <= {0, 1}


def test_a_role_name_too_long_for_a_file_is_refused(tmp_path):
    repo = TufRepository()
    box = Box(tmp_path, repo)
    box.refresh()
    state = box.state()
    role = "r" * 300
    repo.delegate(role, ["acme/*/*"])
    repo.snapshot.meta[f"{role}.json"] = MetaFile(1)
    repo.publish("targets")
    assert box.refused(NAME) == "incomplete"
    assert box.state() == state


def test_a_strangers_text_is_told_short_and_printable(tmp_path):
    repo = published()
    box = Box(tmp_path, repo)
    box.refresh()
    repo.snapshot.meta["\x1b[2J\n" + "x" * 5000 + ".json"] = MetaFile(3)
    repo.publish("snapshot")
    box.refresh()
    repo.snapshot.meta.popitem()
    repo.publish("snapshot")
    with pytest.raises(TrustError) as caught:
        box.refresh()
    assert caught.value.code == "mix"
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


def test_duplicate_json_keys_mean_what_was_signed(form, tmp_path):
    repo = published()
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        repo.files["timestamp.json"] = repo.files["timestamp.json"].replace(
            b'"signed":', b'"signed": {"version": 9999}, "signed":', 1
        )
        box.refresh(NAME)
        assert box.versions()["timestamp"] == repo.timestamp.version
