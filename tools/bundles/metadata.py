"""Signed metadata on its way: out of a layout, into one, and as an artifact in a registry.

Readers of the destination never see a set that does not belong together: `timestamp.json`, by which
all else counts, is written last. Older metadata never replaces newer. Nothing is believed here but
what protects from mishaps; boxes check the signatures.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tuf.api.metadata import Targets

from appliance.bundles.layout import Layout
from appliance.bundles.release import EMPTY, EMPTY_TYPE, canonical_json, read_json
from appliance.errors import BadRequestError, RegistryError
from appliance.library.manifest import MAX_MANIFEST_BYTES, OCI_MANIFEST_TYPE, Digest
from tools.bundles.errors import RepositoryRefusedError
from tools.bundles.plan import writing_order
from tools.bundles.published import (
    TIMESTAMP_FILE,
    PublishedSet,
    file_name,
    newest_root,
    parse_file_name,
    versions_of,
)
from tools.bundles.roles import ROOT, SNAPSHOT, delegated_roles

MAX_FILE_BYTES = 8 << 20
TUF_TAG = "tuf"
TUF_TYPE = "application/vnd.hearth.tuf.v1"  # an artifact whose layers are metadata files

_FILE_TYPE = "application/vnd.hearth.tuf.file.v1+json"
_TITLE = "org.opencontainers.image.title"
_REPOSITORY = "hearth.repository"

_CHANNEL = re.compile(r"channels/([a-z0-9][a-z0-9_-]{0,39})\.json")

Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Listed:
    """A name that a publisher signed."""

    path: str  # namespace/model/tag
    digest: Digest
    length: int
    role: str
    is_revoked: bool

    @property
    def reference(self) -> str:
        repository, _, tag = self.path.rpartition("/")
        return f"{repository}:{tag}"

    @property
    def channel(self) -> str:
        """The channel's name, of a channel's document; else empty."""
        found = _CHANNEL.fullmatch(self.path)
        return found[1] if found else ""

    @property
    def is_release(self) -> bool:
        """Channels and the like are documents, and have names of other depths or roles."""
        return self.path.count("/") == 2 and self.role not in {"channels", "fleet"}


def listed(published: PublishedSet) -> list[Listed]:
    """All names of all publishers that are delegated to, sorted."""
    found = []
    for role in delegated_roles(published.targets.signed):
        metadata = published.role(role)
        found += _listed_by(role, metadata.signed) if metadata else []
    return sorted(found, key=lambda one: one.path)


def metadata_files(layout: Layout, name: str) -> dict[str, bytes]:
    """What a layout has of repository `name`, by file name; empty if nothing."""
    folder = layout.metadata_path(name)
    names = [file for file in layout.files.names(folder) if parse_file_name(file)]
    return {file: layout.files.read(f"{folder}/{file}", MAX_FILE_BYTES) for file in names}


def write_metadata(layout: Layout, name: str, files: Files) -> list[str]:
    """Bring a layout's copy up to date; returns the files written, in order."""
    theirs = metadata_files(layout, name)
    require_newer(theirs, files, str(layout.root))
    new = {file for file, data in files.items() if theirs.get(file) != data}
    root = newest_root(theirs).signed if versions_of(theirs, ROOT) else None
    order = writing_order(root, files, new)
    for file in order:
        layout.files.write(f"{layout.metadata_path(name)}/{file}", files[file])
    return list(order)


def require_newer(theirs: Files, ours: Files, where: str) -> None:
    """Raise RepositoryRefusedError if ours would take the readers of theirs back."""
    if TIMESTAMP_FILE not in theirs:
        return
    before, after = PublishedSet(theirs), PublishedSet(ours)
    pairs = [
        ("timestamp", before.timestamp.signed.version, after.timestamp.signed.version),
        ("root", before.root.signed.version, after.root.signed.version),
    ]
    for role, seen, given in pairs:
        if given < seen:
            raise RepositoryRefusedError(
                f"{where} has {role} {seen} already, this is {given}; boxes would refuse it",
                hint="publish from the newest copy of the repository",
            )


def current_files(files: Files) -> dict[str, bytes]:
    """What a new box needs: all roots, and the newest of everything else."""
    published = PublishedSet(files)
    snapshot = published.timestamp.signed.snapshot_meta.version
    names = [
        *(file_name(ROOT, version) for version in versions_of(files, ROOT)),
        *(file_name(role, version) for role, version in published.versions.items()),
        file_name(SNAPSHOT, snapshot),
        TIMESTAMP_FILE,
    ]
    return {name: files[name] for name in names if name in files}


@dataclass(frozen=True, slots=True)
class MetadataArtifact:
    """The convenience copy in a registry: an OCI artifact with a layer for each file."""

    name: str  # of the repository of signatures
    files: Mapping[str, tuple[Digest, int]]

    @classmethod
    def of(cls, name: str, files: Files) -> Self:
        return cls(name, {file: (Digest.of(data), len(data)) for file, data in files.items()})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises RegistryError for an artifact that is none of ours."""
        body = read_json(data, "artifact of metadata", MAX_MANIFEST_BYTES)
        try:
            if body.get("artifactType") != TUF_TYPE:
                raise RegistryError(f"the tag {TUF_TAG} is not an artifact of signed metadata")
            files = dict(map(_file_of, body["layers"]))
            name = body["annotations"][_REPOSITORY]
        except (TypeError, LookupError, AttributeError, BadRequestError) as error:
            raise RegistryError("the artifact of signed metadata is damaged") from error
        if not all(parse_file_name(file) for file in files) or not isinstance(name, str):
            raise RegistryError("the artifact of signed metadata names strange files")
        return cls(name, files)

    def encode(self) -> bytes:
        layers = [
            {
                "mediaType": _FILE_TYPE,
                "digest": str(digest),
                "size": size,
                "annotations": {_TITLE: file},
            }
            for file, (digest, size) in sorted(self.files.items())
        ]
        empty = {"mediaType": EMPTY_TYPE, "digest": str(Digest.of(EMPTY)), "size": len(EMPTY)}
        return canonical_json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST_TYPE,
                "artifactType": TUF_TYPE,
                "config": empty,
                "layers": layers,
                "annotations": {_REPOSITORY: self.name},
            }
        )


def _file_of(raw: dict[str, Any]) -> tuple[str, tuple[Digest, int]]:
    return str(raw["annotations"][_TITLE]), (Digest.parse(raw["digest"]), int(raw["size"]))


def _listed_by(role: str, targets: Targets) -> list[Listed]:
    found = []
    for path, target in targets.targets.items():
        custom = target.custom if isinstance(target.custom, dict) else {}
        digest = Digest.parse(f"sha256:{target.hashes.get('sha256', '')}")
        is_revoked = custom.get("revoked") is True
        found.append(Listed(path, digest, target.length, role, is_revoked))
    return found
