"""A Debian root as a folder or a disk: built once by mmdebstrap, then kept for all tests.

No loop device and no mount is used, so that it works where only files can be written. Hearth gets
inside as the running interpreter has it: its packages, compiled, behind `/opt/hearth/current`.
"""

import compileall
import fcntl
import hashlib
import importlib.metadata
import os
import py_compile
import re
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SUITE = "bookworm"
PACKAGES = (
    "ca-certificates", "dbus", "dosfstools", "e2fsprogs", "exfatprogs", "iproute2", "kmod",
    "procps", "python3", "systemd", "systemd-sysv", "udev",
)  # fmt: skip
KERNEL = ("initramfs-tools", "linux-image-cloud-amd64", "zstd")
PROGRAMS = ("mmdebstrap", "mke2fs", "tar", "truncate")
TREE = Path(__file__).parents[2]
_BUILD_LIMIT_S = 900

_LEAN = tuple(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man"))
# Few modules: an emulated machine unpacks its initramfs slowly.
_HOOKS = (
    "--essential-hook=mkdir -p $1/etc/initramfs-tools/conf.d"
    " && printf 'MODULES=list\\nCOMPRESS=zstd\\n' >$1/etc/initramfs-tools/conf.d/small"
    " && printf 'virtio_pci\\nvirtio_blk\\next4\\n' >$1/etc/initramfs-tools/modules",
)


def cache():
    """Where built roots stay between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "hearth-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class DebianRoot:
    """The archive of a root, in the cache; its kernel and initramfs beside it."""

    def __init__(self, packages=(), with_kernel=True, hooks=()):
        names = {*PACKAGES, *packages, *(KERNEL if with_kernel else ())}
        self.packages = sorted(names)
        self.hooks = [*_LEAN, *(_HOOKS if with_kernel else ()), *hooks]
        recipe = "\n".join([SUITE, *self.packages, *self.hooks])
        key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
        self.folder = cache() / f"root-{SUITE}-{key}"
        self._build_once()

    @property
    def archive(self):
        return self.folder / "root.tar"

    @property
    def kernel(self):
        return self.folder / "vmlinuz"

    @property
    def initramfs(self):
        return self.folder / "initrd.img"

    def unpack(self, folder):
        """A copy of the root at `folder`, for the caller to change."""
        folder.mkdir(parents=True)
        _run("tar", "-C", folder, "-xf", self.archive, "--numeric-owner")
        return folder

    def _build_once(self):
        with self.folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once build one root
            if self.folder.exists():
                return
            building = self.folder.with_suffix(".building")
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            self._build(building)
            building.rename(self.folder)

    def _build(self, folder):
        archive = folder / "root.tar"
        _run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(self.packages)}",
             *self.hooks, SUITE, archive, limit_s=_BUILD_LIMIT_S)  # fmt: skip
        for name in ("vmlinuz", "initrd.img"):
            found = _members(archive, rf"\./boot/{re.escape(name)}-.*")
            if found:
                with (folder / name).open("wb") as target:
                    subprocess.run(["tar", "-xOf", archive, found[0]], stdout=target, check=True)


def make_disk(root, disk, size_mib=1500, label="root"):
    """An ext4 image of the folder `root`; a path to it."""
    disk.unlink(missing_ok=True)
    _run("truncate", "-s", f"{size_mib}M", disk)
    # All of it now, or the kernel inside would go on with it for minutes and count as a writer.
    whole = "lazy_itable_init=0,lazy_journal_init=0"
    _run("mke2fs", "-q", "-t", "ext4", "-E", whole, "-L", label, "-d", root, disk)
    return disk


def install_hearth(root, extras=()):
    """What `pip install` would bring, below /opt/hearth/current in `root`, and the units."""
    release = root / "opt/hearth/releases/test"
    library = release / "lib"
    library.mkdir(parents=True)
    for name in requirements(extras):
        _copy_distribution(name, library)
    _copy_distribution("hearth", library, only=".dist-info")
    for package in ("appliance", "engine"):
        shutil.copytree(TREE / package, library / package, ignore=_NOT_CODE)
    compileall.compile_dir(
        library, quiet=2, stripdir=str(root), workers=1,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )  # fmt: skip
    script = release / "bin/hearth"
    script.parent.mkdir()
    script.write_text(
        '#!/bin/sh\nPYTHONPATH=/opt/hearth/current/lib exec /usr/bin/python3 -s -m appliance "$@"\n'
    )
    script.chmod(0o755)
    link = root / "opt/hearth/current"
    link.symlink_to("releases/test")
    (root / "usr/local/bin/hearth").symlink_to("/opt/hearth/current/bin/hearth")


def install_units(root):
    """What systemd/ has, each where a machine looks for it; the service is switched on."""
    units = root / "etc/systemd/system"
    source = TREE / "systemd"
    for file in (*source.glob("*.service"), *source.glob("*.socket"), *source.glob("*.timer")):
        shutil.copy(file, units)
    rules = root / "etc/udev/rules.d"
    rules.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*.rules"):
        shutil.copy(file, rules)
    for name in ("sysusers.d", "tmpfiles.d"):
        shutil.copytree(source / name, root / "etc" / name, dirs_exist_ok=True)
    _run("systemd-sysusers", f"--root={root}")
    _run("systemctl", f"--root={root}", "enable", "hearth.socket", "hearth.service")


def requirements(extras=()):
    """The names of all distributions that `hearth` with these extras needs here."""
    found, waiting = set(), [Requirement(f"hearth[{','.join(extras)}]")]
    while waiting:
        wanted = waiting.pop()
        environments = [{"extra": extra} for extra in ("", *wanted.extras)]
        for line in importlib.metadata.requires(wanted.name) or ():
            each = Requirement(line)
            name = canonicalize_name(each.name)
            applies = not each.marker or any(map(each.marker.evaluate, environments))
            if applies and name not in found:
                found.add(name)
                waiting.append(each)
    return sorted(found - {"hearth"})


def missing():
    """Why no root can be built here; empty if it can."""
    if os.geteuid() != 0:
        return "building a Debian root needs root"
    if sys.version_info[:2] != (3, 11):
        return "Debian 12's Python is 3.11, so packages come from a run under 3.11"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"needs {', '.join(absent)}" if absent else ""


_NOT_CODE = shutil.ignore_patterns("__pycache__")


def _copy_distribution(name, library, only=""):
    """Its files as pip put them, or those in folders of that ending alone."""
    # The egg-info of this tree may come first on the path, and is not what pip installed.
    found = importlib.metadata.distributions(name=name)
    distribution = next(each for each in found if each.read_text("METADATA") is not None)
    for file in distribution.files or ():
        source, target = Path(distribution.locate_file(file)), library / file
        is_inside = ".." not in file.parts and "__pycache__" not in file.parts
        is_inside = is_inside and file.parts[0].endswith(only)
        if is_inside and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def _members(archive, pattern):
    listed = subprocess.run(["tar", "-tf", archive], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if re.fullmatch(pattern, line)]


def _run(*command, limit_s=120):
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True,
                          timeout=limit_s)  # fmt: skip
    assert done.returncode == 0, f"{command[0]}: {done.stderr}{done.stdout}"
