"""Every unit that ships: systemd understands it, and what it may do is little."""

import http.server
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
LIMIT = 1.5  # 0 is best; the service itself is at 1.4 with a GPU
# These need rights of root for what they are for.
PRIVILEGED = {
    "hearth-health.service": 4.0,
    "hearth-settle.service": 3.0,
    "hearth-update.service": 3.0,
    "hearth-claim.service": 3.0,  # writes the boot partition
    "hearth-firstboot.service": 7.0,  # makes users, names the host
    "hearth-import@.service": 2.3,  # mounts the stick
}
DROP_INS = ["none", *sorted(path.name for path in (UNITS / "drop-ins").glob("gpu-*.conf"))]

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)


@pytest.fixture
def root(tmp_path):
    """A file system with all units, where their programs are."""
    folder = tmp_path / "root"
    units = folder / "etc/systemd/system"
    units.mkdir(parents=True)
    for path in UNITS.iterdir():
        if path.suffix in {".service", ".socket", ".timer", ".path", ".mount"}:
            shutil.copy(path, units)
    return folder


def test_there_are_units():
    assert {"hearth.service"} <= {path.name for path in SERVICES}


def test_systemd_understands_every_line(root, tmp_path):
    """On the oldest systemd that tests run with; systemd-254.conf is for newer ones."""
    units = root / "etc/systemd/system"
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in units.iterdir():
        path.write_text(re.sub(r"/opt/hearth/\S+", str(program), path.read_text()))
    shutil.copytree(UNITS / "drop-ins", units / "hearth.service.d")
    (units / "hearth.service.d/systemd-254.conf").unlink()
    (units / "hearth.socket.d").mkdir()
    (units / "hearth.service.d/offline-socket.conf").rename(units / "hearth.socket.d/offline.conf")
    paths = [str(path) for path in units.iterdir() if path.is_file() and "@" not in path.name]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True
    )
    ours = [line for line in done.stderr.splitlines() if str(units) in line or "hearth" in line]
    assert not ours, "\n".join(ours)


@pytest.mark.parametrize("drop_in", DROP_INS)
def test_the_service_may_do_little(root, drop_in):
    if drop_in != "none":
        folder = root / "etc/systemd/system/hearth.service.d"
        folder.mkdir()
        shutil.copy(UNITS / "drop-ins" / drop_in, folder)
    found = exposure(root, "hearth.service")
    print(f"hearth.service with {drop_in}: {found}")
    assert found <= 1.4


def test_its_companions_may_do_little(root):
    found = {path.name: exposure(root, path.name) for path in SERVICES}
    print(found)
    assert {n: s for n, s in found.items() if s > PRIVILEGED.get(n, LIMIT)} == {}


def exposure(root, unit):
    command = ["systemd-analyze", "security", "--offline=true", f"--root={root}", unit]
    done = subprocess.run(command, capture_output=True, text=True)
    return float(re.search(r"exposure level for \S+: (\d+\.\d+)", done.stdout)[1])


def test_the_program_of_a_good_boot_ends_once_the_service_answers():
    text = (UNITS / "hearth-good-boot.service").read_text()
    quoted = re.search(r"^ExecStart=\S+ -Ic '(.*?)'$", text, re.DOTALL | re.MULTILINE)[1]
    program = quoted.replace("\\\n", " ").replace("\\n", "\n")  # as systemd.syntax(7) has it
    answers = [503, 200]

    class Service(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, *_):
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=lambda: [server.handle_request() for _ in (1, 2)])
        thread.start()
        here = program.replace(":11434/", f":{server.server_port}/")
        done = subprocess.run([sys.executable, "-Ic", here], capture_output=True, timeout=60)
        thread.join()
    assert done.returncode == 0, done.stderr
    assert answers == []
