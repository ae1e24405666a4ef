"""Programs whose wall clock begins on 2 January 1970, as on a board without a hardware clock."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

_DAY_S = 86_400


def compiled(folder):
    """The library that a program preloads, made in `folder`."""
    compiler = shutil.which("cc")
    if compiler is None:
        if os.environ.get("CI"):
            pytest.fail("there is no C compiler (build-essential)")
        pytest.skip("needs a C compiler")
    library = folder / "early_clock.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def words(library):
    """What stands before a command to preload `library`."""
    return "env", f"LD_PRELOAD={library}", f"EARLY_BY={int(time.time()) - _DAY_S}"
