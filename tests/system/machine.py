"""A whole machine in qemu: its kernel, its disks, its power button.

Emulated, unless HEARTH_TEST_ACCEL=kvm says that KVM works here: ten times faster, but a KVM inside
a virtual machine may open and then fail in the middle of a boot. The only network is a port of the
host's loopback that leads to the service; nothing gets out. A machine that has the agent inside
(`add_agent`) does what `run` asks; of any other the serial console tells.
"""

import contextlib
import http.client
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.waiting import wait_for

API_PORT = 11434
LIMIT_S = 600  # an emulated boot takes 40 s on an idle host; this one may be busy
PROGRAMS = ("qemu-system-x86_64", "mcopy", "mkfs.vfat")
_CONSOLES = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}
_AGENT_UNIT = """[Unit]
Description=Agent of the tests
DefaultDependencies=no
After=systemd-tmpfiles-setup-dev.service
[Service]
ExecStart=/usr/bin/python3 -S /usr/local/lib/hearth-test-agent.py
Restart=always
OOMScoreAdjust=-900
[Install]
WantedBy=sysinit.target
"""


def missing(*programs):
    """Why no machine can be started here; empty if it can."""
    absent = [name for name in (*PROGRAMS, *programs) if shutil.which(name) is None]
    return f"needs {', '.join(absent)}" if absent else ""


def accelerator():
    """`tcg`, or what HEARTH_TEST_ACCEL asks for."""
    return os.environ.get("HEARTH_TEST_ACCEL", "tcg")


_NETWORK = """[Match]
Name=en*
[Network]
Address=10.0.2.15/24
LinkLocalAddressing=no
IPv6AcceptRA=no
"""


def add_agent(root):
    """Let tests run commands in machines that are made of the folder `root`, and reach their API
    by the one address that qemu forwards to."""
    network = root / "etc/systemd/network/80-test.network"
    network.write_text(_NETWORK)
    subprocess.run(["systemctl", "-q", f"--root={root}", "enable", "systemd-networkd"], check=True)
    library, units = root / "usr/local/lib", root / "etc/systemd/system"
    shutil.copy(Path(__file__).with_name("guest_agent.py"), library / "hearth-test-agent.py")
    (units / "hearth-test-agent.service").write_text(_AGENT_UNIT)
    wants = units / "sysinit.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "hearth-test-agent.service").symlink_to("../hearth-test-agent.service")


def fat_stick(image, files, label="HEARTH", size_mib=64):
    """A FAT image without partitions that holds `files` (name in the image -> file or folder)."""
    _run("truncate", "-s", f"{size_mib}M", image)
    _run("mkfs.vfat", "-n", label, image)
    for name, source in files.items():
        _run("mcopy", "-i", image, "-s", "-m", source, f"::{name}")
    return image


@dataclass
class Done:
    """How a command inside ended."""

    status: int
    output: str
    errors: str


class Machine:
    """One machine from power-on to power-off; a context. Its disk keeps what it wrote.

    disk       a raw image, the first drive (/dev/vda)
    kernel     boots it directly, with `initramfs` and the words `append`; without one the machine
               boots by `firmware` (more arguments for qemu, such as a pflash drive)
    drives     more raw images, /dev/vdb and so on
    """

    def __init__(
        self, disk, folder, *, kernel=None, initramfs=None, append="", firmware=(), drives=(),
        memory_mib=1024, arch="x86_64", accel=None, options=(),
    ):  # fmt: skip
        self.disk, self.folder = disk, folder
        self.arch = arch
        self.accel = accel or accelerator()
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.serial = folder / "serial.log"
        self._boot = [*firmware, *_direct(kernel, initramfs, append, _CONSOLES[arch])]
        # One processor: on a slow host an emulated second one was seen to lose its timer for good.
        self._hardware = ["-smp", "1", "-m", str(memory_mib)]
        self._drives = [disk, *drives]
        self._options = options
        self._process = None
        self._agent = self._monitor = None
        self._events = []
        self._plugged = itertools.count(1)
        self.started = 0.0  # time.monotonic() of the power button

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.serial.unlink(missing_ok=True)
        with (self.folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log)
        self.started = time.monotonic()
        try:
            self._monitor = _Lines(self._path("monitor"), self._is_on)
            self._monitor.read()  # the greeting
            self.monitor("qmp_capabilities")
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_):
        self.kill()

    # -- power ---------------------------------------------------------------------------

    def kill(self):
        """Cut the power."""
        self._process.kill()
        self._process.wait()
        for channel in (self._monitor, self._agent):
            if channel is not None:
                channel.close()
        self._monitor = self._agent = None

    def wait_off(self, limit_s=LIMIT_S):
        """Return when the machine switched itself off."""
        self._process.wait(limit_s)

    # -- looking -------------------------------------------------------------------------

    @property
    def log(self):
        """All that the serial console said."""
        return self.serial.read_text(errors="replace") if self.serial.exists() else ""

    def wait_for(self, text, limit_s=LIMIT_S):
        """Return when the serial console has said `text`; the seconds since power-on."""
        self._until(lambda: text in self.log, f"the console never said {text!r}", limit_s)
        return time.monotonic() - self.started

    def wait_ready(self, limit_s=LIMIT_S):
        """Return when the service answers; the seconds since power-on."""
        self._until(lambda: self.call("GET", "/readyz")[0] == 200, "no answer", limit_s)
        return time.monotonic() - self.started

    def call(self, method, path, body=None):
        """(status, JSON or text) of one request to the service; (0, reason) without an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
                return answer.status, _parsed(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _parsed(error.read())
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)

    # -- doing ---------------------------------------------------------------------------

    def run(self, *argv, check=True, input_text="", limit_s=LIMIT_S):
        """Run a command inside, as root; how it ended. Needs the agent."""
        if self._agent is None:
            self._agent = _Lines(self._path("agent"), self._is_on, limit_s)
            self._agent.read()  # its hello
        self._agent.write({"argv": [str(each) for each in argv], "input": input_text})
        answer = self._agent.read(limit_s)
        while "hello" in answer:  # the system inside has been started anew
            answer = self._agent.read(limit_s)
        done = Done(**answer)
        assert not check or done.status == 0, f"{argv}: {done.errors}{done.output}"
        return done

    def monitor(self, command, **arguments):
        """One command of qemu's own (QMP); what it returned."""
        self._monitor.write({"execute": command, "arguments": arguments})
        while True:
            answer = self._monitor.read()
            if "error" in answer:
                raise AssertionError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
            self._events.append(answer)  # told whenever something happens

    def plug(self, image, name="stick", bytes_per_s=0):
        """Plug in a removable disk with this image; one that reads no faster than that."""
        node = f"{name}{next(self._plugged)}"
        file = {"driver": "file", "filename": str(image)}
        self.monitor("blockdev-add", **{"driver": "raw", "node-name": node, "file": file})
        drive = self._slowed(node, bytes_per_s) if bytes_per_s else node
        self.monitor(
            "device_add", driver="scsi-hd", id=name, drive=drive, bus="scsi.0",
            removable=True, serial=node,
        )  # fmt: skip

    def _slowed(self, node, bytes_per_s):
        group, slow = f"{node}-pace", f"{node}-slow"
        limits = {"bps-read": bytes_per_s}
        self.monitor("object-add", **{"qom-type": "throttle-group", "id": group, "limits": limits})
        self.monitor(
            "blockdev-add",
            **{"driver": "throttle", "node-name": slow, "throttle-group": group, "file": node},
        )
        return slow

    def unplug(self, name="stick"):
        """Pull it out, whatever the machine is doing with it."""
        self.monitor("device_del", id=name)
        deadline = time.monotonic() + LIMIT_S
        while self._is_there(name):
            assert time.monotonic() < deadline, f"{name} could not be pulled"
            time.sleep(0.05)

    # -- qemu ----------------------------------------------------------------------------

    def _is_there(self, name):
        found = self.monitor("qom-list", path="/machine/peripheral")
        return any(each["name"] == name for each in found)

    def _is_on(self):
        assert self._process.poll() is None, f"qemu ended: {self._path('qemu.log').read_text()}"
        return True

    def _until(self, condition, otherwise, limit_s):
        try:
            wait_for(lambda: condition() or not self._is_on(), limit_s)
        except AssertionError as error:
            raise AssertionError(f"{otherwise}: {error}\n{self.log[-8000:]}") from error

    def _path(self, name):
        return self.folder / name

    def _command(self):
        machine = {"x86_64": "q35", "aarch64": "virt"}[self.arch]
        accel = "tcg,thread=multi" if self.accel == "tcg" else self.accel
        # A KVM inside a virtual machine may offer ARCH_CAPABILITIES and then refuse to set them.
        # The newest ARM signs pointers, which emulation is slow at; this one is a Raspberry Pi 4's.
        emulated = {"x86_64": "max", "aarch64": "cortex-a72"}[self.arch]
        host = emulated if self.accel == "tcg" else "host,-arch-capabilities"
        forward = f"hostfwd=tcp:127.0.0.1:{self.port}-:{API_PORT}"
        command = [
            f"qemu-system-{self.arch}", "-M", machine, "-accel", accel, "-cpu", host,
            "-nodefaults", "-display", "none", "-no-reboot", *self._hardware, *self._boot,
            "-netdev", f"user,id=net,restrict=on,{forward}",
            "-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci",
            "-device", "virtio-scsi-pci,id=scsi", "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=agent,path={self._path('agent')},server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=hearth-agent",
            "-qmp", f"unix:{self._path('monitor')},server=on,wait=off",
            "-serial", f"file:{self.serial}", *self._options,
        ]  # fmt: skip
        for number, image in enumerate(self._drives):
            source = f"file={image},id=drive{number},format=raw,if=none,cache=unsafe"
            command += ["-drive", source, "-device", f"virtio-blk-pci,drive=drive{number}"]
        return command


class _Lines:
    """JSON lines over a Unix socket that another process opens soon."""

    def __init__(self, path, is_on, limit_s=LIMIT_S):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(limit_s)
        wait_for(lambda: is_on() and self._connected(path))
        self._file = self._socket.makefile("rb")

    def _connected(self, path):
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            self._socket.connect(str(path))
            return True
        return False

    def read(self, limit_s=LIMIT_S):
        self._socket.settimeout(limit_s)
        return json.loads(self._file.readline())

    def write(self, document):
        self._socket.sendall(json.dumps(document).encode() + b"\n")

    def close(self):
        self._file.close()
        self._socket.close()


def _direct(kernel, initramfs, append, console):
    if kernel is None:
        return []
    # On a busy host an emulated timer is late, and the kernel would believe it to be broken.
    words = f"root=/dev/vda rw console={console} quiet no_timer_check {append}".strip()
    return ["-kernel", str(kernel), "-initrd", str(initramfs), "-append", words]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _parsed(data):
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


def _run(*command):
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command[0]}: {done.stderr}{done.stdout}"
