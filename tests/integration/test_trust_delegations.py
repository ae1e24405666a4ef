"""Who may speak for a name: our walk through delegations finds what python-tuf's own finds."""

import random

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from appliance.trust.errors import TrustError
from appliance.trust.fetch import from_folder
from tests.fakes.tuf_repository import TufRepository
from tests.integration.trust_box import Box

NAMES = ["acme/a/1", "acme/b/1", "rival/a/1"]
PATTERNS = ["acme/*/*", "acme/a/*", "*/*/1", "rival/*/*", "*/a/*"]


class Memory(FetcherInterface):
    """A repository's files for python-tuf, without our readers."""

    def __init__(self, files):
        self._files = files

    def _fetch(self, url):
        name = url.rpartition("/")[2]
        if name not in self._files:
            raise DownloadHTTPError(name, 404)
        yield self._files[name]


def scrambled(seed):
    """Up to eight roles that delegate to each other at random, each listing some names."""
    rng = random.Random(seed)
    repo = TufRepository()
    roles = [f"role{number}" for number in range(rng.randint(1, 8))]
    for role in roles:
        repo.delegate(role, rng.sample(PATTERNS, 2), terminating=rng.random() < 0.2)
    for role in roles:
        for child in rng.sample(roles, rng.randint(0, len(roles))):
            repo.delegate(
                child, rng.sample(PATTERNS, 1), parent=role, terminating=rng.random() < 0.2
            )
        for name in rng.sample(NAMES, rng.randint(0, 2)):
            repo.add(name, f"{name} by {role}".encode(), role)
    repo.publish("targets", *roles)
    return repo


@pytest.mark.parametrize("seed", range(25))
def test_every_name_has_the_same_owner_as_in_python_tuf(tmp_path, seed):
    repo = scrambled(seed)
    box = Box(tmp_path, repo)
    (tmp_path / "other").mkdir()
    root = repo.files["1.root.json"]
    updater = Updater(
        str(tmp_path / "other"), "memory:/", fetcher=Memory(repo.files), bootstrap=root
    )
    for name in NAMES:
        expected = updater.get_targetinfo(name)
        if expected is None:
            assert box.refused(name) == "not_listed"
        else:
            assert box.refresh(name).targets[name].hashes == expected.hashes
        found = box.store.read([name]).targets.get(name)
        assert (found and found.hashes) == (expected and expected.hashes)


def test_a_publisher_of_two_keys_needs_both(tmp_path):
    repo = TufRepository()
    repo.delegate("acme", ["acme/*/*"], count=2, threshold=2)
    repo.add(NAMES[0], b"one", "acme")
    repo.publish("targets", "acme")
    box = Box(tmp_path, repo)
    assert box.refresh(NAMES[0]).targets[NAMES[0]].length == 3
    repo.signers["acme"].pop()
    repo.publish("acme")
    assert box.refused(NAMES[0]) == "signature"


def test_a_publisher_that_was_taken_off_lists_nothing(tmp_path):
    repo = TufRepository()
    repo.delegate("acme", ["acme/*/*"])
    repo.add(NAMES[0], b"one", "acme")
    repo.publish("targets", "acme")
    box = Box(tmp_path, repo)
    box.refresh(NAMES[0])
    repo.targets.delegations = None  # the snapshot keeps naming it, or clients would refuse it
    repo.publish("targets")
    box.refresh()
    assert box.refused(NAMES[0]) == "not_listed"
    assert box.store.read([NAMES[0]]).targets == {}


def test_a_name_is_unknown_while_a_role_before_it_is_missing(tmp_path):
    """A more trusted role might list another file under the same name."""
    repo = TufRepository()
    for role in ("first", "second"):
        repo.delegate(role, ["acme/*/*"])
    repo.add(NAMES[0], b"one", "second")
    repo.publish("targets", "first", "second")
    box = Box(tmp_path, repo)
    box.refresh(NAMES[0])
    for path in (box.folder / "acme" / "states").rglob("first.json"):
        path.write_bytes(b"")
    assert box.store.read([NAMES[0]]).targets == {}
    box.refresh(NAMES[0])
    assert box.store.read([NAMES[0]]).targets[NAMES[0]].length == 3


def test_an_unlisted_name_on_a_stick_changes_nothing(tmp_path):
    repo = TufRepository()
    box = Box(tmp_path, repo)
    box.refresh()
    state = box.state()
    repo.publish("targets")
    with pytest.raises(TrustError, match="no publisher lists"):
        box.store.refresh(from_folder(repo.write_to(tmp_path / "new")), ["acme/none/1"])
    assert box.state() == state
