"""Adding one signature to a draft, on whatever machine the folder was carried to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from tools.bundles.errors import RepositoryRefusedError
from tools.bundles.plan import Draft
from tools.bundles.published import (
    TIMESTAMP_FILE,
    PublishedSet,
    file_name,
    load,
    parse_file_name,
)
from tools.bundles.repository import RepositoryFolder
from tools.bundles.roles import ROOT, TARGETS, delegated_roles


@dataclass(frozen=True, slots=True)
class Waiting:
    """A draft with what it replaces, and all that have a say in it, by a name for people."""

    role: str
    draft: Draft
    before: Root | Targets | None
    authorities: Mapping[str, Root | Targets]

    @property
    def keyids(self) -> set[str]:
        """The keys whose signatures count."""
        found: set[str] = set()
        for above in self.authorities.values():
            found.update(above.get_delegated_role(self.role).keyids)
        return found


def folder_of(draft: Path) -> RepositoryFolder:
    """The repository that a file in its `draft/` belongs to; raises RepositoryRefusedError."""
    folder = draft.resolve().parent
    if folder.name != "draft":
        raise RepositoryRefusedError(
            f"{draft} does not lie in the draft folder of a repository",
            hint="carry the whole folder tuf/<name>: what is signed is shown as a change",
        )
    return RepositoryFolder(folder.parent / "metadata")


def waiting(folder: RepositoryFolder, role: str, draft: Draft) -> Waiting:
    """Collect what an officer must see; raises BrokenRepositoryError if files are missing."""
    files = folder.files()
    signed = draft.metadata.signed
    if isinstance(signed, Root):
        return _waiting_root(files, draft, signed)
    published = PublishedSet(files) if TIMESTAMP_FILE in files else None
    root = folder.root()
    drafted_root = folder.drafts().get(ROOT)
    authorities: dict[str, Root | Targets] = {}
    if role == TARGETS:
        if published:
            authorities[f"root {published.root.signed.version}"] = published.root.signed
        if drafted_root and isinstance(drafted_root.metadata.signed, Root):
            new = drafted_root.metadata.signed
            authorities[f"root {new.version}"] = new
        elif root and not published:
            authorities[f"root {root.version}"] = root
        return Waiting(role, draft, published.targets.signed if published else None, authorities)
    targets = folder.targets()
    if targets is not None and role in delegated_roles(targets):
        authorities[f"targets {targets.version}"] = targets
    old = published.role(role) if published else None
    return Waiting(role, draft, old.signed if old else None, authorities)


def add_signature(folder: RepositoryFolder, wait: Waiting, signer: CryptoSigner) -> Draft:
    """Sign a draft as one more; raises RepositoryRefusedError for a key that has no say."""
    if signer.public_key.keyid not in wait.keyids:
        raise RepositoryRefusedError(
            f"this key is not one of those that may sign {wait.role}",
            hint="`bundle repo status` shows them; nothing was signed",
        )
    with folder.locked():
        metadata: Metadata[Any] = Metadata.from_bytes(wait.draft.data)
        metadata.sign(signer, append=True)
        data = metadata.to_bytes()
        folder.write_draft(wait.role, wait.draft.version, data)
    return Draft(metadata, data)


def find_draft(folder: RepositoryFolder, path: Path) -> tuple[str, Draft]:
    """Role and draft of a file; raises RepositoryRefusedError for one that is no next version."""
    role, version = parse_file_name(path.name) or ("", 0)
    draft = folder.drafts().get(role)
    if draft is None or draft.version != version:
        raise RepositoryRefusedError(
            f"{path.name} is not the next version of anything here",
            hint="it is published already, the repository has gone on, or was not carried whole",
        )
    return role, draft


def _waiting_root(files: Mapping[str, bytes], draft: Draft, root: Root) -> Waiting:
    """A root has to satisfy the one before it and itself."""
    authorities: dict[str, Root | Targets] = {}
    before = None
    if root.version > 1:
        before = load(files, file_name(ROOT, root.version - 1), Root).signed
        authorities[f"root {before.version}"] = before
    authorities[f"root {root.version}"] = root
    return Waiting(ROOT, draft, before, authorities)
