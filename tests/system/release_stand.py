"""Releases of this source tree for the installer's tests, built once and kept in the cache.

GOOD is the tree as it is, NEXT the same with a higher version, BROKEN a higher one still, whose
service ends at its start. All are signed by one key. llama.cpp is the wheel that pip has in its
cache already.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.system.booted import REPOSITORY
from tests.system.distributions import cache
from tools.release import contents, machines, seal, wheels
from tools.release.pip import Pip

PARTS = ("appliance", "engine", "systemd", "tools", "pyproject.toml", "README.md")
GOOD, NEXT, BROKEN = "0.9.0", "0.10.0", "0.11.0"
BUILD_LIMIT_S = 900
KEPT_S = 7200  # another run may still use an older one


@dataclass(frozen=True)
class Stand:
    """Folders of wheelhouses by version, and the key that signs."""

    folder: Path

    @property
    def key(self):
        return self.folder / "release.key"

    def wheelhouse(self, version):
        return self.folder / f"hearth-{version}-{machines.architecture()}"


def build_stand():
    """The stand for the tree as it is now."""
    digest = hashlib.sha256()
    for part in PARTS:
        for path in sorted([REPOSITORY / part, *(REPOSITORY / part).rglob("*")]):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(REPOSITORY)).encode() + path.read_bytes())
    folder = cache() / f"releases-{digest.hexdigest()[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "releases.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            for old in folder.parent.glob("releases-*"):
                if time.time() - old.stat().st_mtime > KEPT_S:
                    shutil.rmtree(old)
            building = folder.with_name("releases.building")
            shutil.rmtree(building, ignore_errors=True)
            _build(building)
            building.rename(folder)
    return Stand(folder)


def _build(folder):
    tree = folder / "tree"
    for part in PARTS:
        if (REPOSITORY / part).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / part, tree / part, ignore=ignore)
        else:
            shutil.copy2(REPOSITORY / part, tree / part)
    key = folder / "release.key"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    _set_version(tree, GOOD)
    tool = [tree / "tools/wheelhouse", "--native", "--sign", key, "--out", folder]
    done = subprocess.run(
        tool, capture_output=True, text=True, timeout=BUILD_LIMIT_S,
        env={"PYTHON": sys.executable, "PATH": "/usr/local/bin:/usr/bin:/bin",
             "HOME": str(Path.home())},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    good = Stand(folder).wheelhouse(GOOD)
    _derive(tree, good, NEXT, key)
    serve = tree / "appliance/cli/serve.py"
    serve.write_text(serve.read_text() + '\nraise SystemExit("this release is broken")\n')
    _derive(tree, good, BROKEN, key)


def _derive(tree, good, version, key):
    """A wheelhouse with the tree's Hearth under another version, and the same of all else."""
    _set_version(tree, version)
    target = good.with_name(good.name.replace(GOOD, version))
    shutil.copytree(good, target)
    for name in ("SHA256SUMS", "SHA256SUMS.sig"):
        (target / name).unlink()
    (old,) = (target / "wheels").glob("hearth-*.whl")
    old.unlink()
    scratch = target.with_name("scratch")
    scratch.mkdir()
    new = wheels.build_hearth(tree, scratch, Pip(sys.executable))
    shutil.copy2(new, target / "wheels")
    shutil.rmtree(scratch)
    (engine,) = (target / "wheels").glob("llama_cpp_python-*.whl")
    pythons = [f"{sys.version_info.major}.{sys.version_info.minor}"]
    contents.describe(target, version, pythons, True, engine)
    seal.seal(target, key)


def _set_version(tree, version):
    path = tree / "pyproject.toml"
    lines = path.read_text().splitlines()
    lines = [f'version = "{version}"' if line.startswith("version = ") else line for line in lines]
    path.write_text("\n".join([*lines, ""]))
