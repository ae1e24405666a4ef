"""The floor: how new everything was that this box has verified. It only rises. Pure rules.

Metadata files may be lost or torn by a power cut; the floor is small, kept twice, and refuses an
older repository even then. It carries an *epoch*, the digest of the online keys: when the root of
trust replaces those keys, versions below the root start anew. Without that, an attacker who once
held the online keys and counted to a huge version would lock the box out for ever.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from appliance.trust.clock import ClockReading, is_believable
from appliance.trust.errors import TrustCode, TrustError

ROOT = "root"
MAX_VERSION = 2**53  # the largest whole number that every JSON reader agrees on


@dataclass(frozen=True, slots=True)
class Held:
    """What a set of metadata files proves, each file verified by the one above it.

    `versions` and `expires_s` are by role; `issued_s` is what the timestamp says of itself.
    """

    epoch: str
    versions: Mapping[str, int]
    expires_s: Mapping[str, int]
    issued_s: int | None = None


@dataclass(frozen=True, slots=True)
class Floor:
    """`state` is the number of the committed state folder, `issued_s` 0 if never told."""

    state: int = 0
    epoch: str = ""
    versions: Mapping[str, int] = field(default_factory=dict)
    issued_s: int = 0

    def raised_by(self, held: Held, reading: ClockReading) -> Self:
        """The floor after accepting `held`; raises TrustError (rollback, malformed)."""
        base = self._in_epoch(held.epoch)
        for role, version in held.versions.items():
            if version > MAX_VERSION:
                raise TrustError.of(TrustCode.MALFORMED, f"{role} has version {str(version)[:40]}")
            if version < (seen := base.versions.get(role, 0)):
                raise TrustError.of(
                    TrustCode.ROLLBACK,
                    f"{role} is version {version}, this box has already seen {seen}",
                )
        return replace(
            base,
            versions={**base.versions, **held.versions},
            issued_s=max(base.issued_s, _believed(held, base, reading)),
        )

    def _in_epoch(self, epoch: str) -> Self:
        if epoch == self.epoch:
            return self
        root = {role: version for role, version in self.versions.items() if role == ROOT}
        return replace(self, epoch=epoch, versions=root, issued_s=0)

    def encode(self) -> bytes:
        body = {
            "state": self.state,
            "epoch": self.epoch,
            "versions": dict(self.versions),
            "issued_s": self.issued_s,
        }
        return json.dumps({**body, "sha256": _digest(body)}, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """The floor in a file of ours, or None when it is torn, rotten or not ours."""
        try:
            body = json.loads(data)
            digest = body.pop("sha256")
            floor = cls(**body)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return floor if digest == _digest(body) else None


def _believed(held: Held, base: Floor, reading: ClockReading) -> int:
    """The date of issue if it may raise the floor, else 0; raises TrustError if it went back."""
    expires_s = held.expires_s.get("timestamp", 0)
    if held.issued_s is None or not is_believable(held.issued_s, expires_s, reading):
        return 0
    if held.issued_s < base.issued_s:
        raise TrustError.of(
            TrustCode.ROLLBACK,
            f"the repository was issued at {held.issued_s}, this box has already seen one of "
            f"{base.issued_s} (seconds since 1970)",
        )
    return held.issued_s


def _digest(body: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
