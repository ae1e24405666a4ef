"""The whole way of a release, on real processes: what `python -m tools.bundles.demo` shows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (ROOT / "appliance/builtin/hearth.gguf").exists(), reason="the built-in model is not built"
)

IN_ORDER = [
    "== the publisher's keys",
    "fingerprint of the root",
    "acme signed acme/assistant/latest",
    "acme may now sign acme/*",
    "running smoke tests",
    "success",
    "Hearth turns a",
    "== a good update",
    "bytes of blobs moved",
    "Hearth turns a",
    "== a bad update",
    "Error: release 1.2.0 of acme/assistant:latest is not used",
    "1.2.0 (q8_0)",
    "Hearth turns a",
    "== the way back",
    "acme/assistant:latest is release 1.0.0 again",
    "Hearth turns a",
]


def test_from_keys_to_rollback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tools.bundles.demo", str(tmp_path / "demo")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    print(done.stdout)
    assert done.returncode == 0
    rest = done.stdout
    for text in IN_ORDER:
        _, found, rest = rest.partition(text)
        assert found, f"{text!r} does not come after what came before it"
    told = done.stdout.partition("== a good update")[2]
    moved = int(told.partition(" bytes of blobs moved")[0].split()[-1])
    assert moved < (ROOT / "appliance/builtin/hearth.gguf").stat().st_size / 100
