"""Limits that only a kernel of one's own can show: memory that ends, packets that are dropped."""

import shutil
import time

import pytest

from tests.fakes.publisher import Publisher
from tests.fakes.waiting import wait_for
from tests.integration.medium_box import publish
from tests.system import box_disk, machine
from tests.system.debian_root import TREE
from tests.system.machine import LIMIT_S

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(3600)]

KILLS = 20
GROUP = "/sys/fs/cgroup/system.slice/hearth.service"
# Takes memory inside the service's group until the kernel has killed somebody there. Its own score
# makes it a worse victim than a worker (+500) and a better one than the service (-200).
HOG = f"""
import mmap
from pathlib import Path
group = Path("{GROUP}")
def count(file, name):
    return int(dict(map(str.split, (group / file).read_text().splitlines()))[name])
Path("/proc/self/oom_score_adj").write_text("-400")
(group / "cgroup.procs").write_text("0")
room = int((group / "memory.max").read_text()) - count("memory.stat", "anon") - 2**26
before, held = count("memory.events", "oom_kill"), []
# Most of it in huge pages, since an emulated machine is slow at faults; the rest in small steps:
# one that is too large could cost a second life.
for _ in range(room // 2**22):
    block = mmap.mmap(-1, 2**22, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.madvise(mmap.MADV_HUGEPAGE)
    for page in range(0, 2**22, 4096):
        block[page] = 1
    held.append(block)
while count("memory.events", "oom_kill") == before:
    held.append(b"x" * 2**20)
"""
# Goes to port 11434 of an address, or, from the service's group, to a port that nobody holds.
VISIT = """
import urllib.request
print(urllib.request.urlopen("http://{}:11434/readyz", timeout=20).status)
"""
LEAVE = f"""
import socket
open("{GROUP}/cgroup.procs", "w").write("0")
socket.create_connection(("{{}}", 9), timeout=20)
"""
SITE, BEYOND = "192.168.77", "198.51.100"  # the latter is for documentation (RFC 5737)


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A machine whose service has 400 MiB, and a stick's models in a folder."""
    folder = tmp_path_factory.mktemp("limits")
    publisher = Publisher(folder / "published")
    publish(publisher, "1.0.0", "You are one.", "latest")

    def prepare(root):
        limit = "[Service]\nMemoryMax=400M\nMemoryHigh=infinity\nMemorySwapMax=0\n"
        limit += "Environment=HEARTH_MEMORY_RESERVE_MIB=0\n"
        box_disk.drop_in(root, "hearth.service", limit, name="small")
        shutil.copytree(publisher.folder, root / "srv/stick/hearth")
        shutil.copytree(TREE / "systemd/drop-ins", root / "srv/drop-ins")

    disk, boot = box_disk.make_box(folder, publisher, prepare)
    with machine.Machine(disk, folder / "qemu", **boot) as box:
        print(f"power-on to API: {box.wait_ready():.0f} s, {box.accel}")
        yield box
    disk.unlink()


@pytest.fixture(scope="module")
def model(box):
    """The model of the publisher is on the box."""
    box.run("hearth", "import", "/srv/stick")


def show(box, name):
    return box.run("systemctl", "show", "-P", name, "hearth.service").output.strip()


def workers(box):
    return box.run("pgrep", "-f", "engine.process.worker", check=False).output.split()


def kills(box):
    lines = box.run("cat", f"{GROUP}/memory.events").output.splitlines()
    return int(dict(map(str.split, lines))["oom_kill"])


def test_workers_that_the_kernel_takes_leave_the_service_up(box, model):
    service, before = show(box, "MainPID"), kills(box)
    took = []
    for number in range(1, KILLS + 1):
        began = time.monotonic()
        assert "You are one." in box_disk.ask(box), number
        victims = workers(box)
        assert victims
        box.run("python3", "-", input_text=HOG)
        wait_for(lambda victims=victims: not set(victims) <= set(workers(box)), LIMIT_S)
        assert box.call("GET", "/readyz")[0] == 200
        took.append(time.monotonic() - began)
    assert kills(box) - before >= KILLS
    assert show(box, "MainPID") == service
    assert show(box, "NRestarts") == "0"
    assert "You are one." in box_disk.ask(box)
    print(f"{KILLS} of {KILLS} workers killed, the service stayed; "
          f"{sum(took) / KILLS:.1f} s each with the new worker, {box.accel}")  # fmt: skip


@pytest.fixture
def neighbours(box):
    """A namespace inside that has an address of the site and one from beyond it."""
    box.run("ip", "netns", "add", "far")
    box.run("ip", "link", "add", "near", "type", "veth", "peer", "name", "there", "netns", "far")
    for network in (SITE, BEYOND):
        box.run("ip", "address", "add", f"{network}.1/24", "dev", "near")
        box.run("ip", "-n", "far", "address", "add", f"{network}.2/24", "dev", "there")
    box.run("ip", "link", "set", "near", "up")
    box.run("ip", "-n", "far", "link", "set", "there", "up")


def visit(box, address, *prefix):
    """What a client gets: 200, or the last line of its error."""
    return said(box.run(*prefix, "python3", "-c", VISIT.format(address), check=False))


def leave(box, address):
    """What the service gets when it connects to a port there that nobody holds."""
    return said(box.run("python3", "-c", LEAVE.format(address), check=False))


def said(done):
    return (done.output + done.errors).strip().splitlines()[-1]


def test_offline_answers_the_site_alone(box, neighbours):
    far = ("ip", "netns", "exec", "far")
    for network in (SITE, BEYOND):
        assert visit(box, f"{network}.1", *far) == "200"
        assert "refused" in leave(box, f"{network}.2")
    for unit, name in {"hearth.service": "offline", "hearth.socket": "offline-socket"}.items():
        folder = f"/etc/systemd/system/{unit}.d"
        box.run("install", "-D", "-t", folder, f"/srv/drop-ins/{name}.conf")
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "stop", "hearth.socket", "hearth.service")
    box.run("systemctl", "start", "hearth.socket", "hearth.service")
    box.wait_ready()  # the host is 10.0.2.2
    assert visit(box, "127.0.0.1") == "200"
    assert visit(box, f"{SITE}.1", *far) == "200"
    assert "refused" in leave(box, f"{SITE}.2")
    print("to beyond:", leave(box, f"{BEYOND}.2"))
    assert "refused" not in leave(box, f"{BEYOND}.2")
    assert "timed out" in visit(box, f"{BEYOND}.1", *far)
