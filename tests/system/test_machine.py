"""The test machine itself: it boots, obeys, has drives, and its power can be cut."""

import pytest

from tests.system import debian_root, machine

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(1800)]

STICK = "/dev/disk/by-label/HEARTH"
WAIT = f"--timeout={machine.LIMIT_S}"  # udev hears of a disk, and of its end, when it gets to it


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    if reason := debian_root.missing() or machine.missing():
        pytest.fail(reason)
    return debian_root.DebianRoot()


def test_a_machine_boots_obeys_and_loses_its_power(base, tmp_path):
    root = base.unpack(tmp_path / "root")
    debian_root.install_hearth(root)
    machine.add_agent(root)
    disk = debian_root.make_disk(root, tmp_path / "disk")
    (tmp_path / "hello").write_text("hello")
    stick = machine.fat_stick(tmp_path / "stick", {"hello.txt": tmp_path / "hello"})
    boot = {"kernel": base.kernel, "initramfs": base.initramfs}
    with machine.Machine(disk, tmp_path / "qemu", **boot) as box:
        assert box.run("hearth", "--version").output.startswith("hearth ")
        print(box.accel, box.run("systemctl", "is-system-running", "--wait", check=False).output)
        box.run("sh", "-c", "echo kept >/kept && sync && echo lost >/lost")
        box.plug(stick)
        box.run("udevadm", "wait", WAIT, STICK)
        box.run("mount", "-o", "ro", STICK, "/mnt")
        assert box.run("cat", "/mnt/hello.txt").output == "hello"
        box.unplug()
        box.run("udevadm", "wait", WAIT, "--removed", STICK)
        box.kill()
    with machine.Machine(disk, tmp_path / "qemu", **boot) as box:
        assert box.run("cat", "/kept").output == "kept\n"
        box.run("systemctl", "poweroff", "--no-block")
        box.wait_off()
