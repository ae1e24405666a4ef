"""TUF metadata through python-tuf's public API: run the client workflow, and see what it proved.

Knows formats and signatures, and translates python-tuf's errors into our twelve codes; which state
is kept is `store.py`'s business. Importing this module imports python-tuf (23 MiB, a third of a
second): only `store.py` and `roots.py` do, and late.
"""

import contextlib
import datetime
import errno
import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Signature
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    SlowRetrievalError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from appliance.trust.errors import TrustCode, TrustError
from appliance.trust.fetch import NOT_FOUND, Reader, Source
from appliance.trust.floor import Held

ISSUED_FIELD = "x-issued"  # our field of the timestamp: when it was signed, RFC 3339 in UTC
REVOKED_FIELD = "revoked"  # custom field of a target: true takes the release back
MAX_NAME_CHARS = 1024

# Signed nonsense makes Python's own parsers and encoders raise these; an unsigned one too
_NONSENSE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
_HISTORY = "root_history"
_MAX_TOLD_CHARS = 100  # of a stranger's text in a message of ours

_Visit = tuple[str, Root | Targets | None]  # a role, and who delegated to it


@dataclass(frozen=True, slots=True)
class SignedTarget:
    """What a publisher signed about one name: the length in bytes and digests by algorithm.

    `is_revoked`: it is listed only so that boxes hear that they should not use it any more.
    """

    name: str
    length: int
    hashes: Mapping[str, str]
    expires_s: int
    is_revoked: bool = False

    @property
    def sha256(self) -> str:
        """The digest in hex that names the index's bytes; raises TrustError (digest)."""
        if digest := self.hashes.get("sha256"):
            return digest
        raise TrustError.of(TrustCode.DIGEST, f"{self.name} is signed without a sha256")


def run_client(
    folder: Path,
    pinned: bytes,
    source: Source,
    wanted: Sequence[str],
    hoped: Sequence[str] = (),
) -> TrustError | None:
    """Bring the metadata in `folder` up to date and look the names up (TUF spec, 5.3-5.6); those
    that are only hoped for need not be listed.

    `folder` holds what an earlier run left, or nothing; python-tuf writes verified files into it,
    also before it fails. Returns why it stopped early, if it did; raises OSError if the folder
    cannot be written.
    """
    fetcher = _Recorder(source.reader)
    try:
        updater = Updater(
            str(folder),
            source.base_url,
            fetcher=fetcher,
            config=UpdaterConfig(),
            bootstrap=pinned,
        )
        updater.refresh()
        for name in wanted:
            if len(name) > MAX_NAME_CHARS or updater.get_targetinfo(name) is None:
                return TrustError.of(TrustCode.NOT_LISTED, f"no publisher lists {name[:100]!r}")
        for name in hoped:
            if len(name) <= MAX_NAME_CHARS:
                updater.get_targetinfo(name)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # which is a role's name, and the publisher's fault
            raise
        return _translated(error, fetcher, folder)
    except (RepositoryError, DownloadError, *_NONSENSE) as error:
        return _translated(error, fetcher, folder)
    return None


def files_of(folder: Path) -> dict[str, bytes]:
    """The metadata files in a folder of python-tuf's, by relative path, links resolved."""
    paths = [*folder.glob("*.json"), *folder.glob(f"{_HISTORY}/*.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def check_root(data: bytes) -> Root:
    """The root in `data`, signed by enough of its own keys; raises TrustError."""
    try:
        metadata = Metadata[Root].from_bytes(data)
        root = metadata.signed
        if root.type != Root.type:
            raise TrustError.of(TrustCode.MALFORMED, f"a {root.type} is not a root of trust")
        root.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError as error:
        raise TrustError.of(
            TrustCode.SIGNATURE, f"the root does not sign itself: {error}"
        ) from error
    except (RepositoryError, *_NONSENSE) as error:
        raise TrustError.of(TrustCode.MALFORMED, f"not a root of trust: {error}") from error
    return root


def root_digest(data: bytes) -> bytes:
    """SHA-256 of what the root's signatures cover: the same whoever signed, in any order."""
    return hashlib.sha256(Metadata[Root].from_bytes(data).signed_bytes).digest()


def is_signed_by_root(
    root: bytes, document: Mapping[str, object], signatures: Mapping[str, str]
) -> bool:
    """Whether enough keys of a checked root signed the canonical form of a JSON document.

    signatures  in hex, by the id of the key
    """
    try:
        payload = encode_canonical(dict(document))
        given = {keyid: Signature(keyid, text) for keyid, text in signatures.items()}
        signed = Metadata[Root].from_bytes(root).signed
    except (FormatError, RepositoryError, *_NONSENSE):
        return False
    return payload is not None and _are_enough(signed, Root.type, payload.encode(), given)


class _Recorder(FetcherInterface):
    """Counts bytes, and remembers the last file: an error means another thing for each role."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.last_name = ""
        self.last_data = b""

    def _fetch(self, url: str) -> Generator[bytes, None, None]:
        return self._reader.chunks(url)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """At most `max_length` bytes, in memory; the base class goes through a temporary file."""
        self.last_name, self.last_data = url.rpartition("/")[2], b""
        data = bytearray()
        with contextlib.closing(self._reader.chunks(url)) as chunks:
            for chunk in chunks:
                data += chunk
                if len(data) > max_length:
                    raise DownloadLengthMismatchError(f"longer than {max_length} bytes")
        self.last_data = bytes(data)
        return self.last_data


def _translated(error: Exception, fetcher: _Recorder, folder: Path) -> TrustError:
    text = f"{fetcher.last_name[:_MAX_TOLD_CHARS]}: {error}"[: 3 * _MAX_TOLD_CHARS]
    told = "".join(character if character.isprintable() else "?" for character in text)
    translated = TrustError.of(_code(error, fetcher, folder), told)
    translated.__cause__ = error
    return translated


def _code(error: Exception, fetcher: _Recorder, folder: Path) -> TrustCode:
    match error:
        case DownloadLengthMismatchError():
            return TrustCode.TOO_LARGE
        case SlowRetrievalError():
            return TrustCode.STALLED
        case DownloadHTTPError(status_code=status):
            return TrustCode.INCOMPLETE if status == NOT_FOUND else TrustCode.UNREACHABLE
        case DownloadError():
            return TrustCode.UNREACHABLE
        case DeserializationError():
            return TrustCode.MALFORMED
        case UnsignedMetadataError():
            return TrustCode.SIGNATURE
        case ExpiredMetadataError():
            return TrustCode.EXPIRED
        case BadVersionNumberError():
            return _code_of_version(fetcher, folder)
        case LengthOrHashMismatchError() | RepositoryError():
            return TrustCode.MIX
        case _:
            return TrustCode.MALFORMED


def _code_of_version(fetcher: _Recorder, folder: Path) -> TrustCode:
    """A version other than the one that the file above it names is a mix; a lower one, rollback."""
    role = fetcher.last_name.removesuffix(".json").rpartition(".")[2]
    if role in {"timestamp", "root"}:
        return TrustCode.ROLLBACK
    if role != "snapshot":
        return TrustCode.MIX
    timestamp = _load(Timestamp, (folder / "timestamp.json").read_bytes())
    snapshot = _load(Snapshot, fetcher.last_data)
    if timestamp is None or snapshot is None:
        return TrustCode.MIX
    is_named = snapshot.signed.version == timestamp.signed.snapshot_meta.version
    return TrustCode.ROLLBACK if is_named else TrustCode.MIX


class Proof:
    """What some files prove, from the root down: each role only by the one above it.

    A file that does not verify is one that the next run replaces: torn, or of a revoked key.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        self._versions: dict[str, int] = {}
        self._expires: dict[str, int] = {}
        self._root: Root | None = None
        self._timestamp: Timestamp | None = None
        self._targets: dict[str, Targets] = {}
        self._climb_down()

    def held(self) -> Held:
        return Held(
            epoch=_epoch(self._root) if self._root else "",
            versions=self._versions,
            expires_s=self._expires,
            issued_s=_issued_s(self._timestamp) if self._timestamp else None,
        )

    def find(self, name: str) -> SignedTarget | None:
        """The first role in delegation order that lists the name (TUF spec, 5.6.7).

        None also when a role on the way is not held: it might have listed another file.
        """
        waiting: list[_Visit] = [("targets", self._root)]
        visited: set[str] = set()
        while waiting and len(visited) <= UpdaterConfig.max_delegations:
            role, parent = waiting.pop()
            if role in visited:
                continue
            visited.add(role)
            signed = self._targets.get(role)
            if signed is None or parent is None or not self._is_signed_by(parent, role):
                return None
            if target := signed.targets.get(name):
                expires_s = int(signed.expires.timestamp())
                is_revoked = (target.custom or {}).get(REVOKED_FIELD) is True
                return SignedTarget(name, target.length, dict(target.hashes), expires_s, is_revoked)
            waiting = _delegated(signed, name, waiting)
        return None

    def _is_signed_by(self, parent: Root | Targets, role: str) -> bool:
        metadata = _load(Targets, self._files[f"{quote(role, '')}.json"])
        return metadata is not None and _verifies(parent, role, metadata)

    def _climb_down(self) -> None:
        self._root = root = self._verified(Root, "root", None)
        if root is None:
            return
        self._timestamp = timestamp = self._verified(Timestamp, "timestamp", root)
        if timestamp is None:
            return
        named = timestamp.snapshot_meta.version
        snapshot = self._verified(Snapshot, "snapshot", root, named)
        if snapshot is not None:
            self._climb_targets(root, {k: meta.version for k, meta in snapshot.meta.items()})

    def _climb_targets(self, root: Root, named: Mapping[str, int]) -> None:
        """Delegations form any graph; each round uses what the round before verified."""
        found = {"targets": self._verified(Targets, "targets", root, named.get("targets.json", 0))}
        left = {unquote(name.removesuffix(".json")) for name in self._files if "/" not in name}
        left -= {"root", "timestamp", "snapshot", "targets"}
        while parents := {role: signed for role, signed in found.items() if signed}:
            self._targets |= parents
            found = {}
            for parent in parents.values():
                for role in left:
                    version = named.get(f"{role}.json", 0)
                    found[role] = found.get(role) or self._verified(Targets, role, parent, version)
            left -= {role for role, signed in found.items() if signed}

    def _verified(
        self, kind: type[Any], role: str, parent: Root | Targets | None, version: int | None = None
    ) -> Any:
        """The role's payload if `parent` (None: itself) signed it and it has the named version."""
        metadata = _load(kind, self._files.get(f"{quote(role, '')}.json", b""))
        if metadata is None or (version is not None and metadata.signed.version != version):
            return None
        if not _verifies(parent or metadata.signed, role, metadata):
            return None
        self._versions[role] = metadata.signed.version
        self._expires[role] = int(metadata.signed.expires.timestamp())
        return metadata.signed


def _verifies(parent: Root | Targets, role: str, metadata: Metadata[Any]) -> bool:
    return _are_enough(parent, role, metadata.signed_bytes, metadata.signatures)


def _are_enough(
    parent: Root | Targets, role: str, payload: bytes, signatures: dict[str, Signature]
) -> bool:
    """Whether enough *different* keys signed: python-tuf counts key ids, and a key may have two."""
    try:
        result = parent.get_verification_result(role, payload, signatures)
        keys = {json.dumps(key.keyval, sort_keys=True) for key in result.signed.values()}
    except (RepositoryError, *_NONSENSE):
        return False
    return len(keys) >= result.threshold


def _delegated(signed: Targets, name: str, waiting: list[_Visit]) -> list[_Visit]:
    """The stack of roles to visit, with those on top that `signed` delegates the name to."""
    children: list[_Visit] = []
    if signed.delegations is not None:
        for child, is_terminating in signed.delegations.get_roles_for_target(name):
            children.append((child, signed))
            if is_terminating:
                return children[::-1]
    return waiting + children[::-1]


def _load(kind: type[Any], data: bytes) -> Metadata[Any] | None:
    with contextlib.suppress(RepositoryError, *_NONSENSE):
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        if isinstance(metadata.signed, kind):
            return metadata
    return None


def _epoch(root: Root) -> str:
    """Who may sign the online roles: it changes when and only when the root says so."""
    online = {
        role: [sorted(root.roles[role].keyids), root.roles[role].threshold]
        for role in (Timestamp.type, Snapshot.type)
    }
    return hashlib.sha256(json.dumps(online, sort_keys=True).encode()).hexdigest()


def _issued_s(timestamp: Timestamp) -> int | None:
    text = timestamp.unrecognized_fields.get(ISSUED_FIELD)
    try:
        moment = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return int(moment.timestamp()) if moment.tzinfo else None
