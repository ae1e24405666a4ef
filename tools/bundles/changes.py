"""What officers decide, as drafts for them to sign: first state, publishers, keys, renewals.

Nothing here signs or publishes. Whatever a change makes necessary elsewhere is drafted with it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tuf.api.metadata import Key, Metadata, Root, Targets

from appliance.errors import ConfigError, NotFoundError
from tools.bundles.errors import RepositoryRefusedError
from tools.bundles.keys import named, owner_of
from tools.bundles.published import newest_root, versions_of
from tools.bundles.repository import RepositoryFolder
from tools.bundles.roles import (
    ONLINE_ROLES,
    ROOT,
    TARGETS,
    check_threshold,
    delegate,
    delegated_roles,
    drop_delegation,
    new_root,
    new_targets,
    renewed,
    utc_now,
)

OFFICER_ROLES = (ROOT, TARGETS)


def initialise(
    folder: RepositoryFolder,
    officers: Sequence[Key],
    threshold: int,
    online: Key,
    targets_officers: Sequence[Key] = (),
    targets_threshold: int = 0,
) -> list[Path]:
    """Draft the first root and targets; without officers of its own, targets has those of root."""
    with folder.locked():
        if folder.files() or folder.drafts():
            raise RepositoryRefusedError(
                "there is a repository already", hint="give another folder, or `bundle repo status`"
            )
        root = new_root(
            utc_now(),
            officers,
            threshold,
            targets_officers or officers,
            targets_threshold or threshold,
            online,
        )
        return [
            folder.put_draft(ROOT, root),
            folder.put_draft(TARGETS, new_targets(TARGETS, utc_now())),
        ]


def add_publisher(
    folder: RepositoryFolder,
    publisher: str,
    patterns: Sequence[str],
    keys: Sequence[Key],
    threshold: int = 1,
) -> list[Path]:
    """Draft targets with a new delegation, and the publisher's first version, which lists nothing.

    One who comes back goes on counting: the snapshot still has the number of before.
    """
    with folder.locked():
        targets = folder.next_targets(TARGETS)
        delegate(targets, publisher, patterns, keys, threshold)
        drafted = folder.put_draft(TARGETS, targets)
        first = folder.next_targets(publisher)
        first.targets.clear()
        return [drafted, folder.put_draft(publisher, first)]


def offboard(folder: RepositoryFolder, publisher: str) -> list[Path]:
    """Draft targets without a publisher. What it signed stays in the snapshot, for old clients."""
    with folder.locked():
        targets = folder.next_targets(TARGETS)
        drop_delegation(targets, publisher)
        if draft := folder.drafts().get(publisher):
            folder.remove_draft(publisher, draft.version)
        return [folder.put_draft(TARGETS, targets)]


def rotate_publisher(
    folder: RepositoryFolder, publisher: str, keys: Sequence[Key], threshold: int = 1
) -> list[Path]:
    """Draft new keys for a publisher, and its own next version for them to sign."""
    with folder.locked():
        targets = folder.next_targets(TARGETS)
        delegated = delegated_roles(targets).get(publisher)
        if delegated is None:
            raise NotFoundError(f"{publisher[:60]!r} is not a publisher here")
        for keyid in list(delegated.keyids):
            targets.revoke_key(keyid, publisher)
        for key in keys:
            targets.add_key(key, publisher)
        delegated.threshold = threshold
        check_threshold(publisher, len(delegated.keyids), threshold)
        return [
            folder.put_draft(TARGETS, targets),
            folder.put_draft(publisher, folder.next_targets(publisher)),
        ]


def rotate_online(folder: RepositoryFolder, key: Key) -> list[Path]:
    """Draft a root with another online key."""
    with folder.locked():
        root = next_root(folder)
        for role in ONLINE_ROLES:
            for keyid in list(root.roles[role].keyids):
                root.revoke_key(keyid, role)
            root.add_key(key, role)
        return [folder.put_draft(ROOT, root)]


def rotate_officers(
    folder: RepositoryFolder,
    leaver: str | None,
    keys: Mapping[str, Key],
    thresholds: Mapping[str, int],
) -> list[Path]:
    """Draft a root without the officer `leaver` and with the new `keys`, each by role.

    Without new keys the officer goes from both roles; with some, only from theirs. Raises
    NotFoundError for an unknown officer, ConfigError for a threshold that could not be reached.
    """
    with folder.locked():
        root = next_root(folder)
        roles = tuple(keys) or OFFICER_ROLES
        dropped = _drop_officer(root, leaver, roles) if leaver is not None else set()
        for role, key in keys.items():
            root.add_key(key, role)
        for role in OFFICER_ROLES:
            if dropped & set(root.roles[role].keyids):
                raise ConfigError(
                    f"the key that {leaver} gives up signs {role} as well",
                    hint=f"replace it there too, with --{role} KEY",
                )
            root.roles[role].threshold = thresholds.get(role, root.roles[role].threshold)
            check_threshold(role, len(root.roles[role].keyids), root.roles[role].threshold)
        drafted = [folder.put_draft(ROOT, root)]
        if TARGETS in roles or TARGETS in thresholds:
            drafted.append(folder.put_draft(TARGETS, folder.next_targets(TARGETS)))
        return drafted


def renew(folder: RepositoryFolder, role: str) -> list[Path]:
    """Draft a role's next version with a new expiry and else as it is."""
    with folder.locked():
        signed = next_root(folder) if role == ROOT else folder.next_targets(role)
        return [folder.put_draft(role, signed)]


def next_root(folder: RepositoryFolder) -> Root:
    """The next root to change, as drafted or as published so far."""
    draft = folder.drafts().get(ROOT)
    files = folder.files()
    if draft is not None:
        metadata: Metadata[Root] | Metadata[Targets] = draft.metadata
    elif versions_of(files, ROOT):
        metadata = newest_root(files)
    else:
        raise NotFoundError("there is no repository here", hint="`bundle repo init` makes one")
    root = metadata.signed
    assert isinstance(root, Root)
    return renewed(ROOT, root, utc_now(), max(versions_of(files, ROOT), default=0) + 1)


def _drop_officer(root: Root, leaver: str, roles: Sequence[str]) -> set[str]:
    """Take an officer's keys out of the roles; the ids of those keys."""
    found = [
        (keyid, role)
        for role in roles
        for keyid in root.roles[role].keyids
        if owner_of(root.keys[keyid]) == leaver
    ]
    if not found:
        officers = sorted({named(root.keys[k]) for role in roles for k in root.roles[role].keyids})
        raise NotFoundError(f"no officer is called {leaver[:60]!r}", hint="; ".join(officers))
    for keyid, role in found:
        root.revoke_key(keyid, role)
    return {keyid for keyid, _role in found}
