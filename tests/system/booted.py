"""A machine that boots the real systemd in a container: Debian under systemd-nspawn, in seconds.

Needs root and the programs of `PROGRAMS`. The root is built once from Debian packages and kept in
the user's cache; each test works on an overlay of it. The container has a network namespace of its
own, with loopback alone, or that of a host of the lab (lab.py). It shares the kernel, so nothing
here shows modules, udev rules or memory limits: machine.py boots a kernel for those.
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import uuid
from pathlib import Path

import appliance
from tests.fakes.waiting import wait_for
from tests.system.distributions import DEBIAN_12

PROGRAMS = ("ip", "mmdebstrap", "nsenter", "systemd-nspawn")
LIMIT_S = 60
RUNNING = Path("/opt/hearth/running")  # where the interpreter and the code of this test run are
LAUNCHER = Path("/opt/hearth/current/bin/hearth")
REPOSITORY = Path(appliance.__file__).parents[1]
_NUMBERS = itertools.count(1)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing():
    """Why no container can be booted here; empty if one can."""
    if os.geteuid() != 0:
        return "booting a container needs root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"booting a container needs {', '.join(absent)}" if absent else ""


class Booted:
    """A container; a context that boots it and leaves nothing behind.

    `system` is what boots; `root` is its file system as this machine sees it, `netns` the name of
    its network namespace.
    With `boots=False` it is only prepared, so that a test can change `root` before `boot()`.
    `binds` maps paths here to paths in the container, which sees them read-only.
    """

    def __init__(self, folder, *, netns=None, system=DEBIAN_12, binds=None, boots=True):
        self.folder = Path(folder) / f"booted-{next(_NUMBERS)}"
        self.name = f"booted{os.getpid()}-{next(_NUMBERS)}"
        self.root = self.folder / "root"
        self.netns = netns or self.name
        self.binds = {str(here): str(there) for here, there in (binds or {}).items()}
        self.boot_s = 0.0  # how long the last boot took
        self._owns_netns = netns is None
        self._system, self._boots = system, boots
        self._nspawn = None
        self._init = 0  # its PID 1, as this machine counts
        self._undo = contextlib.ExitStack()

    # -- life ----------------------------------------------------------------------------

    def __enter__(self):
        with contextlib.ExitStack() as undo:
            self._prepare(undo)
            undo.callback(self._end)
            if self._boots:
                self.boot()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_):
        self._undo.close()

    def boot(self):
        """Start it; returns when all of its units had their turn. Its state: running, degraded."""
        started = time.monotonic()
        with (self.folder / "console.log").open("ab") as console:
            self._nspawn = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )  # fmt: skip
        wait_for(self._has_init, LIMIT_S)
        wait_for(lambda: self._state() not in {"", "offline", "initializing"}, LIMIT_S)
        state = self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        self.boot_s = time.monotonic() - started
        return state

    def power_off(self):
        """Stop it in order."""
        self.run("systemctl", "--no-block", "poweroff", check=False)
        self._nspawn.wait(LIMIT_S)
        self._init = 0

    def cut_power(self):
        """End it at once, with everything that runs in it; what was written is there."""
        if self._init:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGKILL)  # the kernel ends the others with their init
        self._nspawn.wait(LIMIT_S)
        self._init = 0

    def _end(self):
        if self._nspawn is None or self._nspawn.poll() is not None:
            return
        try:
            self.power_off()
        except subprocess.TimeoutExpired:
            self.cut_power()

    # -- use -----------------------------------------------------------------------------

    def run(self, *argv, check=True, stdin=None, timeout=LIMIT_S):
        """Run a program inside as root, to its end."""
        done = subprocess.run(
            self.enter(*argv), capture_output=True, text=True, input=stdin, timeout=timeout,
            env={"PATH": _PATH, "LANG": "C.UTF-8"},
        )  # fmt: skip
        said = f"{' '.join(map(str, argv))}: {done.returncode}\n{done.stderr}{done.stdout}"
        assert not check or done.returncode == 0, said
        return done

    def enter(self, *argv):
        """The command here that runs `argv` inside."""
        assert self._init, "it is not running"
        enter = ["nsenter", "-t", str(self._init), "-m", "-u", "-i", "-n", "-p", "-C", "--root"]
        return [*enter, "--wdns=/", "--", *map(str, argv)]

    def in_netns(self, *argv):
        """The command here that runs `argv` of this machine in the container's network."""
        return ["ip", "netns", "exec", self.netns, *map(str, argv)]

    def path(self, inside):
        """Where a path of the container is on this machine."""
        return self.root / str(inside).lstrip("/")

    def copy(self, src, dst):
        """Copy a file or a folder of this machine to a path of the container, as root's."""
        target = self.path(dst)
        target.parent.mkdir(parents=True, exist_ok=True)
        if Path(src).is_dir():
            shutil.copytree(src, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(src, target)

    def write(self, inside, text, mode=0o644):
        """Write a file of the container."""
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def journal(self, *options):
        """What the journal has, as text."""
        return self.run("journalctl", "--no-pager", "-o", "short-monotonic", *options).stdout

    def show(self, unit, name):
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def wait_active(self, unit, limit_s=LIMIT_S):
        """Return once a unit is active; fails with what it logged."""
        try:
            wait_for(lambda: self.show(unit, "ActiveState") == "active", limit_s)
        except AssertionError as error:
            status = self.run("systemctl", "status", "--no-pager", unit, check=False).stdout
            raise AssertionError(f"{unit} is not active:\n{status}\n{self.journal()}") from error

    def get(self, url, *options):
        """(status, body) of a GET by curl from inside; status 0 if nothing answered."""
        curl = ["curl", "-s", "-m", "20", "-w", "\n%{http_code}", *options, url]
        body, _, status = self.run(*curl, check=False).stdout.rpartition("\n")
        return int(status or 0), body

    # -- hearth without its installer ------------------------------------------------------

    def add_running_hearth(self):
        """Have the code and the interpreter of this test run inside, and a launcher for them where
        a release has its own. Before `boot()`."""
        interpreter, sources = _interpreter(), [Path(p) for p in sys.path if p]
        standard = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
        base = Path(sys.base_prefix)
        folders = [REPOSITORY]
        folders += [p for p in sources if p.name in {"site-packages", "dist-packages"}]
        folders = [p for p in dict.fromkeys(folders) if p.is_dir() and p not in standard]
        python = interpreter
        if base != Path("/usr"):
            self.binds[str(base)] = str(RUNNING / "python")
            python = RUNNING / "python" / interpreter.relative_to(base)
        inside = []
        for number, folder in enumerate(folders):
            inside.append(str(RUNNING / f"code-{number}"))
            self.binds[str(folder)] = inside[-1]
        launcher = (
            "#!/bin/sh\n"
            f"export PYTHONPATH={':'.join(inside)} PYTHONPYCACHEPREFIX=/var/cache/hearth/bytecode\n"
            f"export LD_LIBRARY_PATH={python.parent.parent / 'lib'}\n"
            f"exec {python}"
        )
        self.write(LAUNCHER, f'{launcher} -m appliance "$@"\n', 0o755)
        self.write(LAUNCHER.with_name("python"), f'{launcher} "$@"\n', 0o755)

    # -- inner -----------------------------------------------------------------------------

    def _prepare(self, undo):
        lower = self._system.root()
        upper, work = self.folder / "upper", self.folder / "work"
        for folder in (self.root, upper, work):
            folder.mkdir(parents=True)
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        mount = ["mount", "-t", "overlay", self.name, "-o", options, str(self.root)]
        if subprocess.run(mount, capture_output=True).returncode == 0:
            undo.callback(subprocess.run, ["umount", "-l", str(self.root)], check=True)
        else:  # this file system cannot carry an overlay
            copy = ["cp", "-a", "--reflink=auto", f"{lower}/.", str(self.root)]
            subprocess.run(copy, check=True)
        self.write("/etc/machine-id", f"{uuid.uuid4().hex}\n")  # else each boot is a first boot
        if self._owns_netns:
            subprocess.run(["ip", "netns", "add", self.netns], check=True)
            undo.callback(subprocess.run, ["ip", "netns", "del", self.netns], check=True)
            subprocess.run(["ip", "-n", self.netns, "link", "set", "lo", "up"], check=True)

    def _command(self):
        return [
            *("setpriv", "--pdeathsig=TERM"),  # it takes SIGTERM as an order to power off
            *("systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={self.name}"),
            *("--boot", "--register=no", "--keep-unit", "--console=pipe", "--link-journal=no"),
            *("--resolv-conf=off", "--timezone=off", "--kill-signal=SIGRTMIN+3"),
            f"--network-namespace-path=/run/netns/{self.netns}",
            "--system-call-filter=bpf @memlock",
            "--capability=CAP_IPC_LOCK,CAP_NET_ADMIN,CAP_BPF",
            *(f"--bind-ro={here}:{there}" for here, there in self.binds.items()),
        ]

    def _has_init(self):
        log = self.folder / "console.log"
        assert self._nspawn.poll() is None, f"nspawn ended:\n{log.read_text(errors='replace')}"
        pid = self._nspawn.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._init = next((int(child) for child in children if _is_init(child)), 0)
        return bool(self._init)

    def _state(self):
        asked = self.run("systemctl", "is-system-running", check=False)
        return asked.stdout.strip()


def _interpreter():
    """The executable behind all links of virtual environments."""
    return Path(sys.executable).resolve()


def _is_init(pid):
    """Whether a child of nspawn is the PID 1 of its container, and systemd already.

    Before that it still is in namespaces of ours, which nobody must enter to shut them down.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return facts["Name"] == "systemd" and facts["NSpid"].split()[-1] == "1"
