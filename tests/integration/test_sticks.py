"""A stick that another process hands over as a descriptor, since the service cannot see it."""

import shutil

import pytest

from tests.fakes.publisher import Publisher
from tests.fakes.waiting import wait_for
from tests.integration.medium_box import NAME, OfflineBox, copied, enrol_offline, publish


@pytest.fixture
def publisher(tmp_path):
    return Publisher(tmp_path / "published")


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder))  # as systemd does for the unit
    return folder


@pytest.fixture
def box(publisher, runtime, tmp_path, start_service):
    enrol_offline(tmp_path / "state", publisher)
    box = OfflineBox(start_service(tmp_path / "state"))
    wait_for((runtime / "import.sock").exists)
    return box


def hand_over(box, runtime, stick, code=0):
    done = box.hearth.run("import", stick, "--hand-over", runtime / "import.sock")
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def codes(box):
    conditions = box.service.call("GET", "/hearth/v1/status")[1]["conditions"]
    return {each["code"]: each for each in conditions if each["code"].startswith("stick-")}


def test_what_is_handed_over_is_served_and_the_stick_may_be_pulled(
    box, publisher, runtime, tmp_path
):
    publish(publisher, "1.0.0", "You are one.", "latest")
    assert "you may pull the stick out" in hand_over(
        box, runtime, copied(publisher, tmp_path / "s")
    )
    assert "You are one." in box.ask()
    assert "you may pull" in codes(box)["stick-done"]["text"]
    assert "/proc/self/fd" not in str(box.service.call("GET", "/hearth/v1/status"))
    assert "you may pull" in box.hearth("status").stdout


def test_a_stick_with_links_gives_nothing_and_says_why(box, publisher, runtime, tmp_path):
    publish(publisher, "1.0.0", "You are one.", "latest")
    stick = copied(publisher, tmp_path / "s")
    blobs = stick / "hearth/blobs/sha256"
    for blob in list(blobs.iterdir()):
        blob.unlink()
        blob.symlink_to("/etc/passwd")
    told = hand_over(box, runtime, stick, code=1)
    assert "root:" not in told
    assert box.signed() == []
    assert codes(box)["stick-failed"]["severity"] == "warning"


def test_a_folder_that_is_a_link_is_not_followed(box, publisher, runtime, tmp_path):
    publish(publisher, "1.0.0", "You are one.", "latest")
    stick = tmp_path / "s"
    stick.mkdir()
    (stick / "hearth").symlink_to(publisher.folder)
    hand_over(box, runtime, stick, code=1)
    assert box.signed() == []


def test_a_stick_that_is_not_ours_is_left_alone(box, runtime, tmp_path):
    (tmp_path / "s").mkdir()
    assert "left alone" in hand_over(box, runtime, tmp_path / "s")
    assert codes(box) == {}


def test_a_stick_that_lost_a_part_fails_and_a_whole_one_then_succeeds(
    box, publisher, runtime, tmp_path
):
    index = publish(publisher, "1.0.0", "You are one.", "latest")
    stick = copied(publisher, tmp_path / "s")
    (stick / "hearth/blobs/sha256" / index.hex).unlink()
    hand_over(box, runtime, stick, code=1)
    assert "stick-failed" in codes(box)
    shutil.rmtree(stick)
    hand_over(box, runtime, copied(publisher, stick))
    assert box.version(NAME) == "1.0.0"
    assert list(codes(box)) == ["stick-done"]


def test_without_a_service_the_command_says_what_is_missing(box, publisher, tmp_path):
    publish(publisher, "1.0.0", "You are one.", "latest")
    stick = copied(publisher, tmp_path / "s")
    done = box.hearth.run("import", stick, "--hand-over", tmp_path / "nothing.sock")
    assert done.returncode == 1
    assert "cannot hand" in done.stderr
    assert "is hearth.service running?" in done.stderr
