"""The image of a mini-PC under UEFI: first boot, what is kept, and updates: those that are refused,
one that stays, and those that come back.

Emulated even where there is KVM: the firmware does not start under every nested one.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from images.maker import stage
from tests.browser.conftest import CHROMIUM, DESK, FLAGS, require_chromium
from tests.fakes.waiting import wait_for
from tests.system import machine
from tests.system.image_disk import prepared, run
from tests.system.image_updates import Updates

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(5400)]

TREE = Path(__file__).parents[2]
OVMF = Path("/usr/share/OVMF")
ENABLED = ("hearth.socket", "hearth.service", "hearth-firstboot.service", "hearth-claim.service",
           "hearth-good-boot.service", "hearth-update.timer")  # fmt: skip
LIMIT_S = 900  # of one start; emulated, on a machine that may be busy
PAGE_LIMIT_MS = 120_000
DEATHS = 2  # the tries that hearth-os gives a new system
STARTED = "BdsDxe: starting"  # the firmware, once per boot
PANIC = "Kernel panic"
MOUNTED = "mountpoint -q /mnt || mount -o ro /dev/vdb /mnt"
RESTING = ("sh", "-c", "sleep 10; systemctl is-active take")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a built image: HEARTH_IMAGE, else built here from the wheels in HEARTH_WHEELS,
    else from wheels made here."""
    if reason := machine.missing("mmdebstrap", "sfdisk", "objcopy"):
        pytest.fail(reason)
    if ready := os.environ.get("HEARTH_IMAGE"):
        return Path(ready)
    work = tmp_path_factory.mktemp("image")
    wheels = Path(os.environ.get("HEARTH_WHEELS") or _wheels(work))
    run(sys.executable, TREE / "images/build", "minipc", "--wheelhouse", wheels, "--out", work,
        "--version", "0.1.0")  # fmt: skip
    return work


@pytest.fixture(scope="module")
def updates(built, tmp_path_factory):
    return Updates(built / "hearth-minipc-0.1.0.update", tmp_path_factory.mktemp("updates"))


@pytest.fixture(scope="module")
def stick(updates, tmp_path_factory):
    """A disk with update files, a good one and bad ones."""
    work = tmp_path_factory.mktemp("stick")
    files = work / "files"
    files.mkdir()
    updates.offer(files / "good", "0.2.0")
    updates.husk(files / "unsigned", signed=False)
    updates.husk(files / "damaged", damaged=True)
    updates.husk(files / "foreign", name="rpi")
    updates.husk(files / "older", version="0.0.9")
    (files / "long").touch()
    os.truncate(files / "long", (2 << 30) + 1)
    run("mke2fs", "-q", "-t", "ext4", "-d", files, work / "stick", "512M")
    shutil.rmtree(files)
    return work / "stick"


@pytest.fixture(scope="module")
def box(built, updates, stick, tmp_path_factory):
    """One box for several tests, in their order: an emulated start takes minutes."""
    work = tmp_path_factory.mktemp("box")
    image = _with_key(built, updates, work)
    with _machine(image, work, stick) as running:
        print("first boot, power-on to API:", running.wait_ready(LIMIT_S), "s")
        yield running


def test_a_box_answers_at_its_first_boot(box, tmp_path):
    reply = box.call("POST", "/api/chat", {
        "model": "hearth", "stream": False, "messages": [{"role": "user", "content": "hi"}],
    })  # fmt: skip
    assert reply[0] == 200, reply
    assert reply[1]["message"]["content"]
    print("its page:", _photographed(box.url, tmp_path / "page.png"))
    assert "Read-only" in box.run("touch", "/usr/x", check=False).errors
    for unit in ENABLED:
        assert box.run("systemctl", "is-enabled", unit).output == "enabled\n"
    failed = box.run("systemctl", "--failed", "--plain", "--no-legend").output
    assert failed == "", failed + box.run("journalctl", "-q", "-p", "warning").output
    box.run("systemctl", "start", "hearth-claim")  # returns when it is done
    assert "HEARTH-CLAIM.txt" in box.run("ls", "/efi").output
    assert int(box.run("df", "--output=size", "-B1M", "/data").output.split()[-1]) > 2000
    print(box.run("systemd-analyze", check=False).output)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("unsigned", "the update is not signed: "),
        ("damaged", "husk.ext4.zst in the update is not what was signed: "),
        ("foreign", "the update is for rpi, this is hearth-minipc"),
        ("older", "the update is 0.0.9, 0.1.0 runs: "),
        ("long", "has 2147483649 bytes, an update has 2147483648 at most"),
    ],
)
def test_an_update_that_is_not_to_be_trusted_is_refused_untouched(box, name, why):
    refused = _offer(box, name)
    assert refused.status == 1
    assert why in refused.errors
    assert len(refused.errors.splitlines()) == 1
    assert box.run("ls", "/efi/EFI/Linux").output == "hearth_0.1.0.efi\n"


def test_a_signed_update_is_written_beside_the_running_system(box, updates):
    box.run("sh", "-c", MOUNTED)
    box.run("systemd-run", "--unit=take", "hearth-os", "update", "/mnt/good")
    wait_for(lambda: box.run(*RESTING, check=False).output.strip() != "active", 2 * LIMIT_S)
    told = box.run("journalctl", "-u", "take", "-o", "cat").output
    assert "0.2.0 is on /dev/vda3; it is tried at the next boot: sudo reboot" in told, told
    assert box.run("ls", "/efi/EFI/Linux").output.split() == [
        "hearth_0.1.0.efi", "hearth_0.2.0+2.efi",
    ]  # fmt: skip
    uuid = box.run("blkid", "-p", "-s", "UUID", "-o", "value", "/dev/vda3").output.strip()
    assert uuid == str(stage.root_uuid("minipc", "0.2.0"))


def test_a_good_system_stays_and_keeps_what_is_the_boxs(built, updates, tmp_path):
    """Started on trial it becomes the default; a power cut later the box is still the same."""
    image = _with_key(built, updates, tmp_path)
    updates.lay(image, "0.5.0")
    with _machine(image, tmp_path) as box:
        print("first boot, on trial, power-on to API:", box.wait_ready(LIMIT_S), "s")
        box.run("systemctl", "start", "systemd-bless-boot", limit_s=LIMIT_S)  # until it is done
        status = _status(box)
        print("a good update:", status)
        assert "running   0.5.0 from /dev/vda3\n" in status
        assert "entry     hearth_0.5.0.efi (running)" in status
        assert "failed" not in status
        assert _boots(box) == 1
        identity = box.run("cat", "/etc/machine-id").output
        assert len(identity.strip()) == 32
        box.run("touch", "/var/lib/hearth/kept", "/etc/kept")
        box.run("sync")
        box.kill()  # the power goes
    with _machine(image, tmp_path) as box:
        print("second boot, power-on to API:", box.wait_ready(LIMIT_S), "s")
        assert box.run("cat", "/etc/machine-id").output == identity
        box.run("ls", "/var/lib/hearth/kept", "/etc/kept")
        assert "running   0.5.0 from /dev/vda3\n" in _status(box)


@pytest.mark.parametrize(
    ("version", "change", "panics"),
    [
        ("0.3.0", {"removed": ["/opt/hearth/current"]}, 0),
        ("0.4.0", {"words": "rdinit=/none"}, DEATHS),
    ],
    ids=["service", "kernel"],
)
def test_a_system_that_never_answers_gives_way_to_the_old_one(
    built, updates, tmp_path, version, change, panics
):
    """Its kernel and its root are well and its Hearth is not there, or its kernel panics."""
    image = _with_key(built, updates, tmp_path)
    updates.lay(image, version, **change)
    with _machine(image, tmp_path) as box:
        box.wait_ready((DEATHS + 1) * LIMIT_S)
        assert _boots(box) == DEATHS + 1
        assert box.log.count(PANIC) == panics
        box.run("systemctl", "start", "hearth-failed", limit_s=LIMIT_S)  # until it has told
        status = _status(box)
        print(status)
        assert "running   0.1.0 from /dev/vda2\n" in status
        assert f"hearth_{version}+0-2.efi" in status
        if not panics:  # this system itself could say why
            told = f"failed    system {version} was restarted: Hearth did not answer, "
            assert status.count(told) == 1
            assert "No such file" in status
        doctor = box.run("/opt/hearth/current/bin/hearth", "doctor", "--json", check=False)
        found = {each["code"]: each["text"] for each in json.loads(doctor.output)["conditions"]}
        assert f"system {version} is not used, 0.1.0 runs: " in found["system_failed"]


def _with_key(built, updates, folder):
    """The image on a disk of its own that trusts the key of the tests."""
    data = {"etc/hearth/release.pub": updates.public.read_text()}
    return prepared(built / "hearth-minipc-0.1.0.img", folder, "minipc", data=data)


def _offer(box, name):
    box.run("sh", "-c", MOUNTED)
    return box.run("hearth-os", "update", f"/mnt/{name}", check=False, limit_s=LIMIT_S)


def _boots(box):
    return box.log.count(STARTED)


def _status(box):
    return box.run("hearth-os", "status").output


def _machine(image, folder, *drives):
    variables = folder / "vars.fd"
    if not variables.exists():
        shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
    code = f"if=pflash,format=raw,unit=0,readonly=on,file={OVMF / 'OVMF_CODE_4M.fd'}"
    firmware = ["-drive", code, "-drive", f"if=pflash,format=raw,unit=1,file={variables}"]
    return machine.Machine(image, folder / "qemu", firmware=firmware, drives=drives, accel="tcg",
                           options=["-action", "reboot=reset"])  # fmt: skip


def _photographed(url, target):
    """The page as Chromium on the host sees it; where the picture is."""
    require_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport=DESK)
        page.set_default_timeout(PAGE_LIMIT_MS)
        page.goto(url)
        page.locator("header .dot.on").wait_for()  # the service answers the page's own script
        page.wait_for_function("() => [...document.images].every(each => each.complete)")
        page.screenshot(path=target)
        browser.close()
    return target


def _wheels(work):
    # Never llama.cpp from pip's cache: that is for this processor, and dies by SIGILL elsewhere.
    run(TREE / "tools/wheelhouse", "--out", work / "wheelhouse")
    return next((work / "wheelhouse").iterdir())
