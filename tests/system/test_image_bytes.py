"""Two builds of an image give the same bytes, with a list of parts, checksums that hold, and an
update file that boxes with this image take."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from images.maker import board
from tests.system import machine
from tools.release import seal

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(3600)]

TREE = Path(__file__).parents[2]
NAME = "hearth-minipc-0.1.0"
MIB = 1 << 20


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("key") / "release.key"
    _run("openssl", "genpkey", "-algorithm", "ed25519", "-out", path)
    return path


@pytest.fixture(scope="module")
def wheels(key, tmp_path_factory):
    """The wheelhouse that HEARTH_WHEELS names, else one that is made here; signed by `key`."""
    if reason := machine.missing("mmdebstrap", "sfdisk", "objcopy"):
        pytest.fail(reason)
    folder = tmp_path_factory.mktemp("wheels")
    if ready := os.environ.get("HEARTH_WHEELS"):
        signed = shutil.copytree(ready, folder / "signed")
        for old in (seal.SUMS, seal.SIGNATURE):
            (signed / old).unlink(missing_ok=True)
        seal.seal(signed, key)
        return signed
    _run(TREE / "tools/wheelhouse", "--out", folder, "--sign", key)
    return next(folder.iterdir())


def test_two_builds_are_equal_and_their_checksums_hold(wheels, key, tmp_path):
    sums = [_built(wheels, key, tmp_path / name) for name in ("one", "two")]
    print(sums[0])
    assert sums[0] == sums[1]
    _run("sha256sum", "--check", "--strict", f"{NAME}.sha256", cwd=tmp_path / "one")
    parts = json.loads((tmp_path / f"one/{NAME}.cdx.json").read_text())["components"]
    names = {each["name"] for each in parts}
    # openssl and zstd: what the image itself needs to take an update
    assert {"hearth", "llama_cpp_python", "systemd", "hearth.gguf", "openssl", "zstd"} <= names
    _check_that_the_image_trusts(tmp_path / "one", tmp_path)


def _check_that_the_image_trusts(built, work):
    """The key in the root of the image verifies the update file beside it."""
    before = next(i for i, each in enumerate(_partitions()) if each.holds == "root")
    offset = (1 + sum(each.size_mib for each in _partitions()[:before])) * MIB
    root = f"{built / NAME}.img?offset={offset}"
    trusted = work / "trusted.pub"
    trusted.write_text(_run("debugfs", "-R", "cat /etc/hearth/release.pub", root))
    with tarfile.open(built / f"{NAME}.update") as archive:
        for name in (seal.SUMS, seal.SIGNATURE):
            archive.extract(name, work, filter="data")
    _run("openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", trusted,
         "-in", work / seal.SUMS, "-sigfile", work / seal.SIGNATURE)  # fmt: skip


def _partitions():
    return board.load("minipc").partitions


def _built(wheels, key, out):
    _run(sys.executable, TREE / "images/build", "minipc", "--version", "0.1.0", "--wheelhouse",
         wheels, "--out", out, "--sign", key,
         env={**os.environ, "SOURCE_DATE_EPOCH": "1764288000"})  # fmt: skip
    return (out / f"{NAME}.sha256").read_text()


def _run(*command, **options):
    done = subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, f"{command[0]}: {done.stderr}{done.stdout}"
    return done.stdout
