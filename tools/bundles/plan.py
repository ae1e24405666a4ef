"""The next state of a repository, from what is published and what officers and publishers signed.

Rules without files. A draft counts only once it is signed by enough keys, all others wait. The
order of writing is part of the plan: whenever the writer dies, clients find a set they accept.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tuf.api.metadata import Metadata, MetaFile, Root, Signer, Snapshot, Targets, Timestamp

from tools.bundles.errors import BrokenRepositoryError, RepositoryRefusedError
from tools.bundles.published import (
    TIMESTAMP_FILE,
    PublishedSet,
    file_name,
    load,
    newest_root,
    parse_file_name,
    versions_of,
)
from tools.bundles.roles import (
    ONLINE_ROLES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    delegated_roles,
    is_root_signed,
    is_signed,
    issued,
    lifetime,
    renewed,
    stamp_issued,
)

_HASHES = ["sha256"]


@dataclass(frozen=True, slots=True)
class Draft:
    """A role's next version, signed by nobody yet or by some; `data` is its file."""

    metadata: Metadata[Root] | Metadata[Targets]
    data: bytes

    @property
    def version(self) -> int:
        return self.metadata.signed.version


@dataclass(frozen=True, slots=True)
class Plan:
    """`files` is what is published afterwards, `order` the new ones in the order of writing."""

    files: Mapping[str, bytes]
    order: tuple[str, ...]
    taken: tuple[str, ...] = field(default=())  # roles whose drafts went in


class Planner:
    """Makes one plan. `files` are those that are published, and perhaps leftovers."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        drafts: Mapping[str, Draft],
        now: datetime.datetime,
        *,
        recover: bool = False,
    ) -> None:
        """`recover`: trust no snapshot and timestamp that lie there, their key was stolen."""
        self._files = files
        self._drafts = drafts
        self._now = now
        self._recover = recover
        self._before = PublishedSet(files) if TIMESTAMP_FILE in files and not recover else None
        self._old_root = newest_root(files).signed if versions_of(files, ROOT) else None
        self._new: dict[str, bytes] = {}
        self._taken: list[str] = []

    def plan(self, signers: Sequence[Signer]) -> Plan:
        """The next state, its snapshot and timestamp signed by all of `signers`.

        Raises RepositoryRefusedError for what could not be published at all.
        """
        self._check_clock()
        root = self._choose_root()
        self._check_signers(root, signers)
        if self._recover:
            self._check_recovery(root)
        versions = self._choose_roles(root)
        snapshot = self._snapshot(root, versions, signers)
        self._timestamp(root, snapshot, signers)
        files = {**self._files, **self._new}
        new = {name for name, data in self._new.items() if self._files.get(name) != data}
        return Plan(files, writing_order(self._old_root, files, new), tuple(self._taken))

    def _check_clock(self) -> None:
        last = issued(self._before.timestamp.signed) if self._before else None
        if last is not None and self._now < last:
            raise RepositoryRefusedError(
                f"the clock says {self._now:%Y-%m-%d %H:%M}, but the last state was issued "
                f"at {last:%Y-%m-%d %H:%M}; boxes would take this for a rollback",
                hint="set this machine's clock",
            )

    def _check_signers(self, root: Root, signers: Sequence[Signer]) -> None:
        """Each must be, or once have been, the online key: another file is a mistake.

        Once, because a publisher who died tries again with the key that is former by now.
        """
        chain = [file_name(ROOT, version) for version in versions_of(self._files, ROOT)]
        roots = [root, *(load(self._files, name, Root).signed for name in chain)]
        known = {keyid for root in roots for keyid in root.roles[TIMESTAMP].keyids}
        if any(signer.public_key.keyid not in known for signer in signers):
            raise RepositoryRefusedError(
                "this key may not sign snapshot and timestamp",
                hint="use the online key that the root names: `bundle repo status` shows it",
            )

    def _check_recovery(self, root: Root) -> None:
        """Boxes forget a thief's numbers only when the root names other online keys."""
        try:
            timestamp = load(self._files, TIMESTAMP_FILE, Timestamp)
        except BrokenRepositoryError:
            return
        if is_signed(TIMESTAMP, timestamp, root):
            raise RepositoryRefusedError(
                "the state that lies there is signed by the root's online key; there is nothing "
                "to recover from, or the stolen key is still in the root",
                hint="publish without --recover, or first `bundle repo rotate online NEWKEY`",
            )

    def _choose_root(self) -> Root:
        draft = self._drafts.get(ROOT)
        if draft is not None and isinstance(draft.metadata.signed, Root):
            metadata: Metadata[Root] = Metadata.from_bytes(draft.data)
            if is_root_signed(metadata, self._old_root):
                self._take(ROOT, draft)
                return metadata.signed
        if self._old_root is None:
            raise RepositoryRefusedError(
                "the first root is not signed by enough officers yet",
                hint="`bundle repo status` shows who is missing",
            )
        return self._old_root

    def _choose_roles(self, root: Root) -> dict[str, MetaFile]:
        """What the snapshot will say: new versions over the old ones, none ever taken out.

        Clients refuse a snapshot that has lost a role, also one that nobody delegates to.
        """
        meta = dict(self._before.snapshot.signed.meta) if self._before else {}
        if self._recover:
            meta |= self._leftovers()
        targets = self._choose(TARGETS, root, meta)
        if targets is None:
            raise RepositoryRefusedError(
                "targets is not signed by enough officers for this root",
                hint="sign its draft first, or make one with `bundle repo renew targets`",
            )
        for role in delegated_roles(targets):
            self._choose(role, targets, meta)
        return meta

    def _choose(
        self, role: str, above: Root | Targets, meta: dict[str, MetaFile]
    ) -> Targets | None:
        """The draft if `above` accepts it, else what is published if that is accepted."""
        draft = self._drafts.get(role)
        if draft is not None and is_signed(role, draft.metadata, above):
            self._take(role, draft)
            meta[f"{role}.json"] = MetaFile.from_data(draft.version, draft.data, _HASHES)
            return Metadata[Targets].from_bytes(draft.data).signed
        versions = versions_of(self._files, role)[::-1] if self._recover else []
        if self._before and f"{role}.json" in meta:
            versions = [meta[f"{role}.json"].version]
        for version in versions:
            data = self._files[file_name(role, version)]
            metadata: Metadata[Targets] = Metadata.from_bytes(data)
            if is_signed(role, metadata, above):
                meta[f"{role}.json"] = MetaFile.from_data(version, data, _HASHES)
                return metadata.signed
        return None

    def _leftovers(self) -> dict[str, MetaFile]:
        """The newest file of every role, for those that nobody delegates to any more."""
        newest: dict[str, int] = {}
        for name in self._files:
            role, version = parse_file_name(name) or (ROOT, 0)
            if role not in {ROOT, *ONLINE_ROLES}:
                newest[role] = max(version, newest.get(role, 0))
        return {
            f"{role}.json": MetaFile.from_data(
                version, self._files[file_name(role, version)], _HASHES
            )
            for role, version in newest.items()
        }

    def _snapshot(
        self, root: Root, meta: dict[str, MetaFile], signers: Sequence[Signer]
    ) -> MetaFile:
        """The snapshot that is published if it says the same and is good for long, else a new one.

        A second signer means that keys change: then it is signed by both.
        """
        before = self._before
        if before is not None:
            old = before.snapshot
            is_fresh = old.signed.expires - self._now > lifetime(SNAPSHOT) / 2
            is_good = is_signed(SNAPSHOT, old, root) and len(signers) == 1
            if is_fresh and is_good and old.signed.meta == meta:
                return before.timestamp.signed.snapshot_meta
        version = before.snapshot.signed.version + 1 if before else self._unused(SNAPSHOT)
        signed = renewed(SNAPSHOT, Snapshot(meta=meta), self._now, version)
        data = _sign(Metadata(signed), SNAPSHOT, root, signers)
        self._new[file_name(SNAPSHOT, version)] = data
        return MetaFile.from_data(version, data, _HASHES)

    def _timestamp(self, root: Root, snapshot: MetaFile, signers: Sequence[Signer]) -> None:
        version = self._before.timestamp.signed.version + 1 if self._before else 1
        signed = renewed(TIMESTAMP, Timestamp(snapshot_meta=snapshot), self._now, version)
        stamp_issued(signed, self._now)
        self._new[TIMESTAMP_FILE] = _sign(Metadata(signed), TIMESTAMP, root, signers)

    def _unused(self, role: str) -> int:
        """The first number that no file has: a thief may have counted far ahead."""
        used = set(versions_of(self._files, role))
        return next(number for number in range(1, len(used) + 2) if number not in used)

    def _take(self, role: str, draft: Draft) -> None:
        self._new[file_name(role, draft.version)] = draft.data
        self._taken.append(role)


def writing_order(
    before: Root | None, files: Mapping[str, bytes], new: set[str]
) -> tuple[str, ...]:
    """The order in which new files may appear to clients that trust `before`.

    Nothing is looked at before `timestamp.json` names it, except a root: it counts at once. So it
    comes first, unless clients of the old root accept the new timestamp too. Then it comes last:
    the key that it revokes has signed what is there until then, and the new one as well.
    """
    roots = sorted(
        (name for name in new if (parse_file_name(name) or ("", 0))[0] == ROOT),
        key=lambda name: parse_file_name(name) or ("", 0),
    )
    others = sorted(new.difference(roots) - {TIMESTAMP_FILE})
    last = [TIMESTAMP_FILE] if TIMESTAMP_FILE in new else []
    if before is not None and roots and _is_accepted_by(before, PublishedSet(files)):
        return (*others, *last, *roots)
    return (*roots, *others, *last)


def _is_accepted_by(root: Root, published: PublishedSet) -> bool:
    return (
        is_signed(TIMESTAMP, published.timestamp, root)
        and is_signed(SNAPSHOT, published.snapshot, root)
        and is_signed(TARGETS, published.targets, root)
    )


def _sign(
    metadata: Metadata[Snapshot] | Metadata[Timestamp],
    role: str,
    root: Root,
    signers: Sequence[Signer],
) -> bytes:
    for signer in signers:
        metadata.sign(signer, append=True)
    if not is_signed(role, metadata, root):
        raise RepositoryRefusedError(
            f"the root names another online key for {role}",
            hint="use that one; after a rotation the old one may be given as --former",
        )
    return metadata.to_bytes()
