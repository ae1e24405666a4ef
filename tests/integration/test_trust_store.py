"""The trust store over time: progress, half sticks, torn files, recovery, wrong clocks."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from appliance.trust.clock import ClockReading
from appliance.trust.errors import TrustError
from appliance.trust.fetch import FolderReader, Source, from_folder
from appliance.trust.statefolder import StateFolder
from appliance.trust.store import TrustStore
from tests.fakes.tuf_repository import TufRepository, days
from tests.integration.trust_box import Box, opened
from tests.integration.trust_box import published as with_rival

NAME = "acme/assistant/1.2.0"


@pytest.fixture(params=["stick", "network"])
def form(request):
    return request.param


def published():
    repo = TufRepository()
    repo.delegate("acme", ["acme/*/*"])
    repo.add(NAME, b"one", "acme")
    repo.publish("targets", "acme")
    return repo


def test_a_new_release_replaces_the_old(form, tmp_path):
    repo = published()
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        assert box.refresh(NAME).targets[NAME].length == 3
        repo.add(NAME, b"twotwo", "acme")
        repo.publish("acme")
        assert box.refresh(NAME).targets[NAME].length == 6
        assert box.store.read([NAME, "acme/no/1"]).targets[NAME].length == 6


def test_a_refresh_without_news_writes_nothing(form, tmp_path):
    repo = published()
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        box.refresh(NAME)
        before = {path: path.stat().st_mtime_ns for path in box.folder.rglob("*.json")}
        box.refresh(NAME)
        assert {path: path.stat().st_mtime_ns for path in box.folder.rglob("*.json")} == before


def test_one_state_before_the_current_is_kept_and_no_more(tmp_path):
    repo = published()
    box = Box(tmp_path, repo)
    for _ in range(4):
        repo.publish("acme")
        box.refresh()
    names = sorted(path.name for path in (box.folder / "acme" / "states").iterdir())
    assert names == ["3", "4"]


def test_a_long_chain_of_roots_is_followed_and_an_old_stick_still_works(form, tmp_path):
    repo = published()
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        for _ in range(12):
            repo.next_root("root")
        box.refresh(NAME)
        assert box.versions()["root"] == 13
        for version in range(2, 14):
            del repo.files[f"{version}.root.json"]
        box.refresh(NAME)
        assert box.versions()["root"] == 13


def test_two_of_three_officers_rotate_one(form, tmp_path):
    repo = published()
    repo.set_keys("root", 3, 2)
    repo.root.version = 1
    repo.publish_root()
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        box.refresh()
        leaver, *rest = repo.signers["root"]
        repo.set_keys("root", 1, 2)
        for signer in rest:
            repo.root.add_key(signer.public_key, "root")
        repo.root.version = 2
        repo.publish_root([leaver, *repo.signers["root"]])
        state = box.state()
        assert box.refused() == "signature"  # one old and one new: neither has two
        assert box.state() == state
        repo.publish_root([*rest, *repo.signers["root"]])
        box.refresh()
        assert box.versions()["root"] == 2


def test_a_half_copied_stick_leaves_the_complete_one_acceptable(tmp_path):
    repo = published()
    box = Box(tmp_path, repo)
    complete = repo.saved()
    repo.publish("targets", "acme")
    newest = repo.saved()
    for missing in [name for name in newest if name not in complete] + ["timestamp.json"]:
        repo.files = {name: data for name, data in newest.items() if name != missing}
        assert box.refused(NAME) == "incomplete"
        repo.files = complete
        box.refresh(NAME)
    repo.files = newest
    box.refresh(NAME)


def test_over_the_network_what_was_verified_is_kept(tmp_path):
    repo = published()
    with opened("network", repo) as server:
        box = Box(tmp_path, repo, server)
        complete = repo.saved()
        box.refresh(NAME)
        repo.publish("targets", "acme")
        del repo.files[f"{repo.snapshot.version}.snapshot.json"]
        assert box.refused(NAME) == "incomplete"
        assert box.versions()["timestamp"] == repo.timestamp.version
        repo.files = complete
        assert box.refused(NAME) == "rollback"


@pytest.mark.parametrize("lost", ["floor.json", "floor.json.bak", "nothing"])
@pytest.mark.parametrize("damage", ["emptied", "removed"])
def test_torn_metadata_does_not_open_the_way_back(form, tmp_path, lost, damage):
    repo = published()
    old = repo.saved()
    repo.publish("targets", "acme")
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        box.refresh(NAME)
        for path in (box.folder / "acme" / "states").rglob("*.json"):
            path.unlink() if damage == "removed" else path.write_bytes(b"")
        (box.folder / "acme" / lost).unlink(missing_ok=True)
        new, repo.files = repo.files, old
        assert box.refused(NAME) == "rollback"
        repo.files = new
        assert box.refresh(NAME).targets[NAME].length == 3


@pytest.mark.parametrize("torn", ["floor.json", "floor.json.bak"])
def test_a_torn_floor_is_mended_from_its_copy(tmp_path, torn):
    repo = published()
    box = Box(tmp_path, repo)
    box.refresh(NAME)
    state = box.state()
    (box.folder / "acme" / torn).write_bytes(b'{"state": 1')
    box.refresh(NAME)
    assert box.state() == state


@pytest.mark.parametrize("rotated", [("timestamp", "snapshot"), ("snapshot",), ("timestamp",)])
def test_new_online_keys_recover_from_a_fast_forward(form, tmp_path, rotated):
    """Who held the online keys counted far ahead; new keys start below, and boxes follow."""
    repo = published()
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        box.refresh(NAME)
        honest = (repo.timestamp.version, repo.snapshot.version)
        if "timestamp" in rotated:
            repo.timestamp.version = 90_000
        if rotated == ("timestamp", "snapshot"):
            repo.snapshot.version = 90_000
        if rotated == ("snapshot",):
            repo.targets.version = 90_000
            repo.put("targets")
        repo.publish("snapshot")
        box.refresh(NAME)
        repo.next_root(*rotated)
        if "timestamp" in rotated:
            repo.timestamp.version = honest[0]
        if rotated == ("timestamp", "snapshot"):
            repo.snapshot.version = honest[1]
        repo.targets.version = 7
        repo.put("targets")
        repo.put_snapshot() if len(rotated) == 2 else repo.bump_snapshot()
        repo.put_timestamp() if "timestamp" in rotated else repo.bump_timestamp()
        assert box.refresh(NAME).targets[NAME].length == 3
        assert box.versions()["targets"] == 7


def test_recovery_works_also_when_the_first_attempt_was_cut(tmp_path):
    repo = published()
    with opened("network", repo) as server:
        box = Box(tmp_path, repo, server)
        repo.timestamp.version = repo.snapshot.version = 90_000
        repo.publish("acme")
        box.refresh(NAME)
        repo.next_root("timestamp", "snapshot")
        repo.timestamp.version = repo.snapshot.version = 1
        repo.put_snapshot()
        repo.put_timestamp()
        timestamp = repo.files.pop("timestamp.json")
        assert box.refused(NAME) == "incomplete"
        repo.files["timestamp.json"] = timestamp
        box.refresh(NAME)
        assert box.versions()["timestamp"] == 1


def test_a_clock_in_the_past_does_not_accept_what_expired_before_the_floor(form, tmp_path):
    repo = published()
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        issued = days(50)
        box.clock = ClockReading(int(issued.timestamp()), is_synced=True)
        repo.issue(issued)
        repo.publish("acme")
        assert box.refresh(NAME).issued_s == int(issued.timestamp())
        del repo.timestamp.unrecognized_fields["x-issued"]
        repo.timestamp.expires = days(40)
        repo.publish("acme")
        box.clock = ClockReading(0, is_synced=False)
        state = box.state()
        assert box.refused(NAME) == "expired"
        assert box.state() == state
        assert box.store.read([NAME]).clock.state == "behind"
        assert box.store.read([NAME]).targets[NAME].length == 3


def test_a_clock_in_the_future_refuses_new_metadata_and_keeps_the_installed(form, tmp_path):
    repo = published()
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        box.refresh(NAME)
        repo.publish("acme")
        state = box.state()
        box.clock = ClockReading(int(days(4000).timestamp()), is_synced=False)
        assert box.refused(NAME) == "expired"
        assert box.state() == state
        assert box.store.read([NAME]).clock.state == "suspect"
        assert box.store.read([NAME]).targets[NAME].length == 3


def test_a_date_of_issue_in_the_future_does_not_make_everything_expire(form, tmp_path):
    repo = published()
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        repo.issue(days(90))
        repo.publish("acme")
        assert box.refresh(NAME).issued_s is None
        del repo.timestamp.unrecognized_fields["x-issued"]
        repo.timestamp.expires = days(30)
        repo.publish("acme")
        box.refresh(NAME)


@pytest.mark.parametrize("issued", ["tomorrow", 7, None, "2026-09-01", "9" * 5000, {"a": []}])
def test_a_date_of_issue_that_is_none_is_ignored(tmp_path, issued):
    repo = published()
    repo.timestamp.unrecognized_fields["x-issued"] = issued
    repo.publish("acme")
    assert Box(tmp_path, repo).refresh(NAME).issued_s is None


def test_without_any_floor_and_metadata_the_box_is_as_new(tmp_path):
    """The honest limit: only expiry and the release date bound what such a box accepts."""
    repo = published()
    old = repo.saved()
    repo.publish("acme")
    box = Box(tmp_path, repo)
    box.refresh(NAME)
    for path in (box.folder / "acme").rglob("*.json*"):
        if path.name not in {"root.pin.json", "repository.json"}:
            path.unlink()
    repo.files = old
    box.refresh(NAME)


def test_sticks_with_links_devices_and_folders_are_refused(tmp_path):
    repo = published()
    box = Box(tmp_path, repo)
    stick = repo.write_to(tmp_path / "other")
    honest = (stick / "timestamp.json").read_bytes()
    (tmp_path / "outside.json").write_bytes(honest)

    def link():
        (stick / "timestamp.json").symlink_to(tmp_path / "outside.json")

    def fifo():
        os.mkfifo(stick / "timestamp.json")

    def folder():
        (stick / "timestamp.json").mkdir()

    for make in (link, fifo, folder):
        (stick / "timestamp.json").unlink()
        make()
        state = box.state()
        with pytest.raises(TrustError) as caught:
            box.store.refresh(from_folder(stick), [NAME])
        assert caught.value.code == "unreachable"
        assert box.state() == state
        if make is folder:
            (stick / "timestamp.json").rmdir()
            (stick / "timestamp.json").write_bytes(honest)
    assert box.store.refresh(from_folder(stick), [NAME]).targets[NAME].length == 3


def test_a_stick_that_is_gone_is_unreachable(tmp_path):
    box = Box(tmp_path, published())
    with pytest.raises(TrustError) as caught:
        box.store.refresh(from_folder(tmp_path / "gone"))
    assert caught.value.code == "unreachable"


@pytest.mark.parametrize("step", ["hearth", "tuf", "acme", "metadata"])
def test_a_folder_on_a_stick_is_reached_without_links(tmp_path, step):
    repo = published()
    box = Box(tmp_path, repo)
    steps = ("hearth", "tuf", "acme", "metadata")
    medium = tmp_path / "medium"
    repo.write_to(medium.joinpath(*steps))
    link = medium.joinpath(*steps[: steps.index(step) + 1])
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrustError) as caught:
        box.store.refresh(from_folder(medium, *steps), [NAME])
    assert caught.value.code == "unreachable"
    link.unlink()
    (tmp_path / "elsewhere").rename(link)
    assert box.store.refresh(from_folder(medium, *steps), [NAME]).targets[NAME].length == 3


def test_what_is_only_hoped_for_need_not_be_listed(tmp_path):
    repo = published()
    box = Box(tmp_path, repo)
    source = from_folder(repo.write_to(box.stick))
    trusted = box.store.refresh(source, [], ["acme/none/1", NAME, "acme/" + "x" * 2000])
    assert list(trusted.targets) == [NAME]


def test_a_role_that_is_missing_fails_what_is_hoped_for(tmp_path):
    """All or nothing: that no publisher lists a name is only known when all were heard."""
    repo = with_rival()
    box = Box(tmp_path, repo)
    repo.write_to(box.stick)
    (box.stick / f"{repo.roles['rival'].version}.rival.json").unlink()
    before = box.state()
    with pytest.raises(TrustError) as caught:
        box.store.refresh(from_folder(box.stick), [], [NAME, "rival/x/1"])
    assert caught.value.code == "incomplete"
    assert box.state() == before


def test_a_new_box_of_1970_does_not_take_what_expired_before_it_was_built(form, tmp_path):
    repo = published()
    repo.timestamp.expires = days(40)
    repo.publish("acme")
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        box.clock = ClockReading(0, is_synced=False)
        folder, root = StateFolder(box.folder / "acme"), repo.files["1.root.json"]
        built_s = int(days(50).timestamp())
        box.store = TrustStore(folder, root, lambda: box.clock, built_s)
        assert box.refused(NAME) == "expired"
        assert box.store.read([NAME]).targets == {}
        box.store = TrustStore(folder, root, lambda: box.clock, int(days(30).timestamp()))
        assert box.refresh(NAME).targets[NAME].length == 3


class HeldReader(FolderReader):
    """Waits at its first file until it is let go; notes that it began."""

    def __init__(self, folder):
        super().__init__(folder)
        self.began, self.go = threading.Event(), threading.Event()

    def chunks(self, url):
        self.began.set()
        assert self.go.wait(20)
        return super().chunks(url)


def test_of_two_refreshes_one_waits_for_the_other(tmp_path):
    repo = published()
    box = Box(tmp_path, repo)
    folder = repo.write_to(tmp_path / "stick")
    first, second = HeldReader(folder), HeldReader(folder)
    second.go.set()
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(box.store.refresh, Source(first, "folder:/", True), [NAME])
        assert first.began.wait(20)
        other = box.repositories.store("acme")  # as of another request, or process
        two = threads.submit(other.refresh, Source(second, "folder:/", True), [NAME])
        assert not second.began.wait(0.3)
        first.go.set()
        assert one.result(20).versions == two.result(20).versions
    assert second.began.is_set()
