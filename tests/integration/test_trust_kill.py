"""SIGKILL and power cut at any moment leave the old trusted state or the new, never a mix."""

import subprocess
import sys

from appliance.trust.fetch import from_folder
from appliance.trust.repositories import Repositories, Repository, read_root
from appliance.trust.statefolder import Disk, StateFolder
from appliance.trust.store import TrustStore
from tests.fakes.tuf_repository import TufRepository
from tests.integration import trust_victim
from tests.integration.trust_victim import NAME

KILLS = 30
STICKS = 150


def published(tmp_path):
    repo = TufRepository()
    repo.delegate("acme", ["acme/*/*"])
    repositories = Repositories(tmp_path / "trust")
    root = repo.files["1.root.json"]
    repositories.enrol(Repository("acme", ("acme/*",)), root, read_root(root).fingerprint)
    return repo, repositories.store("acme")


def test_thirty_kills_leave_no_broken_state(tmp_path):
    repo, store = published(tmp_path)
    lengths = {}
    for number in range(STICKS):
        repo.add(NAME, b"x" * number, "acme")
        repo.publish("targets", "acme")
        repo.write_to(tmp_path / f"stick{number}")
        lengths[repo.roles["acme"].version] = number
    store.refresh(from_folder(tmp_path / "stick0"), [NAME])
    victim = subprocess.Popen(
        [sys.executable, trust_victim.__file__, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with victim:
        reached = 0
        for _ in range(KILLS):
            victim.stdin.write(f"{reached}\n")
            victim.stdin.flush()
            assert victim.stdout.readline() == "killed\n"
            trusted = store.read([NAME])
            number = lengths[trusted.versions["acme"]]
            assert trusted.targets[NAME].length == number
            assert number > reached
            reached = number
        victim.stdin.close()
    assert 0 < reached < STICKS - 1
    store.refresh(from_folder(tmp_path / f"stick{STICKS - 1}"), [NAME])
    states = sorted(path.name for path in (tmp_path / "trust/acme/states").iterdir())
    assert len(states) == 2
    assert all(name.isdecimal() for name in states)


class CutDisk(Disk):
    """Keeps a second tree of what a power cut would leave: names count once their folder is synced.

    `at_cut` is called after each change.
    """

    def __init__(self, real, cut, at_cut):
        self._real, self._cut, self._at_cut = real, cut, at_cut
        self._waiting = {}

    def make_folder(self, path):
        super().make_folder(path)
        self._twin(path).mkdir(parents=True, exist_ok=True)
        self._at_cut()

    def write(self, path, data):
        super().write(path, data)
        self._later(path, lambda: self._twin(path).write_bytes(data))

    def rename(self, old, new):
        super().rename(old, new)
        self._later(new, lambda: self._twin(old).rename(self._twin(new)))

    def sync_folder(self, path):
        super().sync_folder(path)
        for change in self._waiting.pop(path, []):
            change()
        self._at_cut()

    def _later(self, path, change):
        self._waiting.setdefault(path.parent, []).append(change)
        self._at_cut()

    def _twin(self, path):
        return self._cut / path.relative_to(self._real)


def test_a_power_cut_after_any_change_leaves_the_old_or_the_new_state(tmp_path):
    repo, _ = published(tmp_path)
    real, cut = tmp_path / "trust" / "acme", tmp_path / "cut"
    cut.mkdir()
    seen = []

    def look():
        after_cut = StateFolder(cut)
        seen.append((after_cut.floor(), after_cut.read()))

    folder = StateFolder(real, CutDisk(real, cut, look))
    store = TrustStore(folder, (real / "root.pin.json").read_bytes())
    states = [(None, {})]
    for number in range(4):
        repo.add(NAME, b"x" * number, "acme")
        repo.publish("targets", "acme")
        seen.clear()
        store.refresh(from_folder(repo.write_to(tmp_path / f"stick{number}")), [NAME])
        states.append((folder.floor(), store.files()))
        for state in seen:
            assert state in states[-2:] or (number == 0 and state[0] is None)
        assert seen[-1] == states[-1]
        assert len(seen) > 10
