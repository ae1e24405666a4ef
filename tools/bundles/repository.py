"""A TUF repository that is being published: what boxes read, and what is still to be signed.

    metadata/   N.root.json, timestamp.json, N.snapshot.json, N.targets.json, N.<publisher>.json
    draft/      next versions of root, targets and publishers, signed by as many as did so far
    history/    the timestamps of the last states, for the replay that comes before every change
    lock        one writer at a time

Only `metadata/` is copied to where boxes read. Every file is written beside its place, made durable
and renamed; `timestamp.json`, which makes a state count, comes after all that it names.
"""

import contextlib
import datetime
import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root, Signer, TargetFile, Targets

from appliance.errors import ConfigError, NotFoundError
from appliance.trust.statefolder import Disk
from tools.bundles.check import Finding, PastState, check_published, check_step
from tools.bundles.errors import BrokenRepositoryError, RepositoryRefusedError
from tools.bundles.plan import Draft, Plan, Planner, writing_order
from tools.bundles.published import (
    TIMESTAMP_FILE,
    PublishedSet,
    file_name,
    newest_root,
    parse,
    parse_file_name,
    read_files,
    versions_of,
)
from tools.bundles.roles import ROOT, TARGETS, delegated_roles, new_targets, renewed, utc_now

KEPT_STATES = 5

_REVOKED = {"revoked": True}


class RepositoryFolder:
    """See the module; `metadata` is the folder `tuf/<repo>/metadata` of a published layout."""

    def __init__(
        self,
        metadata: Path,
        now: Callable[[], datetime.datetime] = utc_now,
        disk: Disk | None = None,
    ) -> None:
        self.metadata = metadata
        self.draft_folder = metadata.parent / "draft"
        self._history = metadata.parent / "history"
        self._now = now
        self._disk = disk or Disk()

    # reading

    def files(self) -> dict[str, bytes]:
        """All files of `metadata/` by name."""
        return read_files(self.metadata)

    def published(self) -> PublishedSet | None:
        """What clients find now, None before the first state; raises BrokenRepositoryError."""
        files = self.files()
        return PublishedSet(files) if TIMESTAMP_FILE in files else None

    def drafts(self) -> dict[str, Draft]:
        """What waits to be signed or published, by role; raises BrokenRepositoryError."""
        found = {}
        for name, data in read_files(self.draft_folder).items():
            role, version = parse_file_name(name) or (ROOT, 0)
            kind: type[Any] = Root if role == ROOT else Targets
            draft = Draft(parse(data, f"draft/{name}", kind), data)
            if version == draft.version == self._next_version(role):
                found[role] = draft
        return found

    def root(self) -> Root | None:
        """The newest published root, else the drafted first one."""
        files = self.files()
        if versions_of(files, ROOT):
            return newest_root(files).signed
        draft = self.drafts().get(ROOT)
        return draft.metadata.signed if draft and isinstance(draft.metadata.signed, Root) else None

    def targets(self) -> Targets | None:
        """Who may list which names: as drafted, else as published."""
        draft = self.drafts().get(TARGETS)
        if draft is not None and isinstance(draft.metadata.signed, Targets):
            return draft.metadata.signed
        published = self.published()
        return published.targets.signed if published else None

    def past_states(self) -> list[PastState]:
        """The last states, oldest first."""
        paths = sorted(self._history.glob("*.json"), key=lambda path: int(path.stem))
        return [PastState.decode(path.read_bytes()) for path in paths]

    # changing

    def add_target(
        self,
        role: str,
        path: str,
        data: bytes,
        signers: Sequence[Signer],
        custom: Mapping[str, Any] | None = None,
    ) -> TargetFile:
        """List `data` under the name `path`; counts once enough keys signed and it is published.

        Raises ConfigError for a name that is not the publisher's, NotFoundError for a publisher
        that is not there, RepositoryRefusedError for a key that is not the publisher's.
        """
        target = TargetFile.from_data(path, data, ["sha256"])
        if custom:
            target.unrecognized_fields["custom"] = dict(custom)
        with self.changing(role, signers) as targets:
            self._check_name(role, path)
            targets.targets[path] = target
        return target

    def remove_target(self, role: str, path: str, signers: Sequence[Signer]) -> None:
        """List a name no longer; raises NotFoundError."""
        with self.changing(role, signers) as targets:
            self._listed(targets, role, path)
            del targets.targets[path]

    def revoke(self, role: str, path: str, signers: Sequence[Signer]) -> None:
        """Go on listing a release, marked as one that must not run any more; NotFoundError."""
        with self.changing(role, signers) as targets:
            target = self._listed(targets, role, path)
            custom = target.custom if isinstance(target.custom, dict) else {}
            target.unrecognized_fields["custom"] = {**custom, **_REVOKED}

    @contextlib.contextmanager
    def changing(self, role: str, signers: Sequence[Signer]) -> Iterator[Targets]:
        """A publisher's next version to change; signed and drafted when the block ends."""
        with self.locked():
            signed = self.next_targets(role)
            yield signed
            self.put_draft(role, signed, signers)

    def next_targets(self, role: str) -> Targets:
        """The next version of targets or of a publisher, as drafted or as published so far."""
        if role != TARGETS and role not in self._delegated():
            raise NotFoundError(
                f"{role[:60]!r} is not a publisher here",
                hint="`bundle repo delegate` makes one; `bundle repo status` lists them",
            )
        draft = self.drafts().get(role)
        if draft is not None:
            signed = draft.metadata.signed
        elif published := self._published_role(role):
            signed = published.signed
        else:
            signed = new_targets(role, self._now())
        assert isinstance(signed, Targets)
        return renewed(role, signed, self._now(), self._next_version(role))

    def put_draft(self, role: str, signed: Root | Targets, signers: Sequence[Signer] = ()) -> Path:
        """Write a role's next version, signed by `signers` only: changed content voids the rest."""
        metadata: Metadata[Any] = Metadata(signed)
        allowed = self._may_sign(role)
        if isinstance(signed, Root):  # its new officers sign as well
            allowed |= set(signed.roles[ROOT].keyids)
        for signer in signers:
            if signer.public_key.keyid not in allowed:
                raise RepositoryRefusedError(
                    f"this key is not one of those that may sign {role}",
                    hint="`bundle repo status` shows them; nothing was changed",
                )
            metadata.sign(signer, append=True)
        return self.write_draft(role, signed.version, metadata.to_bytes())

    def write_draft(self, role: str, version: int, data: bytes) -> Path:
        """Replace a draft's file."""
        self._disk.make_folder(self.draft_folder)
        path = self.draft_folder / file_name(role, version)
        self._write(path, data)
        return path

    # publishing

    def publish(
        self,
        online_signer: Signer,
        now: datetime.datetime | None = None,
        *,
        former: Sequence[Signer] = (),
        recover: bool = False,
    ) -> Plan:
        """Make everything that is signed by enough keys what clients find.

        `former` are online keys that a new root replaces: signing with them too spares clients the
        moment between two files. `recover` takes no word of the snapshot and timestamp that lie
        there. Raises RepositoryRefusedError if some client could not follow; nothing is changed.
        """
        with self.locked():
            drafts = self.drafts()
            return self._advance(drafts, [online_signer, *former], now, recover=recover)

    def refresh(self, online_signer: Signer, now: datetime.datetime | None = None) -> Plan:
        """Say again that this is the newest state; drafts stay drafts."""
        with self.locked():
            if self.published() is None:
                raise RepositoryRefusedError(
                    "nothing is published yet", hint="`bundle repo publish` makes the first state"
                )
            return self._advance({}, [online_signer], now, recover=False)

    def check(self, now: datetime.datetime | None = None) -> list[Finding]:
        """What is wrong with the published set, or will be soon; empty if all is well."""
        return check_published(self.files(), self.drafts(), self.past_states(), now or self._now())

    def copy_to(self, folder: Path) -> list[str]:
        """Bring another copy of `metadata/` up to date, in an order that its readers survive."""
        ours, theirs = self.files(), read_files(folder)
        if TIMESTAMP_FILE not in ours:
            raise BrokenRepositoryError("nothing is published yet")
        new = {name for name, data in ours.items() if theirs.get(name) != data}
        root = newest_root(theirs).signed if versions_of(theirs, ROOT) else None
        order = writing_order(root, ours, new)
        self._disk.make_folder(folder)
        for name in order:
            self._write(folder / name, ours[name])
        return list(order)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only writer; another one fails at once."""
        self._disk.make_folder(self.metadata.parent)
        with (self.metadata.parent / "lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RepositoryRefusedError(
                    "another command is changing this repository", hint="wait until it has ended"
                ) from error
            yield

    # below

    def _advance(
        self,
        drafts: Mapping[str, Draft],
        signers: Sequence[Signer],
        now: datetime.datetime | None,
        *,
        recover: bool,
    ) -> Plan:
        moment = (now or self._now()).replace(microsecond=0)
        plan = Planner(self.files(), drafts, moment, recover=recover).plan(signers)
        fatal = [
            finding
            for finding in check_step(plan.files, self.past_states(), moment)
            if finding.is_fatal
        ]
        if fatal:
            raise RepositoryRefusedError(
                "; ".join(finding.text for finding in fatal), hint=fatal[0].cure
            )
        self._disk.make_folder(self.metadata)
        for name in plan.order:
            self._write(self.metadata / name, plan.files[name])
        self._remember(plan)
        self._sweep()
        return plan

    def _sweep(self) -> None:
        """Remove drafts that are published, and what a crash left beside its place."""
        for name in read_files(self.draft_folder):
            role, version = parse_file_name(name) or (ROOT, 0)
            if version < self._next_version(role):
                self.remove_draft(role, version)
        for folder in (self.metadata, self.draft_folder, self._history):
            for path in folder.glob(".*.new"):
                path.unlink()

    def remove_draft(self, role: str, version: int) -> None:
        (self.draft_folder / file_name(role, version)).unlink(missing_ok=True)

    def _remember(self, plan: Plan) -> None:
        """Keep the state for later replays; a mere refresh replaces the one it refreshed."""
        state = PastState(newest_root(plan.files).signed.version, plan.files[TIMESTAMP_FILE])
        numbers = sorted(int(path.stem) for path in self._history.glob("*.json"))
        is_refresh = set(plan.order) == {TIMESTAMP_FILE}
        number = (numbers or [0])[-1] + (0 if is_refresh and numbers else 1)
        self._disk.make_folder(self._history)
        self._write(self._history / f"{number}.json", state.encode())
        for old in numbers:
            if old <= number - KEPT_STATES:
                (self._history / f"{old}.json").unlink()

    def _write(self, path: Path, data: bytes) -> None:
        temp = path.with_name(f".{path.name}.new")
        self._disk.write(temp, data)
        self._disk.rename(temp, path)
        self._disk.sync_folder(path.parent)

    def _published_role(self, role: str) -> Metadata[Targets] | None:
        published = self.published()
        if published is None:
            return None
        return published.targets if role == TARGETS else published.role(role)

    def _next_version(self, role: str) -> int:
        if role == ROOT:
            return max(versions_of(self.files(), ROOT), default=0) + 1
        try:
            published = self.published()
        except BrokenRepositoryError:  # `check` tells; a thief may have left it so
            return max(versions_of(self.files(), role), default=0) + 1
        return (published.versions.get(role, 0) if published else 0) + 1

    def _delegated(self) -> dict[str, Any]:
        targets = self.targets()
        return delegated_roles(targets) if targets else {}

    def _may_sign(self, role: str) -> set[str]:
        """Key ids that now, or once the drafts are published, may sign the role."""
        drafts = self.drafts()
        if role in {ROOT, TARGETS}:
            roots = [draft.metadata.signed for draft in [drafts.get(ROOT)] if draft]
            roots += [newest_root(self.files()).signed] if versions_of(self.files(), ROOT) else []
            return {k for root in roots if isinstance(root, Root) for k in root.roles[role].keyids}
        published = self.published()
        above = [draft.metadata.signed for draft in [drafts.get(TARGETS)] if draft]
        above += [published.targets.signed] if published else []
        return {
            keyid
            for targets in above
            if isinstance(targets, Targets) and role in delegated_roles(targets)
            for keyid in delegated_roles(targets)[role].keyids
        }

    def _check_name(self, role: str, path: str) -> None:
        delegated = self._delegated()[role]
        if not delegated.is_delegated_path(path):
            raise ConfigError(
                f"{path[:100]!r} is not one of the names of {role}",
                hint=f"it may list {' '.join(delegated.paths or ())}",
            )

    def _listed(self, targets: Targets, role: str, path: str) -> TargetFile:
        if path not in targets.targets:
            raise NotFoundError(f"{role} does not list {path[:100]!r}")
        return targets.targets[path]
