"""hearth-os on a Raspberry Pi: two systems on a disk of files, and a FAT that mtools reads.

The firmware's part is played by its rule: `[all] boot_partition` at every start, `[tryboot]` at the
one after a restart with the words "0 tryboot".
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from images.maker import update
from tests.fakes.hearth_os import load

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the system is unpacked by another user")

TREE = Path(__file__).parents[2]
PARTITIONS = ("hearth-select", "hearth-boot-a", "hearth-boot-b", "hearth-root-a", "hearth-root-b")
MIB = 1 << 20


@pytest.fixture(scope="module")
def program():
    """hearth-os as a module."""
    return load()


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    """A private key; its public one is beside it."""
    file = tmp_path_factory.mktemp("key") / "release.key"
    for words in (["genpkey", "-algorithm", "ed25519", "-out", file],
                  ["pkey", "-in", file, "-pubout", "-out", file.with_suffix(".pub")]):  # fmt: skip
        subprocess.run(["openssl", *words], check=True, capture_output=True)
    return file


class Pi:
    """A box whose disk is a folder of files. `start` plays the firmware; it tells the kernel and
    the root that run then."""

    def __init__(self, program, key, folder, monkeypatch):
        self.program, self.folder = program, folder
        self.tryboot, self.common = program.tryboot, program.tryboot.common
        self.is_restart = True
        self.versions = {"a": "0.1.0", "b": ""}
        self._make_disk()
        for module, name, value in (
            (self.tryboot, "SELECTION", folder / "autoboot.txt"),
            (self.tryboot, "WAITING", folder / "state/waiting.json"),
            (self.tryboot, "REBOOT_WORDS", folder / "reboot-param"),
            (self.tryboot, "_is_restart", lambda: self.is_restart),
            (self.common, "BLOCK", folder / "class"),
            (self.common, "DEV", folder / "dev"),
            (self.common, "root_device", lambda: f"/dev/{self.root}"),
            (program, "root_device", lambda: f"/dev/{self.root}"),
            (program, "os_release", self._os_release),
            (program, "KEYS", key.with_suffix(".pub")),
            (program, "FAILED", folder / "state/failed"),
        ):
            monkeypatch.setattr(module, name, value)
        shutil.copy(TREE / "images/rpi/autoboot.txt", self.tryboot.SELECTION)
        self.start()

    def _make_disk(self):
        disk = self.folder / "devices/mmcblk0"
        (self.folder / "class").mkdir()
        (self.folder / "dev").mkdir()
        for number, name in enumerate(PARTITIONS, 1):
            part = disk / f"mmcblk0p{number}"
            part.mkdir(parents=True)
            words = f"DEVNAME=mmcblk0p{number}\nPARTN={number}\nPARTNAME={name}\n"
            (part / "uevent").write_text(words)
            (self.folder / "class" / part.name).symlink_to(part)
            with (self.folder / "dev" / part.name).open("wb") as file:
                file.truncate(2 * MIB)

    def _os_release(self):
        return {"IMAGE_ID": "hearth-rpi", "IMAGE_VERSION": self.versions[self.letter]}

    def start(self):
        """The next start: what autoboot.txt and the words of the last restart say."""
        words = self.tryboot.REBOOT_WORDS
        default, trial = self.tryboot.selection()
        number = trial if words.exists() and words.read_text() == "0 tryboot" else default
        words.unlink(missing_ok=True)  # the flag is for one start, /run is empty after it
        self.letter = PARTITIONS[number - 1][-1]
        self.root = f"mmcblk0p{4 if self.letter == 'a' else 5}"

    def restart(self):
        self.program.leave()
        self.start()

    def told(self, capsys):
        capsys.readouterr()
        assert self.program.main(["hearth-os", "status"]) == 0
        return capsys.readouterr().out

    def update(self, file):
        return self.program.main(["hearth-os", "update", str(file)])


@pytest.fixture
def box(program, key, tmp_path, monkeypatch):
    return Pi(program, key, tmp_path, monkeypatch)


@pytest.fixture
def made(key, tmp_path):
    """Make an update file as images/build does; its path."""

    def make(version="0.2.0", *, fat_mib=1):
        fat, root, words = (tmp_path / name for name in ("boot.fat", "root.ext4", "cmdline.txt"))
        fat.write_bytes(bytes(fat_mib * MIB))
        words.write_text(f"hearth.root={version}\n")
        for command in (["mformat", "-i", fat, "-T", str(fat_mib * 2048), "::"],
                        ["mcopy", "-i", fat, words, "::cmdline.txt"]):  # fmt: skip
            subprocess.run(command, check=True)
        root.write_bytes(version.encode() * 1000)
        target, facts = tmp_path / f"{version}.update", {"board": "rpi", "version": version}
        update.write(target, facts, {"root": root, "boot": fat}, {}, 1, key)
        return target

    return make


def test_a_good_update_is_tried_once_and_becomes_the_default(box, made, capsys, monkeypatch):
    assert box.update(made()) == 0
    assert "0.2.0: not tried yet" in box.told(capsys)
    boot = box.folder / "dev/mmcblk0p3"
    inside = subprocess.run(["mtype", "-i", boot, "::cmdline.txt"], capture_output=True, check=True)
    assert inside.stdout == b"hearth.root=0.2.0\n"
    assert (box.folder / "dev/mmcblk0p5").read_bytes().startswith(b"0.2.0" * 1000)
    box.versions["b"] = "0.2.0"
    length = box.tryboot.SELECTION.stat().st_size
    box.restart()
    assert "running   0.2.0 from /dev/mmcblk0p5 (on trial)" in box.told(capsys)
    monkeypatch.setattr(box.program, "boot_state", lambda: ("active", "", "inactive"))
    box.program.trial()
    assert box.tryboot.selection() == (3, 2)
    assert box.tryboot.SELECTION.stat().st_size == length <= 512
    box.restart()
    assert box.letter == "b"
    told = box.told(capsys)
    assert "on trial" not in told
    assert "waiting" not in told


def test_an_update_that_dies_is_tried_twice_and_no_more(box, made, capsys):
    box.update(made())
    box.versions["b"] = "0.2.0"
    for tried in (1, 2):
        box.restart()
        assert box.letter == "b"
        box.tryboot.begin()
        box.start()  # its kernel panics: no orderly restart, so no words
        assert box.letter == "a"
        assert f"tried {tried} of 2, it started and did not become good" in box.told(capsys)
    box.restart()
    assert box.letter == "a"
    assert "it is not tried again" in box.told(capsys)
    box.program.failed()
    assert "system 0.2.0 is not used, 0.1.0 runs" in box.told(capsys)


def test_power_that_goes_before_the_restart_costs_no_try(box, made, capsys):
    box.update(made())
    box.start()  # the power was cut
    assert box.letter == "a"
    assert "not tried yet" in box.told(capsys)
    box.is_restart = False  # switched off
    box.restart()
    assert "not tried yet" in box.told(capsys)
    box.is_restart = True
    box.restart()
    assert box.letter == "b"


def test_a_kernel_that_cannot_ask_for_a_trial_is_named(box, made, capsys):
    box.update(made())
    box.program.leave()
    box.tryboot.REBOOT_WORDS.unlink()  # Debian's kernel drops the words
    box.start()
    assert box.letter == "a"
    assert "or this kernel cannot ask for a trial, like Debian's" in box.told(capsys)


def test_an_update_that_does_not_fit_leaves_nothing_to_be_tried(box, made, capsys):
    box.update(made())
    assert box.update(made("0.3.0", fat_mib=3)) == 1
    assert "needs 3145728 bytes" in capsys.readouterr().err
    box.restart()
    assert box.letter == "a"
    assert "waiting" not in box.told(capsys)


def test_a_system_on_trial_takes_no_update(box, made, capsys):
    box.update(made())
    box.versions["b"] = "0.2.0"
    box.restart()
    assert box.update(made("0.3.0")) == 1
    assert "this system is on trial" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[all]\nboot_partition=2\n", "boot_partition=x\n"])
def test_a_selection_that_names_no_pair_is_refused_with_the_cure(box, made, capsys, text):
    box.tryboot.SELECTION.write_text(text)
    assert box.update(made()) == 1
    assert "write it anew, with [all] tryboot_a_b=1 boot_partition=2" in capsys.readouterr().err
