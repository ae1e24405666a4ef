"""The disk fails, or the process is gone, between any two writes: the old state or the new."""

import os
import resource

import pytest

from appliance.errors import DiskFullError
from appliance.trust.fetch import from_folder
from appliance.trust.statefolder import Disk, StateFolder
from appliance.trust.store import TrustStore
from tests.integration.trust_box import NAME, Box, opened, published


@pytest.fixture(params=["stick", "network"])
def form(request):
    return request.param


class Killed(BaseException):
    """The process is gone: nothing after it may touch the disk."""


class KilledAt(Disk):
    """Stops at the nth change; a write that is hit leaves half of its data."""

    def __init__(self, left):
        self.left = left

    def write(self, path, data):
        if self._is_hit():
            super().write(path, data[: len(data) // 2])
            raise Killed
        super().write(path, data)

    def _is_hit(self):
        self.left -= 1
        if self.left < 0:
            raise Killed
        return self.left == 0


for _name in ("make_folder", "rename", "sync_folder", "remove_tree"):

    def _changed(self, *arguments, _name=_name):
        if self._is_hit():
            raise Killed
        getattr(Disk, _name)(self, *arguments)

    setattr(KilledAt, _name, _changed)


def test_a_kill_at_any_change_leaves_the_old_or_the_new_state(tmp_path):
    repo = published()
    box = Box(tmp_path, repo)
    box.refresh(NAME)
    repo.publish("acme")
    box.refresh(NAME)
    acme = box.folder / "acme"
    pinned = (acme / "root.pin.json").read_bytes()
    kills, finished = 0, False
    seen = set()
    while not finished:
        old = (box.versions()["acme"], box.store.read([NAME]).targets[NAME].length)
        repo.add(NAME, b"x" * (10 + kills), "acme")
        repo.publish("acme")
        new = (repo.roles["acme"].version, 10 + kills)
        stick = from_folder(repo.write_to(tmp_path / f"stick{kills}"))
        try:
            dying = StateFolder(acme, KilledAt(kills + 1))
            TrustStore(dying, pinned, lambda: box.clock).refresh(stick, [NAME])
            finished = True
        except Killed:
            kills += 1
        now = (box.versions()["acme"], box.store.read([NAME]).targets[NAME].length)
        assert now in {old, new}
        seen.add(now == new)
        box.refresh(NAME)  # the next run clears up and goes on
        assert box.versions()["acme"] == new[0]
    assert kills >= 20
    assert seen == {False, True}
    states = sorted(path.name for path in (acme / "states").iterdir())
    assert all(name.isdecimal() for name in states)
    assert len(states) == 2


class FullDisk(Disk):
    def __init__(self, writes):
        self.writes = writes

    def write(self, path, data):
        self.writes -= 1
        if self.writes < 0:
            raise OSError(28, os.strerror(28))
        super().write(path, data)


@pytest.mark.parametrize("writes", [0, 1, 4, 6])
def test_a_full_disk_is_said_and_changes_nothing(tmp_path, writes):
    repo = published()
    box = Box(tmp_path, repo)
    box.refresh(NAME)
    current = box.current()
    repo.publish("acme")
    acme = box.folder / "acme"
    full = StateFolder(acme, FullDisk(writes))
    store = TrustStore(full, (acme / "root.pin.json").read_bytes(), lambda: box.clock)
    with pytest.raises(DiskFullError):
        store.refresh(from_folder(repo.write_to(box.stick)), [NAME])
    assert box.current() == current
    box.refresh(NAME)


@pytest.mark.parametrize("limit_bytes", [0, 700, 1500])
def test_a_disk_that_fills_while_reading_changes_nothing(form, tmp_path, limit_bytes):
    repo = published()
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        box.refresh(NAME)
        state = box.state()
        repo.publish("targets", "acme")
        repo.write_to(box.stick)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
        try:
            with pytest.raises(DiskFullError):
                box.refresh_again(NAME)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert box.state() == state
        box.refresh(NAME)
