"""A whole machine: its first start, then sticks that udev sees and a unit mounts privately."""

import shutil
import subprocess
import time

import pytest

from tests.fakes.publisher import Publisher
from tests.fakes.waiting import wait_for
from tests.integration.medium_box import publish
from tests.system import box_disk, debian_root, machine
from tests.system.machine import LIMIT_S

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(3600)]

_BOOT = """name = "Kitchen"
[system]
hostname = "kitchen-box"
user = "ann"
ssh_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFo ann@laptop"]
[system.wifi]
ssid = "Home"
password = "correct horse"
"""


@pytest.fixture(scope="module")
def publisher(tmp_path_factory):
    publisher = Publisher(tmp_path_factory.mktemp("published"))
    publish(publisher, "1.0.0", "You are one.", "latest")
    return publisher


@pytest.fixture(scope="module")
def box(publisher, tmp_path_factory):
    """A machine that trusts the publisher, switched on for all tests of this file."""
    folder = tmp_path_factory.mktemp("machine")
    disk, boot = box_disk.make_box(folder, publisher, like_an_image)
    with machine.Machine(disk, folder / "qemu", **boot) as box:
        print(f"power-on to API: {box.wait_ready():.0f} s, {box.accel}")
        yield box
        print(said(box))
    disk.unlink()


def like_an_image(root):
    """Give it a boot partition with wishes, and what obeys them."""
    (root / "etc/hearth").mkdir(exist_ok=True)
    (root / "etc/hearth/image").touch()
    (root / "etc/NetworkManager/system-connections").mkdir(parents=True)
    (root / "boot/firmware").mkdir()
    (root / "boot/firmware/hearth.toml").write_text(_BOOT)
    enable = ["systemctl", "-q", f"--root={root}", "enable"]
    subprocess.run([*enable, "hearth-firstboot", "hearth-claim"], check=True)


def said(box):
    """What all imports said."""
    units = ["-u", "hearth-import@*"]  # an error while there is none
    return box.run("journalctl", "-q", "-o", "cat", *units, check=False).output


def test_the_first_start_did_what_the_boot_partition_asked(box):
    assert box.run("hostname").output == "kitchen-box\n"
    assert "ann@laptop" in box.run("cat", "/home/ann/.ssh/authorized_keys").output
    assert box.run("stat", "-c", "%U %a", "/home/ann/.ssh/authorized_keys").output == "ann 600\n"
    connections = "/etc/NetworkManager/system-connections"
    assert "psk=correct horse" in box.run("cat", f"{connections}/hearth-wifi.nmconnection").output
    assert "Kitchen" in box.run("hearth", "config").output
    assert "hearth.toml.read" in box.run("ls", "/boot/firmware").output.split()
    assert "hearth.toml" not in box.run("ls", "/boot/firmware").output.split()
    assert "correct" not in box.run("cat", "/boot/firmware/hearth.toml.read").output


def test_the_console_shows_how_to_claim_the_box(box):
    box.wait_for("claim code")
    box.run("systemctl", "start", "hearth-claim")  # returns when it is done
    assert "claim code" in box.run("cat", "/boot/firmware/HEARTH-CLAIM.txt").output
    assert "claim code" in box.run("cat", "/run/issue.d/50-hearth.issue").output


def test_a_stick_that_is_not_ours_is_left_alone(box, tmp_path):
    (tmp_path / "photo").write_text("a photo")
    box.plug(machine.fat_stick(tmp_path / "stick", {"photo.jpg": tmp_path / "photo"}))
    wait_for(lambda: "left alone" in said(box), LIMIT_S)
    assert box_disk.sticks(box) == []
    box.unplug()


def test_a_stick_of_links_and_devices_gives_nothing(box, publisher, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(publisher.folder, tree / "hearth")
    for blob in list((tree / "hearth/blobs/sha256").iterdir()):
        blob.unlink()
        blob.symlink_to("/etc/shadow")
    (tree / "hearth/index.json").unlink()
    subprocess.run(["mknod", tree / "hearth/index.json", "b", "254", "0"], check=True)
    subprocess.run(["chmod", "-R", "a+rX", tree], check=True)  # ext4 keeps who may read
    stick = debian_root.make_disk(tree, tmp_path / "stick", size_mib=64, label="HEARTH-BAD")
    box.plug(stick)
    wait_for(lambda: box_disk.sticks(box) == ["stick-failed"], LIMIT_S)
    assert "root:" not in said(box)
    box.unplug()
    assert box.call("GET", "/hearth/v1/bundles")[1]["bundles"] == []


def test_a_stick_is_mounted_privately_and_its_model_served(box, publisher, tmp_path):
    stick = machine.fat_stick(tmp_path / "stick", {"hearth": publisher.folder})
    began = time.monotonic()
    box.plug(stick)
    wait_for(lambda: box_disk.sticks(box) == ["stick-done"], LIMIT_S)
    assert "You are one." in box_disk.ask(box)
    print(f"stick in to model serving: {time.monotonic() - began:.1f} s, {box.accel}")
    assert "hearth-stick" not in box.run("cat", "/proc/1/mounts").output
    assert "you may pull the stick out" in box.run("hearth", "status").output
    box.unplug()
