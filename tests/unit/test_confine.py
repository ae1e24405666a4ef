"""What a confined worker can no longer do, tried from inside such a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.process.confine import landlock_version

needs_landlock = pytest.mark.skipif(not landlock_version(), reason="this kernel has no landlock")

PROBE = """
import os, socket, sys, tempfile, threading
from pathlib import Path
from engine.process.confine import confine

state = Path(sys.argv[1])
ours, theirs = socket.socketpair()
confine(state, state / "models")

def says(act):
    try:
        act()
    except OSError as error:
        return error.strerror
    return "done"

for name, act in {
    "inet": lambda: socket.socket(socket.AF_INET),
    "inet6": lambda: socket.socket(socket.AF_INET6),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "unix": lambda: socket.socket(socket.AF_UNIX),
    "old pair": lambda: ours.send(b"x"),
    "database": lambda: (state / "hearth.db").read_bytes(),
    "key": lambda: (state / "tls" / "key.pem").read_bytes(),
    "credential": lambda: (state.parent / "credentials" / "admin-key").read_bytes(),
    "list": lambda: os.listdir(state),
    "new file": lambda: (state / "evil").write_text("x"),
    "model": lambda: (state / "models" / "blob").read_bytes(),
    "change model": lambda: (state / "models" / "blob").write_text("x"),
    "temporary": lambda: tempfile.NamedTemporaryFile().write(b"x"),
    "cpuinfo": lambda: open("/proc/cpuinfo").read(),
    "parent": lambda: open(f"/proc/{os.getppid()}/mem", "rb"),
    "program": lambda: os.waitstatus_to_exitcode(os.system("gcc --version >/dev/null")),
}.items():
    print(f"{name}: {says(act)}")
"""


@pytest.fixture
def seen(tmp_path):
    """{what was tried: what happened}, in a process that confined itself."""
    state = tmp_path / "state"
    credentials = tmp_path / "credentials"
    for name in ("hearth.db", "tls/key.pem", "models/blob", "../credentials/admin-key"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text("secret")
    environ = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    environ["CREDENTIALS_DIRECTORY"] = str(credentials)
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(state)], capture_output=True, text=True, env=environ
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def test_only_unix_sockets_can_be_opened(seen):
    refused = {name: seen[name] for name in ("inet", "inet6", "netlink")}
    assert set(refused.values()) == {"Operation not permitted"}, refused
    assert seen["unix"] == seen["old pair"] == "done"


@needs_landlock
def test_the_state_folder_is_closed_and_the_models_can_be_read(seen):
    names = ("database", "key", "credential", "list", "new file", "change model")
    closed = {name: seen[name] for name in names}
    assert set(closed.values()) == {"Permission denied"}, closed
    assert seen["model"] == "done"


@needs_landlock
def test_the_memory_of_the_service_is_closed(seen):
    assert seen["parent"] == "Permission denied"


def test_what_engines_need_still_works(seen):
    assert {seen[n] for n in ("temporary", "cpuinfo", "program")} == {"done"}, seen


def test_a_running_worker_is_confined(tmp_path):
    """The real one, as the control plane starts it."""
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from engine.api import LoadSpec\n"
        "from engine.process.client import EngineClient\n"
        "async def main():\n"
        "    state = Path(sys.argv[1])\n"
        "    client = await EngineClient.start(\n"
        "        LoadSpec(engine='echo'), timeout_s=30, private=(state, state / 'models'))\n"
        "    print(Path(f'/proc/{client.pid}/status').read_text())\n"
        "    print(Path(f'/proc/{client.pid}/limits').read_text())\n"
        "    await client.close()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\nSeccomp:\t2\n" in done.stdout
    assert "\nNoNewPrivs:\t1\n" in done.stdout
    core = next(line for line in done.stdout.splitlines() if line.startswith("Max core"))
    assert core.split()[4:6] == ["0", "0"]
    assert Path(f"/proc/{os.getpid()}/status").read_text().count("Seccomp:\t2") == 0
