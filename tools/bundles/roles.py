"""The roles of our TUF repositories: lifetimes, empty ones, who may sign which. Knows no files.

root        officers, n of m      says who signs everything else
targets     officers, n of m      lists nothing; delegates names to publishers
<publisher> its own keys          lists its releases; a terminating delegation each
snapshot    the online key        which version of every role belongs together
timestamp   the online key        the newest snapshot, and when that was said
"""

import datetime
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)

from appliance.errors import ConfigError
from appliance.trust.metadata import ISSUED_FIELD
from appliance.trust.patterns import NamePattern

DAY = datetime.timedelta(days=1)
WARN_BEFORE = 30 * DAY  # an expiry is told of this long before

TARGETS, SNAPSHOT, TIMESTAMP, ROOT = Targets.type, Snapshot.type, Timestamp.type, Root.type
TOP_ROLES = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)
ONLINE_ROLES = (SNAPSHOT, TIMESTAMP)

_YEAR = 365 * DAY
_LIFETIMES = {ROOT: 3 * _YEAR, "fleet": 90 * DAY}  # all others: a year
_ROLE = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_PART = re.compile(r"(?=.)(?:[a-z0-9][a-z0-9._-]{0,79})?\*?")

S = TypeVar("S", bound=Signed)


def utc_now() -> datetime.datetime:
    """Now, to the second as metadata has it."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def lifetime(role: str) -> datetime.timedelta:
    """How long a signature on the role is good for."""
    return _LIFETIMES.get(role, _YEAR)


def renewed(role: str, signed: S, now: datetime.datetime, version: int) -> S:
    """The same payload, to be signed now as `version`; changes and returns `signed`."""
    signed.version = version
    signed.expires = now.replace(microsecond=0) + lifetime(role)
    return signed


def new_root(
    now: datetime.datetime,
    officers: Sequence[Key],
    threshold: int,
    targets_officers: Sequence[Key],
    targets_threshold: int,
    online: Key,
) -> Root:
    """The first root; raises ConfigError for thresholds that the keys cannot reach."""
    root = renewed(ROOT, Root(consistent_snapshot=True), now, 1)
    holders: list[tuple[str, Sequence[Key], int]] = [
        (ROOT, officers, threshold),
        (TARGETS, targets_officers, targets_threshold),
        *((role, [online], 1) for role in ONLINE_ROLES),
    ]
    for role, keys, needed in holders:
        for key in keys:
            root.add_key(key, role)
        root.roles[role].threshold = needed
        check_threshold(role, len(root.roles[role].keyids), needed)
    return root


def check_threshold(role: str, keys: int, threshold: int) -> None:
    """Raise ConfigError unless so many different keys can reach the threshold."""
    if not 1 <= threshold <= keys:
        raise ConfigError(
            f"{role} would need {threshold} signatures, and has {keys} different keys",
            hint="give more keys, or a threshold between 1 and the number of keys",
        )


def new_targets(role: str, now: datetime.datetime, version: int = 1) -> Targets:
    """A role that lists nothing."""
    return renewed(role, Targets(), now, version)


def delegate(
    targets: Targets, role: str, patterns: Sequence[str], keys: Sequence[Key], threshold: int = 1
) -> None:
    """Let the publisher `role` list names that match; raises ConfigError for what cannot be.

    Names of two publishers may not overlap: the order of delegations would decide in silence.
    """
    check_publisher(role)
    if targets.delegations is None:
        targets.delegations = Delegations(keys={}, roles={})
    roles = targets.delegations.roles
    assert roles is not None  # our repositories never use succinct roles
    if role in roles:
        raise ConfigError(f"{role} is delegated already", hint="rotate its key, or offboard it")
    for pattern in patterns:
        _check_pattern(pattern, roles)
    roles[role] = DelegatedRole(role, [], threshold, terminating=True, paths=list(patterns))
    for key in keys:
        targets.add_key(key, role)
    check_threshold(role, len(roles[role].keyids), threshold)


def drop_delegation(targets: Targets, role: str) -> None:
    """Take a publisher's names away; its place in the snapshot stays (clients insist on it)."""
    delegated = delegated_roles(targets)
    if role not in delegated:
        raise ConfigError(f"{role} is not a publisher here", hint=_listed(delegated))
    for keyid in list(delegated[role].keyids):
        targets.revoke_key(keyid, role)
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    del targets.delegations.roles[role]


def delegated_roles(targets: Targets) -> dict[str, DelegatedRole]:
    """The publishers by name."""
    if targets.delegations is None:
        return {}
    return dict(targets.delegations.roles or {})


def check_publisher(role: str) -> None:
    """Raise ConfigError for a name that cannot be a publisher's."""
    if not _ROLE.fullmatch(role) or role in TOP_ROLES:
        raise ConfigError(
            f"{role[:60]!r} cannot be a publisher's name",
            hint="up to 40 lower-case letters, digits, '-' and '_', and not a role of TUF itself",
        )


def _check_pattern(pattern: str, roles: dict[str, DelegatedRole]) -> None:
    parts = pattern.split("/")
    if len(parts) not in {2, 3} or parts[0].startswith("*") or not all(map(_PART.fullmatch, parts)):
        raise ConfigError(
            f"{pattern[:100]!r} is not a pattern of names",
            hint="write namespace/model/tag, each but the namespace perhaps '*': acme/*/*",
        )
    for role, delegated in roles.items():
        for other in delegated.paths or ():
            same_depth = other.count("/") == pattern.count("/")
            if same_depth and NamePattern.parse(other).meets(NamePattern.parse(pattern)):
                raise ConfigError(
                    f"{pattern} overlaps with {other} of {role}",
                    hint="every name belongs to one publisher; narrow one of the patterns",
                )


def _listed(names: dict[str, DelegatedRole]) -> str:
    return f"publishers are: {', '.join(sorted(names)) or 'none'}"


def stamp_issued(timestamp: Timestamp, now: datetime.datetime) -> None:
    """Write into a timestamp when it is signed; boxes judge freshness by it."""
    moment = now.astimezone(datetime.UTC).replace(microsecond=0, tzinfo=None)
    timestamp.unrecognized_fields[ISSUED_FIELD] = f"{moment.isoformat()}Z"


def issued(timestamp: Timestamp) -> datetime.datetime | None:
    """When a timestamp of ours was signed."""
    text = timestamp.unrecognized_fields.get(ISSUED_FIELD)
    try:
        moment = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def is_signed(role: str, metadata: Metadata[Any], above: Root | Targets) -> bool:
    """Whether enough of the keys that `above` names have signed."""
    try:
        return bool(above.get_verification_result(role, metadata.signed_bytes, metadata.signatures))
    except ValueError:  # not delegated
        return False


def is_root_signed(metadata: Metadata[Root], previous: Root | None) -> bool:
    """Whether the root is signed as itself demands, and as the one before it does."""
    if previous is not None and metadata.signed.version != previous.version + 1:
        return False
    return is_signed(ROOT, metadata, metadata.signed) and (
        previous is None or is_signed(ROOT, metadata, previous)
    )
