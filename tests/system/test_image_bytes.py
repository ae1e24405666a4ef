"""Two builds of an image give the same bytes, with a list of parts and checksums that hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system import machine

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(3600)]

TREE = Path(__file__).parents[2]
NAME = "hearth-minipc-0.1.0"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The wheelhouse that HEARTH_WHEELS names, else one that is made here."""
    if reason := machine.missing("mmdebstrap", "sfdisk", "objcopy"):
        pytest.fail(reason)
    if ready := os.environ.get("HEARTH_WHEELS"):
        return Path(ready)
    folder = tmp_path_factory.mktemp("wheels")
    subprocess.run([TREE / "tools/wheelhouse", "--out", folder], check=True)
    return next(folder.iterdir())


def test_two_builds_are_equal_and_their_checksums_hold(wheels, tmp_path):
    sums = [_built(wheels, tmp_path / name) for name in ("one", "two")]
    print(sums[0])
    assert sums[0] == sums[1]
    check = ["sha256sum", "--check", "--strict", f"{NAME}.sha256"]
    subprocess.run(check, cwd=tmp_path / "one", check=True)
    parts = json.loads((tmp_path / f"one/{NAME}.cdx.json").read_text())["components"]
    names = {each["name"] for each in parts}
    assert {"hearth", "llama_cpp_python", "systemd", "hearth.gguf"} <= names


def _built(wheels, out):
    build = [sys.executable, TREE / "images/build", "minipc", "--version", "0.1.0"]
    subprocess.run(
        [*build, "--wheelhouse", wheels, "--out", out], check=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1764288000"},
    )  # fmt: skip
    return (out / f"{NAME}.sha256").read_text()
