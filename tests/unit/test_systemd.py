"""What the service tells systemd, read from a real socket of datagrams."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys

import pytest

from appliance.systemd import Systemd


@pytest.fixture
def manager(tmp_path):
    """The end of systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(10)
        yield end


def heard(manager):
    return manager.recv(4096).decode()


def test_says_ready_with_a_line_for_people_and_a_new_line_only_when_it_changed(manager):
    unit = Systemd.from_environ({"NOTIFY_SOCKET": manager.getsockname()})
    unit.ready("serving")
    unit.status("serving")
    unit.status("busy")
    unit.extend_start(2, "opening")
    unit.stopping("stopping")
    unit.close()
    assert heard(manager) == "READY=1\nSTATUS=serving"
    assert heard(manager) == "STATUS=busy"
    assert heard(manager) == "EXTEND_TIMEOUT_USEC=2000000\nSTATUS=opening"
    assert heard(manager) == "STOPPING=1\nSTATUS=stopping"


def drain(manager):
    with contextlib.suppress(BlockingIOError):
        while True:
            manager.recv(100)


async def test_feeds_the_watchdog_only_while_there_is_progress(manager):
    manager.setblocking(False)
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "30000"}
    unit = Systemd.from_environ(environ)
    is_well, asked = [True], []

    def makes_progress():
        asked.append(1)
        return is_well[0]

    loop = asyncio.get_running_loop()
    task = asyncio.create_task(unit.feed_forever(lambda: "", makes_progress))
    assert await loop.sock_recv(manager, 100) == b"WATCHDOG=1"
    is_well[0] = False
    count = len(asked)
    while len(asked) < count + 2:
        await asyncio.sleep(0.01)
    drain(manager)  # what was sent before
    while len(asked) < count + 4:
        await asyncio.sleep(0.01)
    with pytest.raises(BlockingIOError):
        manager.recv(100)
    task.cancel()
    unit.close()


def test_a_child_does_not_think_that_it_is_meant(manager):
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "LISTEN_PID": "1", "LISTEN_FDS": "1"}
    unit = Systemd.from_environ(environ)
    assert unit.sockets == ()
    unit.close()
    assert environ == {}
    other = Systemd.from_environ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"})
    assert other.watchdog_s == 0


def test_takes_the_sockets_that_systemd_opened():
    script = (
        "import os, socket\n"
        "from appliance.systemd import Systemd\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "(taken,) = Systemd.from_environ(os.environ).sockets\n"
        "print(taken.getsockname()[1], os.get_inheritable(3), taken.getblocking())\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as opened:
        shell = f'exec 3<&{opened.fileno()}; exec {sys.executable} -c "$SCRIPT"'
        done = subprocess.run(
            ["bash", "-c", shell], pass_fds=[opened.fileno()], capture_output=True, text=True,
            env=os.environ | {"LISTEN_FDS": "1", "SCRIPT": script},
        )  # fmt: skip
        assert done.stdout == f"{opened.getsockname()[1]} False False\n", done.stderr


def test_the_credential_may_be_absent(tmp_path):
    unit = Systemd.from_environ({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert unit.admin_key() == ""
    (tmp_path / "admin-key").write_text("none")
    assert unit.admin_key() == ""
    (tmp_path / "admin-key").write_text("hearth_a_b\n")
    assert unit.admin_key() == "hearth_a_b"
    assert Systemd.from_environ({}).admin_key() == ""
