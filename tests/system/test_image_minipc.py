"""The image of a mini-PC under UEFI: first boot, what is kept, and an update that comes back.

Emulated even where there is KVM: the firmware does not start under every nested one.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from images.maker import board, uki
from tests.browser.conftest import CHROMIUM, DESK, FLAGS, require_chromium
from tests.system import machine

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(3600)]

TREE = Path(__file__).parents[2]
OVMF = Path("/usr/share/OVMF")
MIB = 1 << 20
ENABLED = ("hearth.socket", "hearth.service", "hearth-firstboot.service", "hearth-claim.service",
           "hearth-good-boot.service", "hearth-update.timer")  # fmt: skip
PAGE_LIMIT_MS = 120_000
DEATHS = 2  # the tries that hearth-os gives a new system
STARTED = "BdsDxe: starting"  # the firmware, once per boot
AGENT = """[Unit]
DefaultDependencies=no
After=systemd-tmpfiles-setup-dev.service
[Service]
ExecStart=/usr/bin/python3 -S /etc/hearth-test-agent.py
Restart=always
"""
# Times are those of real machines; an emulated one is ten times slower.
PATIENCE = "[Service]\nWatchdogSec=0\nTimeoutStartSec=600\n"


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
    _run(sys.executable, TREE / "images/build", "minipc", "--wheelhouse", wheels, "--out", work,
         "--version", "0.1.0")  # fmt: skip
    return work


def test_a_box_answers_at_its_first_boot_and_keeps_its_identity(built, tmp_path):
    image = _prepared(built / "hearth-minipc-0.1.0.img", tmp_path)
    with _machine(image, tmp_path) as box:
        print("power-on to API:", box.wait_ready(900), "s")
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
        identity = box.run("cat", "/etc/machine-id").output
        assert len(identity.strip()) == 32
        box.kill()  # the power goes
    with _machine(image, tmp_path) as box:
        box.wait_ready(900)
        assert box.run("cat", "/etc/machine-id").output == identity


def test_an_update_whose_kernel_dies_gives_way_to_the_old_system(built, tmp_path):
    image = _prepared(built / "hearth-minipc-0.1.0.img", tmp_path)
    bad = _bad_update(built / "hearth-minipc-0.1.0.update", tmp_path)
    with _machine(image, tmp_path, bad) as box:
        box.wait_ready(900)
        print(box.run("/usr/lib/hearth-os/hearth-os", "update", "/dev/vdb", limit_s=900).output)
        assert "hearth_0.2.0+2.efi" in box.run("ls", "/efi/EFI/Linux").output
        box.run("systemctl", "reboot", "--no-block")
        box.wait_for("Kernel panic", 900)
        box.wait_ready(900)
        assert box.log.count("Kernel panic") == DEATHS
        status = box.run("/usr/lib/hearth-os/hearth-os", "status").output
        assert "running   0.1.0 from /dev/vda2" in status
        boots = box.log.count(STARTED) - 1  # the first one was before the update
        assert boots <= DEATHS + 1
        print(f"{DEATHS} starts of the update died, start {boots} is the old system:", status)


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


def _prepared(image, folder):
    """A copy on a larger disk, with the agent of the tests in /etc of its data partition."""
    copy, data, etc = folder / "disk", folder / "data.ext4", folder / "data/etc/systemd/system"
    _run("cp", "--sparse=always", image, copy)
    (etc / "sysinit.target.wants").mkdir(parents=True)
    (etc / "hearth-test-agent.service").write_text(AGENT)
    (etc / "hearth.service.d").mkdir()
    (etc / "hearth.service.d/patience.conf").write_text(PATIENCE)
    (etc / "sysinit.target.wants/hearth-test-agent.service").symlink_to(
        "../hearth-test-agent.service"
    )
    shutil.copy(
        Path(__file__).with_name("guest_agent.py"), folder / "data/etc/hearth-test-agent.py"
    )
    partitions = board.load("minipc").partitions
    before = sum(each.size_mib for each in partitions[:-1]) + 1
    with data.open("wb") as file:
        file.truncate(partitions[-1].size_mib * MIB)
    _run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-E", "resize=268435456", "-d",
         folder / "data", data)  # fmt: skip
    _run("dd", f"if={data}", f"of={copy}", "bs=1M", f"seek={before}", "conv=notrunc")
    _run("truncate", "-s", "6G", copy)
    return copy


def _bad_update(good, folder):
    """The good update as version 0.2.0, whose kernel finds no program to start."""
    with tarfile.open(good) as archive:
        archive.extractall(folder / "update", filter="data")
    kernel = folder / "update/boot/hearth.efi"
    parts = {f".{name}": folder / name for name in ("osrel", "cmdline", "initrd", "linux")}
    for section, file in parts.items():
        _run("objcopy", "-O", "binary", f"--dump-section={section}={file}", kernel, "/dev/null")
    osrel, cmdline = folder / "osrel", folder / "cmdline"
    osrel.write_text(osrel.read_text().replace("0.1.0", "0.2.0"))
    cmdline.write_text(f"rdinit=/none {cmdline.read_text()}")
    stub = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
    uki.make(kernel, stub, parts)
    manifest = json.loads((folder / "update/manifest.json").read_text())
    manifest["version"] = "0.2.0"
    manifest["boot"]["hearth.efi"] = hashlib.sha256(kernel.read_bytes()).hexdigest()
    bad = folder / "bad.update"
    with tarfile.open(bad, "w") as archive:
        text = json.dumps(manifest).encode()
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
        archive.add(kernel, "boot/hearth.efi")
        archive.add(folder / "update/root.ext4.zst", "root.ext4.zst")
    return bad


def _wheels(work):
    # Never llama.cpp from pip's cache: that is for this processor, and dies by SIGILL elsewhere.
    _run(TREE / "tools/wheelhouse", "--out", work / "wheelhouse")
    return next((work / "wheelhouse").iterdir())


def _run(*command):
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command[0]}: {done.stderr}{done.stdout}"
