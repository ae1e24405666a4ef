"""A local network in one machine: namespaces as hosts, a bridge as the switch, avahi as a stranger.

Needs root and the programs of `PROGRAMS`; touches nothing outside its own namespaces and folder. No
host has a default route: that is how an island network looks, and where careless code crashes.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.fakes.waiting import wait_for

PROGRAMS = ("ip", "avahi-daemon", "avahi-browse", "avahi-resolve", "dbus-daemon", "stdbuf")
PORT = 11434
LIMIT_S = 30
_NUMBERS = itertools.count(1)

_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={path}</listen>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/>
<allow send_type="signal"/><allow send_type="method_return"/><allow send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="signal"/>
<allow receive_type="method_return"/><allow receive_type="error"/></policy></busconfig>
"""
_AVAHI = """[server]
host-name={host}
use-ipv4=yes
use-ipv6=yes
enable-dbus=yes
disallow-other-stacks={alone}
[wide-area]
enable-wide-area=no
[publish]
publish-hinfo=no
publish-workstation=no
[reflector]
enable-reflector={reflects}
"""


def missing():
    """Why the lab cannot be built here; empty if it can."""
    if os.geteuid() != 0:
        return "the lab needs root, for network namespaces"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"the lab needs {', '.join(absent)}" if absent else ""


def run(*command):
    """Run a program to its end; its output. Fails with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
    return done.stdout


class Lab:
    """Switches and hosts; a context that leaves nothing behind."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prefix = f"disc{os.getpid()}-{next(_NUMBERS)}"
        self._namespaces = []
        self._processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self._processes):
            stop(process)
        for name in reversed(self._namespaces):
            run("ip", "netns", "del", name)

    def namespace(self, name):
        full = f"{self.prefix}-{name}"
        run("ip", "netns", "add", full)
        self._namespaces.append(full)
        run("ip", "-n", full, "link", "set", "lo", "up")
        return full

    def switch(self, name="sw"):
        return Switch(self, name)

    def host(self, name, switch=None, address=None, **options):
        """A host, plugged into `switch` with `address` if given."""
        host = Host(self, name)
        if switch is not None:
            host.plug(switch, address, **options)
        return host

    def start(self, command, log, environ=None):
        """A program that ends with the lab."""
        with log.open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environ)
        self._processes.append(process)
        return process


class Switch:
    """A bridge in a namespace of its own."""

    def __init__(self, lab, name):
        self.lab = lab
        self.ns = lab.namespace(name)
        self._ports = itertools.count(1)
        run("ip", "-n", self.ns, "link", "add", "br0", "type", "bridge",
            "mcast_snooping", "0", "forward_delay", "0")  # fmt: skip
        run("ip", "-n", self.ns, "link", "set", "br0", "up")

    def port(self, host_ns, interface, is_up=True):
        """A cable from a new port to `interface` of a host; the port's name."""
        port = f"p{next(self._ports)}"
        run("ip", "-n", self.ns, "link", "add", port, "type", "veth",
            "peer", "name", interface, "netns", host_ns)  # fmt: skip
        run("ip", "-n", self.ns, "link", "set", port, "master", "br0", "up" if is_up else "down")
        return port

    def join(self, other):
        """A cable between two switches, once; the name of the port to take down again."""
        port = self.port(other.ns, "uplink")
        run("ip", "-n", other.ns, "link", "set", "uplink", "master", "br0", "up")
        return port


class Host:
    """A namespace with interfaces, a box, an avahi."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.ns = lab.namespace(name)
        self.folder = lab.folder / name
        self.folder.mkdir(exist_ok=True)
        self._ports = {}
        self._bus = self.folder / "bus"

    def plug(self, switch, address=None, interface="eth0", is_connected=True, has_six=True):
        self._ports[interface] = switch, switch.port(self.ns, interface, is_connected)
        if not has_six:
            self.exec("sysctl", "-qw", f"net.ipv6.conf.{interface}.disable_ipv6=1")
        if address is not None:
            self.ip("addr", "add", address, "dev", interface)
        self.ip("link", "set", interface, "up")

    def ip(self, *arguments):
        return run("ip", "-n", self.ns, *arguments)

    def exec(self, *command):
        return run("ip", "netns", "exec", self.ns, *command)

    def cable(self, is_in, interface="eth0"):
        """Pull the cable or put it back, at the switch's end: the carrier goes and comes."""
        switch, port = self._ports[interface]
        run("ip", "-n", switch.ns, "link", "set", port, "up" if is_in else "down")

    # -- hearth --------------------------------------------------------------------------

    def start_box(self, host=f"0.0.0.0:{PORT}", state=None, wait=True, **settings):
        """A running `hearth serve` in this namespace."""
        box = Box(self, state or self.folder / "state", host, settings)
        if wait:
            wait_for(lambda: box.has_said("ready address"), LIMIT_S)
        return box

    def hearth(self, *arguments, **environ):
        """Run the command here; (exit status, output, errors)."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.ns, sys.executable, "-m", "appliance", *arguments],
            capture_output=True, text=True, timeout=60, env=_environ() | environ,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    # -- avahi ---------------------------------------------------------------------------

    def start_avahi(self, is_alone=False, reflects=False):
        """An avahi-daemon with a bus of its own; returns when it has announced itself."""
        self._bus.unlink(missing_ok=True)
        bus_conf, avahi_conf = self.folder / "bus.conf", self.folder / "avahi.conf"
        bus_conf.write_text(_BUS.format(path=self._bus))
        words = {True: "yes", False: "no"}
        avahi_conf.write_text(
            _AVAHI.format(host=self.name, alone=words[is_alone], reflects=words[reflects])
        )
        log = self.folder / "avahi.log"
        self.lab.start(["dbus-daemon", f"--config-file={bus_conf}", "--nofork"], log)
        wait_for(self._bus.exists, LIMIT_S)
        script = (
            "mkdir -p /run/avahi-daemon && mount -t tmpfs tmpfs /run/avahi-daemon && exec"
            f" avahi-daemon --no-drop-root --no-chroot --no-rlimits -f {avahi_conf}"
        )
        command = ["ip", "netns", "exec", self.ns, "bash", "-c", script]
        daemon = self.lab.start(command, log, self.bus_environ())
        wait_for(lambda: "Server startup complete" in log.read_text(errors="replace"), LIMIT_S)
        return daemon

    def avahi(self, *command):
        """Run one of avahi's tools; its output. None if it found nothing in five seconds."""
        full = ["ip", "netns", "exec", self.ns, "timeout", "5", *command]
        done = subprocess.run(
            full, capture_output=True, text=True, env=self.bus_environ(), timeout=LIMIT_S
        )
        return done.stdout if done.returncode == 0 and done.stdout else None

    def resolve(self, name, version=4):
        """The address of a host name by avahi, or None."""
        found = self.avahi("avahi-resolve", f"-{version}", "-n", name)
        return found.split()[1] if found else None

    def listed(self, type_="_hearth._tcp"):
        """{instance: address} of all that avahi finds and resolves now."""
        lines = (self.avahi("avahi-browse", "-rtp", type_) or "").splitlines()
        fields = [line.split(";") for line in lines if line.startswith("=")]
        return {_plain(each[3]): each[7] for each in fields}

    def browse(self, type_="_hearth._tcp"):
        """A running avahi-browse."""
        return Browse(self, type_)

    def bus_environ(self):
        return os.environ | {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self._bus}"}


class Box:
    """A `hearth serve` in a namespace."""

    def __init__(self, host, state, address, settings):
        self.host, self.state, self.address, self.settings = host, Path(state), address, settings
        self.log = host.folder / f"hearth-{next(_NUMBERS)}.log"
        environ = _environ() | {"HEARTH_HOST": address, "HEARTH_STATE": str(state)}
        environ |= {f"HEARTH_{name.upper()}": str(value) for name, value in settings.items()}
        command = ["ip", "netns", "exec", host.ns, sys.executable, "-m", "appliance", "serve"]
        self.started_at = time.monotonic()
        self.process = host.lab.start(command, self.log, environ)

    def has_said(self, text):
        assert self.process.poll() is None, f"the box ended:\n{self.log.read_text()}"
        return text in self.log.read_text()

    def wait_said(self, text, count=1):
        wait_for(lambda: self.log.read_text().count(text) >= count, LIMIT_S)

    @property
    def identity(self):
        return json.loads((self.state / "box.json").read_text())

    @property
    def host_name(self):
        found = self.identity
        suffix = f"-{found['number']}" if found["number"] > 1 else ""
        return f"hearth-{found['id'][-6:]}{suffix}.local"

    @property
    def name(self):
        found = self.identity
        name = self.settings.get("name") or f"Hearth {found['id'][-6:]}"
        return f"{name} ({found['number']})" if found["number"] > 1 else name

    def get(self, path, host="127.0.0.1", header=None):
        """(status, JSON) of a GET from inside the namespace, with a Host header of our choice."""
        url = f"http://{host}:{PORT}{path}"
        extra = ["-H", f"Host: {header}"] if header else []
        out = self.host.exec("curl", "-s", "-m", "10", "-w", "\n%{http_code}", *extra, url)
        body, _, status = out.rpartition("\n")
        with contextlib.suppress(ValueError):
            body = json.loads(body)
        return int(status), body

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(LIMIT_S)


class Browse:
    """avahi-browse in another namespace, read as it speaks: (time, sign, fields)."""

    def __init__(self, host, type_):
        command = ["ip", "netns", "exec", host.ns, "stdbuf", "-oL", "avahi-browse", "-rp", type_]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=host.bus_environ(),
        )  # fmt: skip
        self.events = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        stop(self.process)
        self._reader.join(5)
        self.process.stdout.close()

    def _read(self):
        for line in self.process.stdout:
            fields = line.rstrip("\n").split(";")
            self.events.append((time.monotonic(), fields[0], fields))

    def find(self, sign, name, address=None, version=None, after=0.0):
        """The time of the first such event; None if there was none."""
        for at, found, fields in list(self.events):
            if found == sign and at >= after and _plain(fields[3]) == name:
                if version and fields[2] != f"IPv{version}":
                    continue
                if address is None or (len(fields) > 7 and fields[7] == address):
                    return at
        return None

    def wait(self, sign, name, address=None, version=None, after=0.0, limit_s=LIMIT_S):
        wait_for(lambda: self.find(sign, name, address, version, after) is not None, limit_s)
        return self.find(sign, name, address, version, after)


def stop(process):
    """End a program that we started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _plain(text):
    """avahi-browse -p writes other characters than letters and digits as \\ddd (bytes)."""
    out, rest = b"", text.encode()
    while rest:
        if rest[:1] == b"\\" and rest[1:4].isdigit():
            out, rest = out + bytes([int(rest[1:4])]), rest[4:]
        elif rest[:1] == b"\\":
            out, rest = out + rest[1:2], rest[2:]
        else:
            out, rest = out + rest[:1], rest[1:]
    return out.decode(errors="replace")


def _environ():
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTH_", "OLLAMA_"))}
    return environ | {
        "HEARTH_ENGINE": "echo",
        "HEARTH_DISCOVERY": "on",
        "HEARTH_REGISTRY": "http://127.0.0.1:1",
    }
