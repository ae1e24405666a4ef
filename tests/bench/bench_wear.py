"""How much does the service write to its card: idle, and while a phone asks once in a while?

As root, on an ext4 file system of its own with the mount options of the images, so that the file
system's journal counts as it does on a card: sectors that reached the device (/sys/block/*/stat),
beside what the process itself asked for (/proc/PID/io). Extrapolated to a day. With --booted a
whole Debian with our units and their settings is idle on that file system; with --machine it is
one in qemu, with its kernel and all its timers, either as Debian is installed or with the mount
options and the journal of an image, and the table says who wrote.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness

DISK_MIB = 512
OPTIONS = "noatime,commit=30"
SECTOR_BYTES = 512
DAY_S = 86_400
SETTLE_S = 70.0  # what a start writes is on the disk then, and the notes of a minute
ASK_EVERY_S = 20.0
QUESTION = {"model": "hearth", "prompt": "What is this box?", "stream": False}
MB = 1_000_000
SLICE_S = 300.0  # how often a machine is looked at
# That do not count: they hold what the start wrote, and systemd-tmpfiles-clean, which comes 15 min
# after it and then once a day.
SETTLED_SLICES = 3
# Tells of a machine, inside: bytes that reached its disk, that its processes had to be written
# (a process counts those of its children that ended), the files that changed in between, and what
# the journal was told.
LOOK = """
import json, os, pathlib, subprocess, sys
os.sync()
def asked(process):
    lines = dict(line.split(": ") for line in (process / "io").read_text().splitlines())
    return int(lines["write_bytes"]) - int(lines["cancelled_write_bytes"])
def all_asked():
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            yield f"{(process / 'comm').read_text().strip()} {process.name}", asked(process)
        except OSError:
            pass
find = ["find", "/", "-xdev", "-newer", "/run/looked", "(", "-type", "f", "-o", "-type", "d", ")"]
changed = subprocess.run(find, capture_output=True, text=True).stdout.splitlines()
pathlib.Path("/run/looked").touch()
sectors = int(pathlib.Path("/sys/block/vda/stat").read_text().split()[6])
journal = ["journalctl", "-q", "-b", "--cursor-file=/run/told", "--no-hostname", "-o", "short-unix"]
told = subprocess.run(journal, capture_output=True, text=True).stdout.splitlines()
print(json.dumps({"bytes": sectors * 512, "asked": dict(all_asked()), "changed": changed,
                  "told": [line.partition(" ")[2] for line in told]}))
"""
TIMERS = ("hearth-health.timer", "hearth-scrub.timer", "hearth-update.timer", "hearth-update.path")
PYTHON = """#!/bin/sh
shift
PYTHONPATH=/opt/hearth/current/lib exec /usr/bin/python3 -s "$@"
"""  # the tests' release has no interpreter of its own, and is not found by one that is isolated


@contextlib.contextmanager
def card(folder: Path) -> Iterator[tuple[Path, str]]:
    """A mounted ext4 file system, and the name of its device."""
    image, mount = folder / "card.img", folder / "card"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    no_lazy = "lazy_itable_init=0,lazy_journal_init=0"  # or the kernel writes for minutes
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", no_lazy, image], check=True)
    subprocess.run(["mount", "-o", f"loop,{OPTIONS}", image, mount], check=True)
    try:
        found = subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", "--target", mount],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        yield mount, Path(found.stdout.strip()).name
    finally:
        subprocess.run(["umount", mount], check=True)


def written(device: str, pid: int) -> dict[str, int]:
    """Bytes so far: that reached the device, and that the process had to be written."""
    os.sync()
    asked = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return {"device": sectors(device) * SECTOR_BYTES, "process": int(asked["write_bytes"])}


def sectors(device: str) -> int:
    return int(Path(f"/sys/block/{device}/stat").read_text().split()[6])


def ask(service: harness.Service, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    harness.call(service, "POST", "/api/generate", body=json.dumps(QUESTION), headers=headers)


def period(service: harness.Service, device: str, seconds: float, token: str) -> dict[str, int]:
    """Bytes written within `seconds`; with a token it is asked now and then meanwhile."""
    before = written(device, service.process())
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        if token:
            ask(service, token)
        time.sleep(min(ASK_EVERY_S if token else rest, max(rest, 0)))
    after = written(device, service.process())
    return {name: after[name] - before[name] for name in after}


def booted(seconds: float) -> None:
    """Print what a container writes that boots with our units and then does nothing."""
    sys.path.insert(0, str(harness.REPOSITORY))
    from tests.system.booted import Booted, missing
    from tests.system.test_care_units import add_units

    if reason := missing():
        raise SystemExit(reason)
    conditions = harness.machine() | {"mount": OPTIONS, "seconds": seconds}
    with tempfile.TemporaryDirectory(prefix="hearth-wear-") as folder, card(Path(folder)) as disk:
        mount, device = disk
        with Booted(mount, boots=False) as box:
            add_units(box)
            box.boot()
            box.run("systemctl", "start", "hearth.service", "hearth-health.timer")
            time.sleep(2 * SETTLE_S)
            os.sync()
            before = sectors(device)
            time.sleep(seconds)
            os.sync()
            found = (sectors(device) - before) * SECTOR_BYTES
            runs = box.show("hearth-health.timer", "LastTriggerUSec")
    a_day = found * DAY_S / seconds / MB
    figure = harness.Figure(
        "writes to the card while idle, all of the system", a_day, 5.0, is_limit=True,
        unit="MB a day",
    )  # fmt: skip
    rows = [["idle", str(found), f"{a_day:.2f}", runs]]
    headers = ["", "device, bytes", "device, MB a day", "last turn of hearth-health"]
    harness.report("wear-booted", conditions, headers, rows, {"bytes": found}, [figure])


def machine(kind: str, seconds: float, *, is_asked: bool) -> None:
    """Print what a machine in qemu writes, and who it is that writes.

    is_asked  somebody on its network asks now and then; else it does nothing
    """
    sys.path.insert(0, str(harness.REPOSITORY))
    from tests.fakes.publisher import Publisher
    from tests.system import box_disk
    from tests.system.machine import Machine

    state = "asked" if is_asked else "idle"
    conditions = harness.machine() | {
        "kind": kind, "seconds": seconds, "settled_s": SETTLED_SLICES * SLICE_S,
        "ask_every_s": ASK_EVERY_S if is_asked else None,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="hearth-wear-") as made:
        folder = Path(made)
        publisher = Publisher(folder / "published")
        disk, boot = box_disk.make_box(folder, publisher, lambda root: _equip(root, kind))
        with Machine(disk, folder / "qemu", **boot) as box:
            box.wait_ready()
            box.run("touch", "/run/looked")
            looks, rows = [_look(box)], []
            for number in range(1, SETTLED_SLICES + round(seconds / SLICE_S) + 1):
                _pass(box, SLICE_S, is_asked=is_asked)
                looks.append(_look(box))
                rows.append([f"{number * SLICE_S:.0f}", *_writers(*looks[-2:])])
                print("|", " | ".join(rows[-1]), flush=True)
            timers = box.run("systemctl", "list-timers", "--all", "--no-pager").output
    settled = looks[-1]["bytes"] - looks[SETTLED_SLICES]["bytes"]
    figure = harness.Figure(
        f"writes to the disk while {state}, all of a machine ({kind})",
        settled * DAY_S / seconds / MB, 5.0, is_limit=True, unit="MB a day",
    )  # fmt: skip
    headers = ["s since it was ready", "disk, bytes", "asked for by", "changed", "the journal"]
    harness.report(
        f"wear-machine-{kind}-{state}", conditions, headers, rows, {"bytes": settled}, [figure]
    )
    print(timers)


def _equip(root: Path, kind: str) -> None:
    """Our timers, and the settings of an installation or an image."""
    python = root / "opt/hearth/current/bin/python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    shutil.copy(harness.REPOSITORY / "systemd/hearth-update.path", root / "etc/systemd/system")
    subprocess.run(["systemctl", "-q", f"--root={root}", "enable", *TIMERS], check=True)
    journal = root / "etc/systemd/journald.conf.d"
    journal.mkdir(exist_ok=True)
    shutil.copy(harness.REPOSITORY / "systemd/journald.conf.d/hearth.conf", journal)
    if kind == "image":
        files = harness.REPOSITORY / "images/shared/files/etc/systemd/journald.conf.d"
        shutil.copytree(files, journal, dirs_exist_ok=True)
        (root / "etc/fstab").write_text(f"/dev/vda / ext4 {OPTIONS} 0 0\n")


def _pass(box: Any, seconds: float, *, is_asked: bool) -> None:
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        if is_asked:
            status, answer = box.call("POST", "/api/generate", QUESTION)
            assert status == 200, answer
        time.sleep(min(ASK_EVERY_S if is_asked else rest, max(rest, 0)))


def _look(box: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(box.run("python3", "-", input_text=LOOK).output)
    return found


def _writers(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The bytes written, the processes that asked for them, files and the journal's lines,
    shortened."""
    asked = {who: count - before["asked"].get(who, 0) for who, count in after["asked"].items()}
    told = [f"{who} {count}" for who, count in asked.items() if count > 0]
    changed = [path for path in after["changed"] if not path.startswith(("/proc", "/sys", "/run"))]
    lines = [f"{len(after['told'])} lines", *(line[:80] for line in after["told"][:10])]
    return [
        str(after["bytes"] - before["bytes"]), ", ".join(told), " ".join(changed[:10]),
        "; ".join(lines),
    ]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    if options.booted:
        booted(options.seconds)
        return
    if options.machine:
        machine(options.machine, options.seconds, is_asked=options.asked)
        return
    if os.geteuid() != 0:
        print("bench_wear needs root, to mount a file system of its own")
        return
    conditions = harness.machine() | {
        "mount": OPTIONS, "seconds": options.seconds, "ask_every_s": ASK_EVERY_S,
    }  # fmt: skip
    measured: dict[str, Any] = {}
    rows = []
    with tempfile.TemporaryDirectory(prefix="hearth-wear-") as folder, card(Path(folder)) as disk:
        mount, device = disk
        with harness.hearth_service(HEARTH_STATE=str(mount / "state")) as service:
            key = {"name": "phone", "scopes": ["chat"]}
            made = harness.call(service, "POST", "/hearth/v1/keys", body=json.dumps(key))
            token = json.loads(made)["secret"]
            time.sleep(SETTLE_S)
            for name, used in {"idle": "", "asked": token}.items():
                found = period(service, device, options.seconds, used)
                a_day = {what: count * DAY_S / options.seconds for what, count in found.items()}
                measured[name] = found | {f"{what}_a_day": count for what, count in a_day.items()}
                told = [f"{found['device']}", f"{a_day['device'] / MB:.2f}"]
                rows.append([name, *told, f"{a_day['process'] / MB:.2f}"])
    headers = ["", "device, bytes", "device, MB a day", "the process alone, MB a day"]
    figure = harness.Figure(
        "writes to the card while idle", measured["idle"]["device_a_day"] / MB, 5.0,
        is_limit=True, unit="MB a day",
    )  # fmt: skip
    harness.report("wear", conditions, headers, rows, measured, [figure])


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("Writes to the card, idle and in light use")
    parser.add_argument("--seconds", type=float, help="each; default 600, with --quick 180")
    parser.add_argument("--booted", action="store_true", help="a whole system, idle")
    parser.add_argument("--machine", choices=("debian", "image"), help="a whole one in qemu, idle")
    parser.add_argument("--asked", action="store_true", help="ask that machine now and then")
    options = parser.parse_args(argv)
    options.seconds = options.seconds or (180.0 if options.quick else 600.0)
    return options


if __name__ == "__main__":
    main()
