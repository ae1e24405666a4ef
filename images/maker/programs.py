"""The programs that a build calls, and the namespace in which it may act as root."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

# program -> Debian package
PACKAGES = {
    "mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs",
    "sfdisk": "fdisk", "mformat": "mtools", "mcopy": "mtools", "zstd": "zstd", "tar": "tar",
    "openssl": "openssl",
}  # fmt: skip
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class BuildError(Exception):
    """A build that cannot go on; the text says what to do."""


def environment() -> dict[str, str]:
    """The caller's environment, with the folders of e2fsprogs and sfdisk on its path."""
    folders = os.environ.get("PATH", "").split(":")
    missing = [each for each in _SBIN if each not in folders]
    return {**os.environ, "PATH": ":".join([*folders, *missing]), "LC_ALL": "C", "TZ": "UTC"}


def require(architecture: str, scheme: str) -> None:
    """Raise BuildError naming every Debian package that this build needs and is not here."""
    needed = dict(PACKAGES)
    if scheme == "uefi":
        needed["objcopy"] = "binutils"
    is_foreign = architecture != _own_architecture()
    if is_foreign:
        needed["arch-test"] = "arch-test"  # mmdebstrap asks it
    path = environment()["PATH"]
    absent = {package for name, package in needed.items() if shutil.which(name, path=path) is None}
    if is_foreign and not _runs_foreign(architecture):
        absent |= {"qemu-user-static", "binfmt-support"}
    if absent:
        raise BuildError(f"not here; get it with: sudo apt-get install {' '.join(sorted(absent))}")
    if os.geteuid() != 0:
        _require_namespaces()


def as_root() -> list[str]:
    """The words before a command that must own its files as root: none for root itself."""
    if os.geteuid() == 0:
        return []
    return ["unshare", "--user", "--map-root-user", "--map-auto", "--mount", "--"]


def run(
    argv: Sequence[str | Path],
    *,
    extra: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> str:
    """Run one program to its end; its output. Raises BuildError with what it said."""
    done = subprocess.run(
        [str(each) for each in argv], check=False, input=stdin, text=True, capture_output=True,
        env={**environment(), **(extra or {})},
    )  # fmt: skip
    if done.returncode != 0:
        raise BuildError(f"{argv[0]} failed ({done.returncode}): {done.stderr[-4000:].strip()}")
    return done.stdout


def _own_architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def _runs_foreign(architecture: str) -> bool:
    """The kernel hands programs of that machine to an emulator (binfmt_misc)."""
    name = {"arm64": "qemu-aarch64", "amd64": "qemu-x86_64"}[architecture]
    handler = Path("/proc/sys/fs/binfmt_misc", name)
    return handler.exists() and handler.read_text().startswith("enabled")


def _require_namespaces() -> None:
    user = f"{Path.home().owner()}:"
    for file in (Path("/etc/subuid"), Path("/etc/subgid")):
        if not file.exists() or not any(
            line.startswith((user, f"{os.getuid()}:")) for line in file.read_text().splitlines()
        ):
            raise BuildError(f"{file} gives you no ids; get them with: "
                             "sudo usermod --add-subuids 100000-165535 "
                             f"--add-subgids 100000-165535 {user[:-1]}")  # fmt: skip
    if shutil.which("newuidmap") is None:
        raise BuildError("not here; get it with: sudo apt-get install uidmap")
    probe = subprocess.run([*as_root(), "true"], check=False, capture_output=True, text=True)
    if probe.returncode != 0:
        raise BuildError("user namespaces are closed here; open them with: "
                         "sudo sysctl kernel.unprivileged_userns_clone=1 "
                         f"(or build as root): {probe.stderr.strip()}")  # fmt: skip
