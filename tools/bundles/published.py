"""A complete set of published metadata, read from files by name. Signatures are not judged here.

Consistent snapshots: `timestamp.json` names a snapshot, which names one version of every role;
`N.root.json` of all N form a chain. Files that nothing names are left over, and harmless.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from tools.bundles.errors import BrokenRepositoryError
from tools.bundles.roles import TARGETS

TIMESTAMP_FILE = "timestamp.json"

_FILE = re.compile(r"(?:(?P<version>[1-9][0-9]{0,17})\.)?(?P<role>[a-z0-9_-]{1,40})\.json")

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


def file_name(role: str, version: int) -> str:
    return f"{version}.{role}.json"


def parse_file_name(name: str) -> tuple[str, int] | None:
    """Role and version of a file, or None if it is none of ours; `timestamp.json` has version 0."""
    found = _FILE.fullmatch(name)
    if found is None or (found["version"] is None and name != TIMESTAMP_FILE):
        return None
    return found["role"], int(found["version"] or 0)


def read_files(folder: Path) -> dict[str, bytes]:
    """All metadata files of a folder by name; empty if there is no such folder."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return {path.name: path.read_bytes() for path in paths if parse_file_name(path.name)}


def versions_of(files: Mapping[str, bytes], role: str) -> list[int]:
    """Versions of a role that lie there, ascending."""
    parsed = (parse_file_name(name) for name in files)
    return sorted(found[1] for found in parsed if found and found[0] == role)


class PublishedSet:
    """What the files say; raises BrokenRepositoryError for what is missing or does not fit."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.root = newest_root(files)
        self.timestamp = load(files, TIMESTAMP_FILE, Timestamp)
        named = self.timestamp.signed.snapshot_meta
        self.snapshot = load(files, file_name("snapshot", named.version), Snapshot, named)
        self.targets = self._role(TARGETS)

    @property
    def versions(self) -> dict[str, int]:
        """The version of every role but the online ones, also of those that left."""
        meta = self.snapshot.signed.meta
        return {name.removesuffix(".json"): named.version for name, named in meta.items()}

    def role(self, role: str) -> Metadata[Targets] | None:
        """What a publisher signed, delegated or not; None if it never published."""
        return self._role(role) if f"{role}.json" in self.snapshot.signed.meta else None

    def bytes_of(self, role: str) -> bytes:
        """The file of `targets` or of a publisher that is in the snapshot."""
        return self.files[file_name(role, self.versions[role])]

    def _role(self, role: str) -> Metadata[Targets]:
        named = self.snapshot.signed.meta.get(f"{role}.json")
        if named is None:
            raise BrokenRepositoryError(f"the snapshot does not name {role}")
        return load(self.files, file_name(role, named.version), Targets, named)


def newest_root(files: Mapping[str, bytes]) -> Metadata[Root]:
    """The end of the chain of roots; raises BrokenRepositoryError if a link is missing."""
    versions = versions_of(files, "root")
    if not versions or versions != list(range(1, len(versions) + 1)):
        raise BrokenRepositoryError(
            f"the roots that lie there are {versions or 'none'}, not 1, 2, 3 and so on",
            hint="clients follow the chain from the first; bring the missing file back",
        )
    return load(files, file_name("root", versions[-1]), Root)


def load(
    files: Mapping[str, bytes], name: str, kind: type[S], named: MetaFile | None = None
) -> Metadata[S]:
    """A file that must be there, of that kind, and the one that `named` means."""
    data = files.get(name)
    if data is None:
        raise BrokenRepositoryError(f"{name} is missing", hint="bring it back from a copy")
    return parse(data, name, kind, named)


def parse(data: bytes, name: str, kind: type[S], named: MetaFile | None = None) -> Metadata[S]:
    """Like `load`, from bytes."""
    try:
        metadata: Metadata[S] = Metadata.from_bytes(data)
        if named is not None:
            named.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise BrokenRepositoryError(f"{name} is not the file that was published") from error
    except (RepositoryError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise BrokenRepositoryError(f"{name} is not metadata: {str(error)[:200]}") from error
    if not isinstance(metadata.signed, kind):
        raise BrokenRepositoryError(f"{name} is of type {metadata.signed.type}")
    if named is not None and metadata.signed.version != named.version:
        raise BrokenRepositoryError(f"{name} says it is version {metadata.signed.version}")
    return metadata
