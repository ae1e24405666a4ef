"""Two systems on a Raspberry Pi, whose firmware can try the other one for a single start.

Source: Raspberry Pi's documentation of autoboot.txt and tryboot. `[all] boot_partition` is what
every start uses, `[tryboot] boot_partition` the one start after a restart with the words
"0 tryboot". The firmware clears that flag before it starts anything: a crash, a hang that the
watchdog ends or a power cut leads back to the old system without help.

The flag is set by the restart itself. Power that goes before it, `reboot -f`, or a kernel that does
not pass the words on (Debian's does not) lose it, and the old system starts as if there were no
update. So what waits is written down on the data partition: every orderly restart asks for it
anew, TRIES times, and `lines` says whether it ever started.
"""

import json
import os
from pathlib import Path

import common
from common import RefusedError

TRIES = 2
SELECTION = Path("/boot/firmware/autoboot.txt")
WAITING = Path("/var/lib/hearth-os/waiting.json")
REBOOT_WORDS = Path("/run/systemd/reboot-param")  # systemd hands them to the kernel at a restart


def is_here():
    return SELECTION.exists()


def on_trial(_running):
    """Whether this system is another than the one that every start uses."""
    return selection()[0] != boot_partition().number


def lines(running):
    default, trial = selection()
    yield f"default   boot partition {default}; a trial uses {trial}"
    if waiting := _waiting():
        yield f"waiting   {waiting['version']}: {_told(waiting, running)}"


def forget(_running):
    """Let nothing be tried while the free place is written."""
    _remove_waiting()


def take(file, manifest, write_part):
    """Write the boot partition that belongs to the free root, then, last, note that it waits."""
    target = common.partition(common.other(_boot_name()))
    write_part(file, "boot.fat.zst", manifest["boot"], str(target.device))
    _note(manifest["version"], TRIES, began=False)


def begin():
    """Note that the firmware did start the system on trial."""
    if waiting := _waiting():
        _note(waiting["version"], waiting["tries"], began=True)


def commit():
    """Make this system the one that every start uses."""
    mine = boot_partition().number
    theirs = common.partition(common.other(_boot_name())).number
    _select(mine, theirs)
    _remove_waiting()


def given_up():
    """Versions that were tried as often as they may be and never became good."""
    waiting = _waiting()
    return [waiting["version"]] if waiting and not waiting["tries"] else []


def leave():
    """At a restart (not when the box is switched off): ask the firmware to try what waits."""
    waiting = _waiting()
    if waiting is None or not waiting["tries"] or not _is_restart():
        return
    # The try counts before it is made: a box must not try for ever.
    _note(waiting["version"], waiting["tries"] - 1, waiting["began"])
    REBOOT_WORDS.write_text("0 tryboot")
    print(f"the firmware is asked to try {waiting['version']}", flush=True)


def selection():
    """(partition of every start, partition of a trial), as autoboot.txt names them."""
    found, section = {}, "all"
    for line in SELECTION.read_text().split():
        key, _, value = line.partition("=")
        if line.startswith("["):
            section = line.strip("[]")
        elif key == "boot_partition" and value.isdigit():
            found[section] = int(value)
    if not {"all", "tryboot"} <= set(found):
        raise RefusedError(
            f"{SELECTION} does not name two boot partitions: write it anew, with "
            f"[all] tryboot_a_b=1 boot_partition={boot_partition().number} and "
            "[tryboot] boot_partition=<the other>, one word a line"
        )
    return found["all"], found["tryboot"]


def boot_partition():
    """The one that belongs to the running root."""
    return common.partition(_boot_name())


def _boot_name():
    return common.running_partition().replace("hearth-root-", "hearth-boot-")


def _select(default, trial):
    """Overwrite autoboot.txt where it lies: the file is one sector (the firmware reads no more than
    512 bytes) and keeps its length, so neither the table of the FAT nor the folder changes, and
    a power cut leaves the old sector or the new one."""
    text = f"[all]\ntryboot_a_b=1\nboot_partition={default}\n[tryboot]\nboot_partition={trial}\n"
    with SELECTION.open("r+b", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        file.write(text.encode().ljust(length, b"\n"))
        os.fsync(file.fileno())


def _waiting():
    try:
        return json.loads(WAITING.read_text())
    except FileNotFoundError:
        return None


def _note(version, tries, began):
    waiting = {"version": version, "tries": tries, "began": began}
    common.write_durably(WAITING, json.dumps(waiting))


def _remove_waiting():
    WAITING.unlink(missing_ok=True)
    if WAITING.parent.is_dir():
        common.sync_folder(WAITING.parent)


def _told(waiting, running):
    """How it stands with the update, and what to do."""
    tried = TRIES - waiting["tries"]
    if waiting["version"] == running:
        return "runs, and becomes the default once Hearth answers"
    if not tried:
        return "not tried yet (a restart is needed, or the power went before it): sudo reboot"
    how = "it started and did not become good"
    if not waiting["began"]:
        how = "its system never came up (or this kernel cannot ask for a trial, like Debian's)"
    rest = "sudo reboot tries once more" if waiting["tries"] else "it is not tried again"
    return f"tried {tried} of {TRIES}, {how}; {rest}"


def _is_restart():
    jobs = common.output("systemctl", "list-jobs", "--plain", "--no-legend")
    return any("reboot.target" in line.split() for line in jobs.splitlines())
