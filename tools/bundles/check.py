"""Whether clients can follow a repository: static rules, and the box's own trust store as judge.

The judge starts as a virgin box, and as one that stopped at each of the last states.
"""

import datetime
import json
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, Root, Timestamp

from appliance.trust.clock import ClockReading
from appliance.trust.errors import TrustError
from appliance.trust.fetch import NOT_FOUND, Source
from appliance.trust.statefolder import StateFolder
from appliance.trust.store import TrustStore
from tools.bundles.errors import BrokenRepositoryError
from tools.bundles.plan import Draft
from tools.bundles.published import (
    TIMESTAMP_FILE,
    PublishedSet,
    file_name,
    load,
    parse,
    versions_of,
)
from tools.bundles.roles import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    TOP_ROLES,
    WARN_BEFORE,
    delegated_roles,
    is_root_signed,
    is_signed,
)

_MEMORY_URL = "memory:/"
_LOOKED_UP = 4  # names per publisher in a replay; that all lie within its own is a static rule


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong (`is_fatal`: clients are refused) or will be, and its cure."""

    text: str
    cure: str = ""
    is_fatal: bool = True


@dataclass(frozen=True, slots=True)
class PastState:
    """A state that was published once: with the versioned files that still lie there, all of it."""

    root_version: int
    timestamp: bytes

    @property
    def version(self) -> int:
        return parse(self.timestamp, TIMESTAMP_FILE, Timestamp).signed.version

    def files(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """What clients found then."""
        later = [file_name(ROOT, v) for v in versions_of(files, ROOT) if v > self.root_version]
        return {
            **{name: data for name, data in files.items() if name not in later},
            TIMESTAMP_FILE: self.timestamp,
        }

    def encode(self) -> bytes:
        return json.dumps(
            {"root": self.root_version, "timestamp": self.timestamp.decode()}
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises BrokenRepositoryError for a damaged record."""
        try:
            body = json.loads(data)
            return cls(int(body["root"]), str(body["timestamp"]).encode())
        except (ValueError, TypeError, LookupError) as error:
            raise BrokenRepositoryError(
                "a record of a past state is damaged", hint="remove it from the history folder"
            ) from error


def check_published(
    files: Mapping[str, bytes],
    drafts: Mapping[str, Draft],
    past: Sequence[PastState],
    now: datetime.datetime,
) -> list[Finding]:
    """Everything about what lies there: the set, the expiries, the replays and the drafts."""
    if TIMESTAMP_FILE not in files:
        waiting = [Finding("nothing is published yet", "`bundle repo publish`", is_fatal=False)]
        return [*waiting, *_drafts(drafts)]
    findings = check_step(files, past, now)
    return [*findings, *_drafts(drafts)]


def check_step(
    files: Mapping[str, bytes], past: Sequence[PastState], now: datetime.datetime
) -> list[Finding]:
    """Whether virgin clients, and those of past states, can follow to the state in `files`."""
    try:
        published = PublishedSet(files)
        findings = [*_signatures(published), *_publishers(published), *_expiries(published, now)]
    except BrokenRepositoryError as error:
        return [Finding(error.message, error.hint)]
    if any(finding.is_fatal for finding in findings):
        return findings
    return [*findings, *_replays(published, past, now)]


def _signatures(published: PublishedSet) -> list[Finding]:
    """Each root by the one before and by itself; the roles above the publishers by the newest."""
    findings = []
    before = None
    for version in versions_of(published.files, ROOT):
        root = load(published.files, file_name(ROOT, version), Root)
        if not is_root_signed(root, before):
            findings.append(Finding(f"root {version} is not signed by enough officers"))
        before = root.signed
    online_cure = "publish with the online key that the root names"
    top: list[tuple[str, Metadata[Any], str]] = [
        (TIMESTAMP, published.timestamp, online_cure),
        (SNAPSHOT, published.snapshot, online_cure),
        (TARGETS, published.targets, "`bundle repo renew targets`, and let the officers sign it"),
    ]
    for role, metadata, cure in top:
        if not is_signed(role, metadata, published.root.signed):
            findings.append(Finding(f"{role} is not signed by enough keys of the root", cure))
    return findings


def _publishers(published: PublishedSet) -> list[Finding]:
    """Each delegated role is there, signed as the delegation says, and lists its own names only."""
    findings = []
    targets = published.targets.signed
    if targets.targets:
        findings.append(Finding("targets lists names itself; only publishers may"))
    for role, delegated in delegated_roles(targets).items():
        metadata = published.role(role)
        if metadata is None:
            findings.append(
                Finding(
                    f"{role} may list names, but has never signed anything",
                    f"let {role} sign its first version (`bundle repo sign`), or offboard it",
                )
            )
        elif not is_signed(role, metadata, targets):
            findings.append(
                Finding(
                    f"{role} is not signed by its present keys",
                    f"`bundle repo renew {role}`, and sign it with the new key",
                )
            )
        else:
            strangers = [n for n in metadata.signed.targets if not delegated.is_delegated_path(n)]
            findings += [Finding(f"{role} lists {name[:100]!r}, not its own") for name in strangers]
    return findings


def _expiries(published: PublishedSet, now: datetime.datetime) -> list[Finding]:
    """A root or targets that expired stops every new install, a publisher's only its own."""
    dates = {
        ROOT: published.root.signed.expires,
        TARGETS: published.targets.signed.expires,
        SNAPSHOT: published.snapshot.signed.expires,
        TIMESTAMP: published.timestamp.signed.expires,
    }
    for role in delegated_roles(published.targets.signed):
        if metadata := published.role(role):
            dates[role] = metadata.signed.expires
    findings = []
    for role, expires in dates.items():
        cure = "`bundle repo refresh`" if role in {SNAPSHOT, TIMESTAMP} else renewal(role)
        if expires <= now:
            text = f"{role} expired on {expires:%Y-%m-%d}"
            findings.append(Finding(text, cure, is_fatal=role in TOP_ROLES))
        elif expires - now <= WARN_BEFORE:
            text = f"{role} expires on {expires:%Y-%m-%d}, in {(expires - now).days} days"
            findings.append(Finding(text, cure, is_fatal=False))
    return findings


def renewal(role: str) -> str:
    return f"`bundle repo renew {role}`, sign it, and publish"


def _drafts(drafts: Mapping[str, Draft]) -> list[Finding]:
    return [
        Finding(
            f"{role} version {draft.version} is drafted, with {len(draft.metadata.signatures)} "
            f"signatures",
            "`bundle repo status` shows who is missing; then publish",
            is_fatal=False,
        )
        for role, draft in drafts.items()
    ]


def _replays(
    published: PublishedSet, past: Sequence[PastState], now: datetime.datetime
) -> list[Finding]:
    """What boxes would say that come from nothing, and from each of the past states."""
    findings = []
    names = _names(published, now)
    for start in [None, *past]:
        who = f"a box of timestamp {start.version}" if start else "a new box"
        try:
            _replay(start.files(published.files) if start else None, published.files, names, now)
        except _PastError:
            continue  # that state has expired: whoever has it stays where the virgin box starts
        except TrustError as error:
            findings.append(Finding(f"{who} refuses ({error.code}): {error.message}", error.hint))
    return findings


class _PastError(Exception):
    """The state to start from is not accepted any more."""


def _replay(
    start: Mapping[str, bytes] | None,
    files: Mapping[str, bytes],
    names: Sequence[str],
    now: datetime.datetime,
) -> None:
    """One box with an empty disk: to `start`, then to `files`; raises TrustError, _PastError."""
    reading = ClockReading(int(now.timestamp()), is_synced=True)
    with tempfile.TemporaryDirectory(prefix="bundle-check-") as folder:
        store = TrustStore(
            StateFolder(Path(folder)), files["1.root.json"], lambda: reading, released_s=0
        )
        if start is not None:
            try:
                store.refresh(_in_memory(start))
            except TrustError as error:
                raise _PastError from error
        store.refresh(_in_memory(files), names)


def _names(published: PublishedSet, now: datetime.datetime) -> list[str]:
    """Names to look up: of every publisher that has not expired, a few."""
    found: list[str] = []
    for role in delegated_roles(published.targets.signed):
        metadata = published.role(role)
        if metadata is not None and metadata.signed.expires > now:
            found += sorted(metadata.signed.targets)[:_LOOKED_UP]
    return found


@dataclass(frozen=True, slots=True)
class MemoryReader:
    """Metadata files that were never written anywhere."""

    files: Mapping[str, bytes]

    def chunks(self, url: str) -> Generator[bytes, None, None]:
        """The file of an address below `memory:/`."""
        name = url.removeprefix(_MEMORY_URL)
        if name not in self.files:
            raise DownloadHTTPError(f"{name[:100]} is missing", NOT_FOUND)
        yield self.files[name]


def _in_memory(files: Mapping[str, bytes]) -> Source:
    return Source(MemoryReader(files), _MEMORY_URL, is_removable=True)
