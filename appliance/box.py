"""Who this box is on its network: a stable id, the host name made of it, the name people gave it.

One small file, `box.json` in the state folder, made at the first start. The id is random: it says
nothing about the machine, and survives a reinstall that keeps the state. Blocking: use a thread.
"""

import re
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import msgspec

from appliance.errors import ConfigError
from appliance.library.blobs import atomic_write

FILE = "box.json"
MAX_NAME_BYTES = 63  # a DNS label, which an instance name is (RFC 6763, 4.1.1)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    number: int = 1
    announced: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """The identity of this installation."""

    id: str  # 12 hex digits
    name: str  # friendly: "Kitchen box"
    number: int = 1  # 2, 3, … where another box on the link has our host name
    announced: str = field(default="", compare=False)  # in which boot, under which name
    boot: str = field(default="", compare=False)

    @classmethod
    def open(cls, state: Path, name: str = "") -> Self:
        """The identity kept in `state`, made if there is none; `name` as the settings say.

        Raises ConfigError when the file is there and is not ours: an id must not change by itself.
        """
        path = state / FILE
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
        except FileNotFoundError:
            stored = _Stored(id=secrets.token_hex(6))
            cls(stored.id, "").save(state)
        except (OSError, msgspec.MsgspecError) as error:
            raise cls._unusable(path, str(error)) from error
        if not re.fullmatch(r"[0-9a-f]{12}", stored.id) or not 1 <= stored.number <= 9999:
            raise cls._unusable(path, "the id or the number is malformed")
        shown = name or f"Hearth {stored.id[-6:]}"
        return cls(stored.id, shown, stored.number, stored.announced, _boot_id())

    @property
    def host_label(self) -> str:
        """The first label of our own mDNS host name, like `hearth-a1b2c3`."""
        return f"hearth-{self.id[-6:]}" + self._suffix("-{}")

    @property
    def host_name(self) -> str:
        """Our mDNS host name, without a final dot."""
        return f"{self.host_label}.local"

    @property
    def instance_name(self) -> str:
        """What a browser of services shows, at most 63 bytes. Without dots: python-zeroconf takes
        each for the end of a label, and other stacks then see another name."""
        suffix = self._suffix(" ({})")
        room = MAX_NAME_BYTES - len(suffix)
        name = " ".join(self.name.replace(".", " ").split())
        return name.encode()[:room].decode(errors="ignore").rstrip() + suffix

    @property
    def is_announced(self) -> bool:
        """Whether these names were found free and announced since the machine was switched on."""
        return bool(self.boot) and self.announced == self._mark

    def as_announced(self) -> Self:
        """This box, its names announced now."""
        return replace(self, announced=self._mark)

    def renumbered(self, number: int) -> Self:
        """This box under the next free number."""
        return replace(self, number=number)

    def save(self, state: Path) -> None:
        """Keep id, number and mark durably. Raises OSError."""
        data = msgspec.json.encode(_Stored(self.id, self.number, self.announced))
        atomic_write(state / FILE, data)

    @property
    def _mark(self) -> str:
        return f"{self.boot} {self.instance_name}"

    def _suffix(self, pattern: str) -> str:
        return pattern.format(self.number) if self.number > 1 else ""

    @staticmethod
    def _unusable(path: Path, reason: str) -> ConfigError:
        return ConfigError(
            f"cannot use {path}: {reason}",
            hint="restore it from a backup, or remove it to let the box take a new identity",
        )


def _boot_id() -> str:
    """The kernel's id of this boot; empty where it has none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""
