"""The disk of a whole machine with Hearth on it, as an installation leaves it."""

import shutil
import subprocess

import pytest

from tests.integration.medium_box import NAME, enrol_offline
from tests.system import debian_root, machine

# Times are those of real machines; an emulated one is ten times slower.
_DROP_IN = """[Service]
WatchdogSec=0
TimeoutStartSec=600
Environment=HEARTH_ENGINE=echo HEARTH_DISCOVERY=off
"""


def make_box(folder, publisher, prepare=lambda root: None):
    """(disk, how to boot it, as keywords of Machine). The box trusts the publisher, and echoes;
    `prepare` may change the folder of its system before that becomes a disk."""
    if reason := debian_root.missing() or machine.missing():
        pytest.fail(reason)
    base, root = debian_root.DebianRoot(), folder / "root"
    base.unpack(root)
    debian_root.install_hearth(root)
    debian_root.install_units(root)
    machine.add_agent(root)
    drop_in(root, "hearth.service", _DROP_IN, name="test")
    prepare(root)
    enrol_offline(root / "var/lib/hearth", publisher)
    subprocess.run(["chroot", root, "chown", "-R", "hearth:", "/var/lib/hearth"], check=True)
    disk = debian_root.make_disk(root, folder / "disk")
    shutil.rmtree(root)
    return disk, {"kernel": base.kernel, "initramfs": base.initramfs}


def drop_in(root, unit, text, name):
    file = root / f"etc/systemd/system/{unit}.d/{name}.conf"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def ask(box):
    """What the model of the publisher says; else why it says nothing."""
    body = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "stream": False}
    status, answer = box.call("POST", "/api/chat", body)
    return answer["message"]["content"] if status == 200 else f"{status} {answer}"


def sticks(box):
    """The conditions that tell of sticks."""
    found = box.call("GET", "/hearth/v1/status")[1]["conditions"]
    return [each["code"] for each in found if each["code"].startswith("stick-")]
