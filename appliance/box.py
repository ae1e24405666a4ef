"""Who this box is on its network: a stable id, the host name made of it, the name people gave it.

One small file, `box.json` in the state folder, made at the first start. The id is random: it says
nothing about the machine, and survives a reinstall that keeps the state. Blocking: use a thread.
"""

import re
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import msgspec

from appliance.errors import ConfigError
from appliance.library.blobs import atomic_write

FILE = "box.json"
MAX_NAME_BYTES = 63  # a DNS label, which an instance name is (RFC 6763, 4.1.1)


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    number: int = 1


@dataclass(frozen=True, slots=True)
class Box:
    """The identity of this installation."""

    id: str  # 12 hex digits
    name: str  # friendly: "Kitchen box"
    number: int = 1  # 2, 3, … where another box on the link has our host name

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
        return cls(stored.id, name or f"Hearth {stored.id[-6:]}", stored.number)

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
        """What a browser of services shows, at most 63 bytes."""
        suffix = self._suffix(" ({})")
        room = MAX_NAME_BYTES - len(suffix)
        return self.name.encode()[:room].decode(errors="ignore").rstrip() + suffix

    def renumbered(self, number: int) -> Self:
        """This box under the next free number."""
        return replace(self, number=number)

    def save(self, state: Path) -> None:
        """Keep id and number durably. Raises OSError."""
        data = msgspec.json.encode(_Stored(self.id, self.number))
        atomic_write(state / FILE, data)

    def _suffix(self, pattern: str) -> str:
        return pattern.format(self.number) if self.number > 1 else ""

    @staticmethod
    def _unusable(path: Path, reason: str) -> ConfigError:
        return ConfigError(
            f"cannot use {path}: {reason}",
            hint="restore it from a backup, or remove it to let the box take a new identity",
        )
