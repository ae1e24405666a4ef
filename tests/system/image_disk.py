"""A built image on a disk of its own, prepared for a machine in qemu."""

import shutil
import subprocess
from pathlib import Path

from images.maker import board

MIB = 1 << 20
AGENT = """[Unit]
DefaultDependencies=no
After=systemd-tmpfiles-setup-dev.service
[Service]
ExecStart=/usr/bin/python3 -S /etc/hearth-test-agent.py
Restart=always
"""
# Times are those of real machines; an emulated one is ten times slower.
PATIENCE = "[Service]\nWatchdogSec=0\nTimeoutStartSec=1200\n"
TRIAL = """[Service]
ExecStart=
ExecStart=/usr/bin/python3 -S /etc/hearth-test-trial.py
"""
TRIAL_PROGRAM = """import importlib.machinery, importlib.util, sys
loader = importlib.machinery.SourceFileLoader("hearth_os", "/usr/lib/hearth-os/hearth-os")
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("hearth_os", loader))
loader.exec_module(module)
module.TRIAL_LIMIT_S = 1200
sys.exit(module.main(["hearth-os", "trial"]))
"""


def prepared(image, folder, name, patient=("hearth.service",), data=None):
    """A copy of the image of board `name` on a larger disk. Its data partition has the agent of the
    tests in /etc, patience for the units `patient` and for a system on trial, and the texts `data`
    (path in it -> text)."""
    copy, made, units = folder / "disk", folder / "data.ext4", folder / "data/etc/systemd/system"
    run("cp", "--sparse=always", image, copy)
    (units / "sysinit.target.wants").mkdir(parents=True)
    (units / "hearth-test-agent.service").write_text(AGENT)
    for each in patient:
        (units / f"{each}.d").mkdir()
        (units / f"{each}.d/patience.conf").write_text(PATIENCE)
    (units / "hearth-trial.service.d").mkdir()
    (units / "hearth-trial.service.d/patience.conf").write_text(TRIAL)
    (folder / "data/etc/hearth-test-trial.py").write_text(TRIAL_PROGRAM)
    wants = units / "sysinit.target.wants/hearth-test-agent.service"
    wants.symlink_to("../hearth-test-agent.service")
    agent = Path(__file__).with_name("guest_agent.py")
    shutil.copy(agent, folder / "data/etc/hearth-test-agent.py")
    for path, text in (data or {}).items():
        (folder / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / path).write_text(text)
    with made.open("wb") as file:
        file.truncate(board.load(name).size_mib("data") * MIB)
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-E", "resize=268435456", "-d",
        folder / "data", made)  # fmt: skip
    lay(made, copy, name, "hearth-data")
    run("truncate", "-s", "6G", copy)
    return copy


def lay(source, disk, name, partition):
    """Put an image into a partition of the disk of board `name`."""
    run("dd", f"if={source}", f"of={disk}", "bs=1M", f"seek={offset_mib(name, partition)}",
        "conv=notrunc")  # fmt: skip


def offset_mib(name, partition):
    """Where it begins on the disk of board `name`."""
    partitions = board.load(name).partitions
    names = [each.name for each in partitions]
    return 1 + sum(each.size_mib for each in partitions[: names.index(partition)])


def run(*command):
    """Run it to its end; what it said is in the failure."""
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command[0]}: {done.stderr}{done.stdout}"
