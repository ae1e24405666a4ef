"""The kernels' numbers on the CPU: the tests of tests/gpu, run in Triton's interpreter."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

TESTS = ("tests/gpu/test_paged_kernels.py", "tests/gpu/test_paged_engine.py")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(300)
def test_kernels_equal_their_twins_in_the_interpreter():
    # The switch works only if it is set before Triton is imported, hence a process of its own.
    command = [sys.executable, "-m", "pytest", "-q", "-s", *TESTS]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # more only wait for each other
    environ = os.environ | threads | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(
        command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=280
    )
    print(run.stdout[-20_000:], run.stderr[-5_000:])
    assert run.returncode == 0
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed
    assert int(passed[1]) > 90
    assert "skipped" not in run.stdout


def test_engine_modules_need_no_triton():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from engine.paged.device import find_back_ends\n"
        "from engine.paged.kernels.sample import sample_torch\n"
        "print(sample_torch(torch.eye(2), *torch.zeros(3, 2).long().unbind()).tolist())\n"
        "for tries in (False, True):\n"
        "    found = find_back_ends(torch.device('cpu'), torch.float32, 64, interpreted=tries)\n"
        "    print(found.num_sms, found.has_graphs, found.description.partition(';')[0])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
        env=os.environ | {"PATH": ""},  # nor a compiler
    )  # fmt: skip
    assert run.stdout.splitlines() == [
        "[0, 1]",
        "0 False computed by torch (no g++ to compile the loops with: apt install g++)",
        "0 False attention by torch (triton is not installed: pip install 'hearth[gpu]')",
    ]
