"""What a draft says, in words that an officer can check before signing. Knows no files.

The change comes first, then all that holds afterwards: the version to compare with came on the same
stick, so the change alone proves little.
"""

import datetime
from collections.abc import Iterator, Mapping

from tuf.api.metadata import Key, Metadata, Root, TargetFile, Targets

from tools.bundles.keys import fingerprint, named, owner_of
from tools.bundles.roles import TOP_ROLES, delegated_roles

_DIGEST_CHARS = 12
_MAX_LINE_CHARS = 200


def describe(
    role: str, after: Root | Targets, before: Root | Targets | None, now: datetime.datetime
) -> list[str]:
    """Lines about a role's new version."""
    lines = [_headline(role, after, now)]
    if isinstance(after, Root):
        changes = list(_root_changes(after, before if isinstance(before, Root) else None))
        state = list(_root_state(after))
    else:
        changes = list(_targets_changes(after, before if isinstance(before, Targets) else None))
        state = list(_targets_state(after))
    nothing = "changes nothing but the version and the expiry" if before else "is new and empty"
    changes = changes or [nothing]
    lines += [f"  {change}" for change in changes]
    return [*map(_safe, lines), "  afterwards:", *(f"    {_safe(line)}" for line in state)]


def describe_signatures(
    role: str,
    metadata: Metadata[Root] | Metadata[Targets],
    authorities: Mapping[str, Root | Targets],
) -> list[str]:
    """Who has signed and how many are missing, for each that has a say: `authorities` by name."""
    lines = []
    for name, above in authorities.items():
        result = above.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        signed = ", ".join(sorted(owner_of(key) for key in result.signed.values())) or "nobody"
        missing = max(0, result.threshold - len(result.signed))
        could = ", ".join(sorted(owner_of(key) for key in result.unsigned.values()))
        rest = f"{missing} more of: {could}" if missing else "enough"
        lines.append(f"by {name}: signed by {signed}; {rest}")
    return lines


def _safe(line: str) -> str:
    """Names of releases are a publisher's text: no control characters, no endless lines."""
    return "".join(c if c.isprintable() else "?" for c in line[:_MAX_LINE_CHARS])


def _headline(role: str, after: Root | Targets, now: datetime.datetime) -> str:
    left = (after.expires - now).days
    return f"{role} version {after.version}, good until {after.expires:%Y-%m-%d} ({left} days)"


def _root_changes(after: Root, before: Root | None) -> Iterator[str]:
    for role in TOP_ROLES:
        holder = after.roles[role]
        old = before.roles[role] if before else None
        for keyid in holder.keyids:
            if old is None or keyid not in old.keyids:
                yield f"adds {named(after.keys[keyid])} to role {role}"
        for keyid in old.keyids if old else ():
            if before and keyid not in holder.keyids:
                yield f"removes {named(before.keys[keyid])} from role {role}"
        if old and old.threshold != holder.threshold:
            yield f"changes the threshold of {role} from {old.threshold} to {holder.threshold}"


def _root_state(root: Root) -> Iterator[str]:
    for role in TOP_ROLES:
        holder = root.roles[role]
        yield f"{role}: threshold {holder.threshold} of {len(holder.keyids)}"
        yield from _key_lines([root.keys[keyid] for keyid in holder.keyids])


def _targets_changes(after: Targets, before: Targets | None) -> Iterator[str]:
    new, old = delegated_roles(after), delegated_roles(before) if before else {}
    for role in new.keys() - old.keys():
        yield f"lets publisher {role} list {' '.join(new[role].paths or ())}"
    for role in old.keys() - new.keys():
        yield f"takes all names from publisher {role}"
    for role in sorted(new.keys() & old.keys()):
        if new[role].paths != old[role].paths:
            yield f"lets publisher {role} list {' '.join(new[role].paths or ())} instead"
        for keyid in new[role].keyids:
            if keyid not in old[role].keyids:
                yield f"adds {named(after.get_key(keyid))} to publisher {role}"
        for keyid in old[role].keyids:
            if before and keyid not in new[role].keyids:
                yield f"removes {named(before.get_key(keyid))} from publisher {role}"
        if new[role].threshold != old[role].threshold:
            was, now = old[role].threshold, new[role].threshold
            yield f"changes the threshold of publisher {role} from {was} to {now}"
    yield from _listing_changes(after.targets, before.targets if before else {})


def _listing_changes(new: Mapping[str, TargetFile], old: Mapping[str, TargetFile]) -> Iterator[str]:
    for path in sorted(new.keys() - old.keys()):
        yield f"lists {path}, sha256 {_digest(new[path])}"
    for path in sorted(old.keys() - new.keys()):
        yield f"lists {path} no longer"
    for path in sorted(new.keys() & old.keys()):
        if new[path].hashes != old[path].hashes:
            yield f"moves {path} from {_digest(old[path])} to {_digest(new[path])}"
        if is_revoked(new[path]) and not is_revoked(old[path]):
            yield f"revokes {path}"


def _targets_state(targets: Targets) -> Iterator[str]:
    for role, delegated in delegated_roles(targets).items():
        counted = f"threshold {delegated.threshold} of {len(delegated.keyids)}"
        yield f"publisher {role}: {' '.join(delegated.paths or ())}; {counted}"
        yield from _key_lines([targets.get_key(keyid) for keyid in delegated.keyids])
    revoked = sum(map(is_revoked, targets.targets.values()))
    yield f"{len(targets.targets)} names listed, {revoked} of them revoked"


def is_revoked(target: TargetFile) -> bool:
    return isinstance(target.custom, dict) and target.custom.get("revoked") is True


def _key_lines(keys: list[Key]) -> list[str]:
    return [f"  {fingerprint(key)}  {owner_of(key)}" for key in keys]


def _digest(target: TargetFile) -> str:
    return f"{target.hashes.get('sha256', '')[:_DIGEST_CHARS]}…"
