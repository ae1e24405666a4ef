"""Compiles `cpu.cpp` for this processor and loads it: once for each machine, in two seconds.

As Triton does on a GPU, it asks for a C++ compiler when a model is loaded; where there is none, or
what it made does not load, the caller computes with torch. Knows no shapes: the calls are in
`loops.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch  # noqa: F401 its OpenMP must be there first: the library has none of its own

SOURCE = Path(__file__).with_name("cpu.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fPIC", "-fopenmp", "-w")
TIMEOUT_S = 120.0

_PTR, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_CALLS = {
    "project": (_INT, *[_PTR] * 4, *[_INT] * 3),
    "norm": (*[_PTR] * 5, *[_INT] * 5, _FLOAT),
    "rotate": (*[_PTR] * 4, *[_INT] * 5),
    "gated": (*[_PTR] * 2, *[_INT] * 3),
    "store": (*[_PTR] * 5, *[_INT] * 6),
    "attend": (*[_PTR] * 7, *[_INT] * 9, _FLOAT, _FLOAT),
}


class NativeError(Exception):
    """The loops cannot be compiled or loaded here; the text says why."""


class Library:
    """The compiled functions, and the sizes that they were compiled for."""

    def __init__(self, path: Path) -> None:
        """Raises NativeError if the file does not load."""
        try:
            loaded = ctypes.CDLL(str(path))
            for name, arguments in _CALLS.items():
                function = getattr(loaded, f"hearth_{name}")
                function.argtypes, function.restype = arguments, None
            self.panel: int = loaded.hearth_panel()  # columns of a weight that lie together
            self.step: int = loaded.hearth_step()  # head and block sizes are multiples of it
        except (OSError, AttributeError) as error:
            raise NativeError(f"the compiled loops do not load: {error}") from error
        self.project = loaded.hearth_project
        self.norm = loaded.hearth_norm
        self.rotate = loaded.hearth_rotate
        self.gated = loaded.hearth_gated
        self.store = loaded.hearth_store
        self.attend = loaded.hearth_attend


@functools.cache
def library() -> Library:
    """Compiled and loaded when first asked for. Raises NativeError."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise NativeError("no g++ to compile the loops with: apt install g++")
    name = f"loops-{_fingerprint(compiler)}.so"
    folder = _folder()
    path = folder / name
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as scratch:
            unfinished = Path(scratch) / name
            _compile(compiler, unfinished)
            unfinished.replace(path)
    return Library(path)


def _compile(compiler: str, to: Path) -> None:
    compiled = to.with_suffix(".o")
    # Two commands: linking with -fopenmp would bring a second OpenMP with threads of its own.
    for command in ([*FLAGS, "-c", str(SOURCE), "-o", str(compiled)],
                    ["-shared", str(compiled), "-o", str(to)]):  # fmt: skip
        try:
            done = subprocess.run(  # noqa: S603 our own source by the system's compiler
                [compiler, *command], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NativeError(f"{compiler} failed: {error}") from error
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no message"]
            raise NativeError(f"{compiler} failed: {said[0]}")


def _fingerprint(compiler: str) -> str:
    """Changes with the source, the flags, the compiler and what the processor can do."""
    facts = [SOURCE.read_bytes(), repr(FLAGS).encode(), os.path.realpath(compiler).encode()]
    facts.append(platform.machine().encode())
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
        facts += [next((n for n in lines if n.startswith((b"flags", b"Features"))), b"")]
    return hashlib.sha256(b"\0".join(facts)).hexdigest()[:16]


def _folder() -> Path:
    """The user's cache, which nobody else may write; else one that ends with this process."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(cache).expanduser() / "hearth"
    with contextlib.suppress(OSError, RuntimeError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        is_ours = found.st_uid == os.geteuid() and not found.st_mode & 0o022
        if is_ours and os.access(folder, os.W_OK):
            return folder
    return Path(_scratch().name)


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="hearth-loops-")
