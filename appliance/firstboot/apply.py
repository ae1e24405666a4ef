"""Does what the boot partition asks: reads its files once, sets up the system, wipes the secrets.

Runs as root before the service, on images only. Each wish is done by itself; one that fails is a
sentence at the console and keeps nothing from starting. Blocking.
"""

import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from appliance.access.access import RESET_FILE
from appliance.box import Box
from appliance.config import load_settings
from appliance.errors import ApplianceError, ConfigError
from appliance.firstboot.wishes import (
    MAX_BYTES,
    Wishes,
    keyfile,
    merge,
    parse_imager,
    parse_network_config,
    parse_own,
    parse_user_data,
    settings_file,
)
from appliance.library.blobs import atomic_write
from appliance.trust.enrolment import FILE as ENROLMENT_FILE
from appliance.trust.enrolment import MAX_FILE_BYTES

T = TypeVar("T")

RESET_KEYS = "hearth-reset-keys"
_PARSERS: dict[str, Callable[[bytes], Wishes]] = {
    "user-data": parse_user_data,
    "network-config": parse_network_config,
    "custom.toml": parse_imager,
    "hearth.toml": parse_own,  # the last one counts
}
_LIMIT_S = 60


@dataclass(slots=True)
class Machine:
    """Where things are; tests give a folder as `root`, and then no program is run."""

    root: Path = Path("/")
    said: list[str] = field(default_factory=list)  # for the console

    def path(self, name: str) -> Path:
        return self.root / name

    def run(self, *command: str) -> None:
        """Raises ConfigError where there is no such program, OSError, SubprocessError."""
        if self.root != Path("/"):
            return
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_LIMIT_S)  # noqa: S603
        except FileNotFoundError as error:
            raise ConfigError(f"{command[0]} is not part of this system") from error


def first_boot(machine: Machine, boot: Path, state: Path) -> None:
    """All of it: what `boot` asks for, else a host name made of the box's id. May be repeated."""
    wishes = _read(boot)
    machine.said += wishes.problems
    for step in (_set_settings, _set_user, _set_timezone, _set_wifi):
        _try(machine, step, wishes)
    _try(machine, lambda *_: _reset_keys(boot, state), wishes)
    _try(machine, lambda *_: _set_hostname(machine, wishes.hostname, state), wishes)
    _try(machine, lambda *_: _hand_over(machine, boot, state), wishes)
    for name in _PARSERS:
        _try(machine, lambda *_, name=name: wipe(boot / name), wishes)


def wipe(path: Path) -> None:
    """Overwrite a file in place, then name it for what it is: read. Raises OSError."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        file.write(b"#" * path.stat().st_size)
        file.flush()
        os.fsync(file.fileno())
        file.truncate(0)
        file.write(b"# It was read at a start of the box, and what it said was taken away.\n")
        file.flush()
        os.fsync(file.fileno())
    path.replace(path.with_name(f"{path.name}.read"))


def _read(boot: Path) -> Wishes:
    wishes = Wishes()
    for name, parse in _PARSERS.items():
        try:
            with (boot / name).open("rb") as file:
                wishes = merge(wishes, parse(file.read(MAX_BYTES + 1)))
        except FileNotFoundError:
            continue
        except OSError as error:
            wishes.problems.append(f"{name} cannot be read: {error.strerror}")
    return wishes


def _try(machine: Machine, step: Callable[[Machine, Wishes], None], wishes: Wishes) -> None:
    try:
        step(machine, wishes)
    except (OSError, ApplianceError, subprocess.SubprocessError) as error:
        machine.said.append(f"first boot: {error}")


def _set_settings(machine: Machine, wishes: Wishes) -> None:
    """A file that the service would refuse is not taken; the one before stays in force."""
    if not wishes.settings:
        return
    target = machine.path("etc/hearth/hearth.toml")
    draft = target.with_suffix(".new")
    _write(draft, settings_file(wishes.settings), 0o644)
    try:
        load_settings({}, {}, draft)
    except ConfigError as error:
        draft.unlink()
        raise ConfigError(f"hearth.toml was not taken: {error}") from error
    draft.replace(target)


def _set_user(machine: Machine, wishes: Wishes) -> None:
    """A person who may come by SSH with a key; without one SSH stays off."""
    if not wishes.ssh_keys:
        return
    user = wishes.user or "hearth-admin"
    home = machine.path(f"home/{user}")
    if not home.exists():
        machine.run("useradd", "--create-home", "--shell", "/bin/bash", "--groups", "sudo", user)
    _write(home / ".ssh/authorized_keys", "".join(f"{key}\n" for key in wishes.ssh_keys), 0o600)
    machine.run("chown", "-R", f"{user}:", f"/home/{user}/.ssh")
    machine.run("ssh-keygen", "-A")
    machine.run("systemctl", "enable", "--now", "--no-block", "ssh.service")


def _set_timezone(machine: Machine, wishes: Wishes) -> None:
    if not wishes.timezone:
        return
    zone = machine.path("usr/share/zoneinfo") / wishes.timezone
    if not zone.is_file():
        raise ConfigError(f"this system knows no time zone {wishes.timezone!r}")
    link = machine.path("etc/localtime.new")
    link.unlink(missing_ok=True)
    link.symlink_to(f"/usr/share/zoneinfo/{wishes.timezone}")
    link.replace(machine.path("etc/localtime"))


def _set_wifi(machine: Machine, wishes: Wishes) -> None:
    if wishes.wifi is None:
        return
    folder = machine.path("etc/NetworkManager/system-connections")
    if not folder.is_dir():
        raise ConfigError("Wi-Fi was asked for, but NetworkManager is not part of this system")
    _write(folder / "hearth-wifi.nmconnection", keyfile(wishes.wifi), 0o600)
    if wishes.wifi.country:
        line = f"options cfg80211 ieee80211_regdom={wishes.wifi.country}\n"
        _write(machine.path("etc/modprobe.d/hearth-wifi.conf"), line, 0o644)


def _set_hostname(machine: Machine, asked: str, state: Path) -> None:
    """The name that was asked for, once; else the one made of the box's id, unless it has one."""
    file = machine.path("etc/hostname")
    now = file.read_text().strip() if file.exists() else ""
    name = asked or (now if now not in {"", "localhost", "hearth", "raspberrypi"} else "")
    name = name or _as_owner(state, lambda: Box.open(state).host_label)
    if name == now:
        return
    _write(file, f"{name}\n", 0o644)
    hosts = machine.path("etc/hosts")
    lines = hosts.read_text().splitlines() if hosts.exists() else ["127.0.0.1 localhost"]
    kept = [line for line in lines if not line.startswith("127.0.1.1")]
    _write(hosts, "\n".join([*kept, f"127.0.1.1 {name}", ""]), 0o644)
    if machine.root == Path("/"):
        socket.sethostname(name)


def _reset_keys(boot: Path, state: Path) -> None:
    """The physical act of an owner who lost all keys: a file on the boot partition."""
    wish = boot / RESET_KEYS
    if wish.exists():
        _as_owner(state, lambda: _write(state / RESET_FILE, "", 0o600))
        wish.unlink()


def _hand_over(machine: Machine, boot: Path, state: Path) -> None:
    """The enrolment file of a site, for the service: it reads it with fewer rights than these.

    Not wiped before the state folder has it, so that a full disk only makes it wait.
    """
    try:
        with (boot / ENROLMENT_FILE).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return
    _as_owner(state, lambda: atomic_write(state / ENROLMENT_FILE, data, mode=0o600))
    wipe(boot / ENROLMENT_FILE)
    machine.said.append(f"{ENROLMENT_FILE} was read; `hearth doctor` says what became of it")


def _as_owner(state: Path, step: Callable[[], T]) -> T:
    """Run `step` as the user who owns `state`: root must not follow what lies there."""
    owner = state.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return step()
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        return step()
    finally:
        os.seteuid(0)
        os.setegid(0)


def _write(path: Path, text: str, mode: int) -> None:
    """Replace a file durably; never readable by more than `mode` says."""
    path.parent.mkdir(mode=0o755 if mode & 0o044 else 0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
