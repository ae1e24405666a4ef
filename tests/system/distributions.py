"""Roots of the distributions that Hearth installs on: built once by mmdebstrap, then kept."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BUILD_LIMIT_S = 900
_PACKAGES = (
    *("ca-certificates", "curl", "dbus", "iproute2", "libgomp1", "procps"),
    *("python3", "python3-venv"),
    *("systemd", "systemd-sysv", "udev"),
)


@dataclass(frozen=True)
class Distribution:
    """A suite that mmdebstrap knows, and what is in the root beside the minimal system."""

    suite: str
    packages: tuple = _PACKAGES
    keyring: Path | None = None  # of its archive, where Debian's is not the one
    options: tuple = ()

    def missing(self):
        """Why its root cannot be built here; empty if it can."""
        if self.keyring is None or self.keyring.is_file():
            return ""
        return f"{self.suite} needs {self.keyring} (of Ubuntu's package ubuntu-keyring)"

    def root(self):
        """The folder of the root, built by the first who asks. Read it only."""
        wanted = json.dumps([self.suite, sorted(self.packages), *self.options])
        name = f"root-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}"
        root = cache() / name
        root.parent.mkdir(parents=True, exist_ok=True)
        with (root.parent / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not root.is_dir():
                self._build(root)
        return root

    def _build(self, root):
        building = root.with_name(f"{root.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        options = [*self.options, *([f"--keyring={self.keyring}"] if self.keyring else [])]
        command = ["mmdebstrap", "--quiet", "--variant=minbase", *options,
                   f"--include={','.join(self.packages)}", self.suite, str(building)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_LIMIT_S)
        assert done.returncode == 0, f"mmdebstrap: {done.stderr}"
        building.chmod(0o755)
        building.rename(root)


DEBIAN_12 = Distribution("bookworm")  # Python 3.11, systemd 252; Raspberry Pi OS 12 is the same
DEBIAN_13 = Distribution("trixie")  # Python 3.13, systemd 257
_UBUNTU = ("apt", "ca-certificates", "curl", "dbus", "iproute2", "procps", "python3", "systemd",
           "systemd-sysv", "udev")  # fmt: skip
_UBUNTU_KEYS = Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")
# Python 3.10, systemd 249. A newer Python of its own archive is there for tests to take away.
UBUNTU_22_04 = Distribution(
    "jammy", (*_UBUNTU, "python3.11"), _UBUNTU_KEYS, ("--components=main,universe",)
)
UBUNTU_24_04 = Distribution("noble", _UBUNTU, _UBUNTU_KEYS)  # Python 3.12, systemd 255


def cache():
    """The folder of what tests build once."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "hearth-tests"
