"""One repository's trusted metadata on this box: refreshed as one, never backwards.

    refresh   lock → copy of the trusted state → TUF client workflow → floor → commit as one
    read      what the trusted state proves, without any source

What was verified before a network source failed is kept, as the TUF workflow demands; from a
removable source all or nothing is kept. What the floor refuses is never kept. Synchronous: the
service calls it in a thread. python-tuf is imported by the first call, not by the service's start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.trust.clock import RELEASED_S, ClockReading, TrustedTime, judge_clock, read_clock
from appliance.trust.errors import TrustCode, TrustError
from appliance.trust.floor import ROOT, Floor, Held

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.trust.fetch import Source
    from appliance.trust.metadata import Proof, SignedTarget
    from appliance.trust.statefolder import StateFolder


@dataclass(frozen=True, slots=True)
class Trusted:
    """What a repository's metadata proves now. `issued_s` is None if it does not say."""

    versions: Mapping[str, int]
    expires_s: Mapping[str, int]
    issued_s: int | None
    clock: TrustedTime
    targets: Mapping[str, SignedTarget]


class TrustStore:
    """The metadata of one repository below `folder`, starting from the pinned root."""

    def __init__(
        self,
        folder: StateFolder,
        pinned: bytes,
        clock: Callable[[], ClockReading] = read_clock,
        released_s: int = RELEASED_S,
    ) -> None:
        self._folder = folder
        self._pinned = pinned
        self._clock = clock
        self._released_s = released_s

    def refresh(
        self,
        source: Source,
        wanted: Sequence[str] = (),
        hoped: Sequence[str] = (),
        accept: Callable[[Trusted], None] = lambda _: None,
    ) -> Trusted:
        """Update from `source` and look up `wanted`, and of `hoped` what is listed; raises
        TrustError, DiskFullError.

        On TrustError the targets that were trusted before are so still. `accept` sees what would
        be trusted; when it raises, nothing of that is kept.
        """
        from appliance.trust import metadata

        with self._folder.locked():
            before = self._folder.read()
            with self._folder.scratch() as scratch:
                _lay_out(before, scratch)
                error = metadata.run_client(scratch, self._pinned, source, wanted, hoped)
                after = metadata.files_of(scratch)
            proof = metadata.Proof(after)
            if ROOT not in proof.held().versions:  # proves nothing, so must change nothing
                raise error or _one_key_many_names(ROOT)
            floor = self._raised(proof.held(), error)
            if error is None:
                trusted = self._judge(proof, floor, wanted, hoped)
                accept(trusted)
                self._commit(before, after, floor)
                return trusted
            if not source.is_removable:
                self._commit(before, after, floor)
            raise error

    def read(self, wanted: Sequence[str] = ()) -> Trusted:
        """What is trusted already, expired or not; names that are not listed are left out.

        After a refresh that the network broke off, the newest timestamp may name files that are
        still to come: then less is proven than before, until the next refresh succeeds.
        """
        from appliance.trust import metadata

        proof = metadata.Proof(self._folder.read())
        targets = {name: target for name in wanted if (target := proof.find(name))}
        return self._trusted(proof.held(), self._folder.floor() or Floor(), targets)

    def files(self) -> dict[str, bytes]:
        """The trusted metadata files by relative path; `root.json` is the newest root."""
        return self._folder.read()

    def _raised(self, held: Held, error: TrustError | None) -> Floor:
        """The floor with `held`; if the workflow failed too, its error is the one to tell."""
        floor = self._folder.floor() or Floor()
        try:
            return floor.raised_by(held, self._clock())
        except TrustError as refusal:
            raise error or refusal from refusal

    def _judge(
        self, proof: Proof, floor: Floor, wanted: Sequence[str], hoped: Sequence[str]
    ) -> Trusted:
        """Expiry at the trusted time: python-tuf used the system clock, which may be behind."""
        held = proof.held()
        now_s = self._time(floor).now_s
        for role in (ROOT, "timestamp", "snapshot", "targets"):
            if role not in held.expires_s:
                raise _one_key_many_names(role)
            _require_unexpired(role, held.expires_s[role], now_s)
        targets = {}
        for name in (*wanted, *hoped):
            target = proof.find(name)
            if target is None and name in wanted:
                raise _one_key_many_names(f"a role above {name}")
            if target is None:
                continue
            _require_unexpired(f"the role that lists {name}", target.expires_s, now_s)
            targets[name] = target
        return self._trusted(held, floor, targets)

    def _trusted(self, held: Held, floor: Floor, targets: Mapping[str, SignedTarget]) -> Trusted:
        issued_s = floor.issued_s or None
        return Trusted(held.versions, held.expires_s, issued_s, self._time(floor), targets)

    def _time(self, floor: Floor) -> TrustedTime:
        return judge_clock(self._clock(), max(self._released_s, floor.issued_s))

    def _commit(
        self, before: Mapping[str, bytes], after: Mapping[str, bytes], floor: Floor
    ) -> None:
        """A refresh that found nothing new writes nothing: flash wears out."""
        if before != after or floor != self._folder.floor():
            self._folder.commit(after, floor)


def _lay_out(files: Mapping[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _one_key_many_names(what: str) -> TrustError:
    """The one thing that python-tuf accepts and `Proof` does not."""
    return TrustError.of(
        TrustCode.SIGNATURE, f"{what} reaches its threshold only by counting one key twice"
    )


def _require_unexpired(what: str, expires_s: int, now_s: int) -> None:
    if expires_s <= now_s:
        raise TrustError.of(
            TrustCode.EXPIRED,
            f"{what} expired {(now_s - expires_s) // 60} minutes ago, or the clock is wrong",
        )
