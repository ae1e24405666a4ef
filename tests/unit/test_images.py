"""What the image builder decides without building: boards, and the initramfs byte for byte."""

import fnmatch
import gzip
import re
import subprocess
import sys
from pathlib import Path

import pytest

from images.maker import board, build, disk, ext4, initramfs
from images.maker.programs import BuildError

TREE = Path(__file__).parents[2]


def test_each_board_has_one_place_for_each_part():
    for name in board.names():
        held = [each.holds for each in board.load(name).partitions]
        assert held.count("root") == held.count("data") == held.count("boot") == 1
        assert held[-1] == "data", "it grows, so nothing can follow it"


def test_a_box_that_starts_from_a_stick_does_not_import_itself():
    rule = (TREE / "systemd/70-hearth-import.rules").read_text()
    sticks = re.search(r'ID_FS_LABEL}!="(.+?)"', rule)[1]
    assert fnmatch.fnmatchcase("HEARTH", sticks)
    assert not fnmatch.fnmatchcase(build.BOOT_LABEL, sticks)


def test_a_wrong_board_is_one_sentence_with_the_boards_there_are():
    with pytest.raises(BuildError, match=r"no board 'toaster'; boards: minipc, rpi"):
        board.load("toaster")


def test_a_wrong_version_is_refused():
    asked = [
        sys.executable,
        TREE / "images/build",
        "minipc",
        "--wheelhouse",
        ".",
        "--version",
        "1+",
    ]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 1
    assert "version '1+'" in done.stderr


def test_a_root_that_outgrew_its_partition_is_refused_before_it_is_made(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/large").write_bytes(bytes(3 << 20))
    with pytest.raises(BuildError, match=r"the root takes 11 MiB, board.toml gives it 10"):
        ext4.make_root(tmp_path / "root.ext4", tmp_path / "root", 10, disk.NAMES, 0)
    assert not (tmp_path / "root.ext4").exists()


@pytest.fixture
def root(tmp_path):
    library = tmp_path / "usr/lib/modules/6.1"
    (library / "kernel").mkdir(parents=True)
    for name in ("ext4", "crc", "other"):
        (library / f"kernel/{name}.ko").write_text(name)
    (library / "modules.dep").write_text(
        "kernel/ext4.ko: kernel/crc.ko\nkernel/crc.ko:\nkernel/other.ko:\n"
    )
    (library / "modules.alias").write_text("alias fs-ext4 ext4\nalias pci:x other\n")
    (library / "modules.builtin").write_text("kernel/vfat.ko\n")
    (library / "modules.softdep").write_text("")
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin/busybox").write_text("busybox")
    return tmp_path


def test_the_initramfs_holds_the_modules_asked_for_and_what_they_need(root):
    init = TREE / "images/shared/initramfs/init"
    packed = initramfs.make(root, init, ("ext4", "vfat"), 1)
    assert packed == initramfs.make(root, init, ("ext4", "vfat"), 1)
    content = gzip.decompress(packed)
    assert b"kernel/crc.ko" in content
    assert b"alias fs-ext4 ext4" in content
    assert b"other" not in content.replace(init.read_bytes(), b"")


def test_a_module_that_the_kernel_lacks_is_named(root):
    with pytest.raises(BuildError, match="has no module 'floppy'"):
        initramfs.make(root, TREE / "images/shared/initramfs/init", ("floppy",), 1)
