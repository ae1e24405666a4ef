"""Sticks that are pulled out, boxes that die, disks that are full: old or new, and never half."""

import http.client
import json
import os
import random
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

from tests.fakes.publisher import Publisher
from tests.fakes.stick import small_filesystem
from tests.integration.medium_box import (
    NAME,
    OfflineBox,
    copied,
    enrol_offline,
    publish,
    publish_heavy,
)

MIB = 1 << 20
BALLAST = random.Random(1).randbytes(160 * MIB)


@pytest.fixture
def publisher(tmp_path):
    return Publisher(tmp_path / "published")


@pytest.fixture
def box(publisher, tmp_path, start_service):
    enrol_offline(tmp_path / "box", publisher)
    return OfflineBox(start_service(tmp_path / "box"))


@pytest.fixture
def active(box, publisher, tmp_path):
    """A box on which the first release is active."""
    publish(publisher, "1.0.0", "Be kind.", "latest")
    box.imported(copied(publisher, tmp_path / "old"), NAME)
    return box


@contextmanager
def importing(box, medium, models=(NAME,)):
    """The lines of an import of the newest release, as they come."""
    host, _, port = box.service.url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    body = json.dumps({"path": str(medium), "models": list(models)})
    connection.request("POST", "/hearth/v1/import", body, {"Content-Type": "application/json"})
    try:
        yield (json.loads(line) for line in connection.getresponse())
    finally:
        connection.close()


def until(lines, digest, completed):
    """Read until so many bytes of a blob are here; how many there are."""
    for line in lines:
        if line.get("digest") == str(digest) and line.get("completed", 0) >= completed:
            return line["completed"]
        assert "error" not in line, line
    raise AssertionError("the import ended before")


def first_count(box, medium, digest):
    """Import to the end; how much of the blob was here at its beginning."""
    lines = box.bring(medium, NAME)
    assert lines[-1] == {"status": "success"}, lines[-1]
    counts = [line.get("completed", 0) for line in lines if line.get("digest") == str(digest)]
    return next((count for count in counts if count), 0)


def test_a_killed_service_goes_on_where_it_was(active, publisher, tmp_path, start_service):
    digest = publish_heavy(publisher, "1.1.0", BALLAST, "latest")
    medium = copied(publisher, tmp_path / "new")
    with importing(active, medium) as lines:
        seen = until(lines, digest, 72 * MIB)
        active.service.process.kill()
        active.service.process.wait()
    again = OfflineBox(start_service(tmp_path / "box"))
    assert again.version() == "1.0.0"
    assert "Be kind." in again.ask()
    assert first_count(again, medium, digest) >= seen - 40 * MIB
    assert again.version() == "1.1.0"


def test_who_leaves_stops_the_import_and_the_next_goes_on(active, publisher, tmp_path):
    digest = publish_heavy(publisher, "1.1.0", BALLAST, "latest")
    medium = copied(publisher, tmp_path / "new")
    with importing(active, medium) as lines:
        seen = until(lines, digest, 40 * MIB)
    assert first_count(active, medium, digest) >= seen - 8 * MIB
    assert active.version() == "1.1.0"


def test_an_unmounted_stick_is_told_and_gone_on_with(active, publisher, tmp_path):
    digest = publish_heavy(publisher, "1.1.0", BALLAST, "latest")
    source = copied(publisher, tmp_path / "new")
    with small_filesystem(tmp_path / "usb", "400m") as usb:
        shutil.copytree(source / "hearth", usb / "hearth")
        with importing(active, usb) as lines:
            seen = until(lines, digest, 40 * MIB)
            subprocess.run(["umount", "-l", str(usb)], check=True)
            *_, last = lines
        assert last["code"] == "registry_unreachable", last
        assert "is gone" in last["error"]
        assert "plug it in again" in last["hint"]
        assert active.version() == "1.0.0"
        assert "Be kind." in active.ask()
        subprocess.run(["mount", "--bind", str(source), str(usb)], check=True)
        assert first_count(active, usb, digest) >= seen
    assert active.version() == "1.1.0"


def test_a_stick_that_fails_in_the_middle_is_told(active, publisher, tmp_path):
    """A real read error of the kernel: the block device behind the filesystem was cut off."""
    digest = publish_heavy(publisher, "1.1.0", BALLAST, "latest")
    source = copied(publisher, tmp_path / "new")
    with loop_stick(tmp_path, source) as (usb, image):
        kept = image.read_bytes()
        for path in usb.rglob("*"):  # all but the ballast is in memory already
            if path.is_file() and path.stat().st_size < MIB:
                path.read_bytes()
        os.truncate(image, len(kept) // 2)
        last = active.bring(usb, NAME)[-1]
        assert last["code"] == "registry_unreachable", last
        assert "Input/output error" in last["error"]
        assert "plugged in" in last["hint"]
        assert active.version() == "1.0.0"
        assert "Be kind." in active.ask()
        image.write_bytes(kept)
        assert first_count(active, usb, digest) > 8 * MIB
    assert active.version() == "1.1.0"


@contextmanager
def loop_stick(tmp_path, source):
    """An ext4 filesystem on a loop device with a copy of `source`, nothing of it in memory."""
    image, usb = tmp_path / "stick.img", tmp_path / "usb"
    usb.mkdir()
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("NOT TESTED: a failing block device; needs root and mkfs.ext4")
    os.truncate(os.open(image, os.O_CREAT | os.O_WRONLY), 200 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0",
                    "-d", str(source), str(image)], check=True)  # fmt: skip
    command = ["mount", "-o", "loop,ro", str(image), str(usb)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("NOT TESTED: a failing block device; no loop device can be mounted")
    try:
        yield usb, image
    finally:
        subprocess.run(["umount", "-l", str(usb)], check=True)


@pytest.fixture
def small_disk(tmp_path, request):
    """A box on a small filesystem, with the first release active; its disk goes when it ended."""
    with small_filesystem(tmp_path / "disk", request.param) as disk:
        yield disk


@pytest.fixture
def small_box(small_disk, publisher, tmp_path, start_service):
    publish(publisher, "1.0.0", "Be kind.", "latest")
    enrol_offline(small_disk / "state", publisher)
    box = OfflineBox(start_service(small_disk / "state"))
    box.imported(copied(publisher, tmp_path / "old"), NAME)
    return box


@pytest.mark.parametrize("small_disk", ["100m"], indirect=True)
def test_a_full_disk_is_told_before_the_first_byte(small_box, publisher, tmp_path):
    publish_heavy(publisher, "1.1.0", BALLAST, "latest")
    lines = small_box.bring(copied(publisher, tmp_path / "new"), NAME)
    assert lines[-1]["code"] == "disk_full", lines[-1]
    assert "bytes" in lines[-1]["error"]
    assert not [line for line in lines if line.get("completed")]
    assert small_box.version() == "1.0.0"
    assert "Be kind." in small_box.ask()


@pytest.mark.parametrize("small_disk", ["64m"], indirect=True)
def test_a_disk_that_is_full_at_any_last_write_changes_nothing(
    small_disk, small_box, publisher, tmp_path
):
    """Trust, states and manifests are small files: whichever finds no room, the old serves on.

    The new release has the parts of the old one, so that no reserve for blobs is asked for.
    """
    publish(publisher, "1.1.0", "Be kind.", "latest")
    medium = copied(publisher, tmp_path / "new")
    ballast = small_disk / "ballast"
    refusals = 0
    for spare_kib in range(0, 200, 4):
        _fill(ballast, small_disk, spare_kib << 10)
        last = small_box.bring(medium, NAME)[-1]
        ballast.unlink()
        if last == {"status": "success"}:
            break
        assert last.get("code") == "disk_full", (spare_kib, last)
        refusals += 1
        assert small_box.version() == "1.0.0"
        assert "Be kind." in small_box.ask()
    assert refusals > 5
    assert small_box.version() == "1.1.0"
    assert "Be kind." in small_box.ask()


def _fill(ballast, disk, spare_bytes):
    with ballast.open("wb", buffering=0) as file:
        room = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        file.write(b"\0" * max(0, room - spare_bytes))


def test_a_full_medium_is_told_before_the_first_byte(active, tmp_path):
    with small_filesystem(tmp_path / "usb", "64k") as usb:
        error = active.hearth.fails(1, "export", NAME, usb)
        assert "are free there" in error
        assert "take a larger medium" in error
        assert not list((usb / "hearth/blobs").rglob("*"))


def test_an_export_that_is_killed_is_done_again(active, publisher, tmp_path, start_service):
    digest = publish_heavy(publisher, "1.1.0", BALLAST, "latest")
    active.imported(copied(publisher, tmp_path / "new"), NAME)
    usb = tmp_path / "usb"
    usb.mkdir()
    command = active.hearth.start("export", NAME, str(usb))
    with command:
        wanted = usb / "hearth/blobs/sha256"
        deadline = time.monotonic() + 30
        while not list(wanted.glob(".hearth-*")) and time.monotonic() < deadline:
            time.sleep(0.001)
        active.service.process.kill()
        active.service.process.wait()
        assert command.wait(30) == 1
    assert not (wanted / digest.hex).exists()
    again = OfflineBox(start_service(tmp_path / "box"))
    assert again.not_imported(usb)["code"] == "registry_not_found"
    again.hearth("export", NAME, usb)
    assert not list(usb.rglob(".hearth-*"))
    assert "release 1.1.0 is active" in again.imported(usb, NAME)
