"""Releases of Hearth itself: read one that was brought or is offered, and trust none of it before
the signature over its hashes is that of the pinned key.

A release is what tools/wheelhouse makes: a folder, the same as one tar file, or the same on a web
server. `SHA256SUMS.sig` is an Ed25519 signature over `SHA256SUMS`; only files that are listed there
are ever copied, and each is hashed while it is copied into a folder that is root's alone. So
whoever owns the source may change it at any moment and gains nothing. Blocking: for a command.
"""

import hashlib
import io
import os
import re
import stat
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import quote

from appliance.errors import ApplianceError

SUMS, SIGNATURE, FACTS = "SHA256SUMS", "SHA256SUMS.sig", "RELEASE"
MAX_SMALL_BYTES = 2**20  # of the three files that are read before anything is copied
MAX_FILE_BYTES = 2**31
MAX_FILES = 2000
_CHUNK_BYTES = 2**20
_TIMEOUT_S = 30
_LINE = re.compile(
    r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._+@-]*(?:/[A-Za-z0-9][A-Za-z0-9._+@-]*)*)"
)
_VERSION = re.compile(r"\d+(?:\.\d+)*")


class ReleaseError(ApplianceError):
    """The release is refused, and nothing of it ran; the message says why, the hint the cure."""

    code = "bad_release"


class Source(Protocol):
    """Where a release lies."""

    def open(self, name: str) -> BinaryIO:
        """Open one file of it, for reading; raises ReleaseError if it is not there."""


@dataclass(frozen=True, slots=True)
class Release:
    """What a pinned key has signed: facts, and the digest of each file by its name."""

    source: Source
    sums: bytes
    files: Mapping[str, str]
    facts: Mapping[str, str]

    @property
    def version(self) -> str:
        return self.facts["version"]

    def copy_to(self, folder: Path) -> None:
        """Copy every listed file, hashed on the way; raises ReleaseError, OSError."""
        for name, digest in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.source.open(name) as data, path.open("xb") as out:
                if _copy(data, out) != digest:
                    raise _damaged(name)
        (folder / "install.sh").chmod(0o755)
        (folder / SUMS).write_bytes(self.sums)


def read_release(source: Source, keys: bytes) -> Release:
    """Verify what the release says of itself. `keys`: pinned public keys, one or more PEM blocks.

    Raises ReleaseError.
    """
    sums = _small(source, SUMS)
    _check_signature(sums, _small(source, SIGNATURE), keys)
    files = _parse(sums)
    text = _small(source, FACTS)
    if hashlib.sha256(text).hexdigest() != files.get(FACTS):
        raise _damaged(FACTS)
    facts = dict(line.split("=", 1) for line in text.decode().splitlines() if "=" in line)
    if not _VERSION.match(facts.get("version", "")):
        raise ReleaseError("the release does not say its version", hint="Make it again.")
    return Release(source, sums, files, facts)


def is_newer(version: str, than: str) -> bool:
    """By the numbers of both, 0.10 after 0.9; what follows the numbers decides nothing."""
    return _numbers(version) > _numbers(than)


@contextmanager
def open_source(place: str) -> Iterator[Source]:
    """The release at a path (folder or tar) or a web address; raises ReleaseError."""
    if re.match(r"https?://", place):
        yield _Web(place.rstrip("/"))
    elif os.path.isdir(place):  # noqa: PTH112 - a word of the command line, not yet a Path
        yield _Folder(Path(place))
    else:
        with _regular(Path(place)) as data:
            try:
                archive = tarfile.open(fileobj=data, mode="r:")  # noqa: SIM115 - entered below
            except tarfile.TarError as error:
                raise ReleaseError(
                    f"{place} is no release: {error}", hint="Give a folder or a .tar of wheelhouse."
                ) from error
            with archive:
                yield _Tar(archive)


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, name: str) -> BinaryIO:
        return _regular(self._folder / name)


class _Tar:
    """Names inside are below one folder, like hearth-0.2.0-amd64/RELEASE."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members: dict[str, tarfile.TarInfo] = {}
        try:
            for member in archive:
                self._members[member.name.partition("/")[2]] = member
                if len(self._members) > MAX_FILES * 2:
                    break
        except (tarfile.TarError, EOFError) as error:
            raise ReleaseError(
                f"the tar file is damaged: {error}", hint="Copy it again."
            ) from error

    def open(self, name: str) -> BinaryIO:
        member = self._members.get(name)
        data = self._archive.extractfile(member) if member and member.isreg() else None
        if data is None:
            raise _absent(name)
        return io.BufferedReader(data)  # type: ignore[type-var]


class _Web:
    def __init__(self, base: str) -> None:
        self._base = base

    def open(self, name: str) -> BinaryIO:
        url = f"{self._base}/{quote(name)}"
        try:
            answer: BinaryIO = urllib.request.urlopen(url, timeout=_TIMEOUT_S)  # noqa: S310 - http(s)
        except urllib.error.HTTPError as error:
            raise _absent(f"{url} ({error.code})") from error
        except OSError as error:
            raise ReleaseError(
                f"{url} cannot be reached: {error}", hint="Nothing was changed; try again later."
            ) from error
        return answer


def _regular(path: Path) -> BinaryIO:
    """Open a regular file that is no link: the folder may belong to somebody else."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _absent(f"{path} ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise _absent(f"{path} (not a file)")
    return os.fdopen(number, "rb")


def _small(source: Source, name: str) -> bytes:
    with source.open(name) as data:
        found = data.read(MAX_SMALL_BYTES + 1)
    if len(found) > MAX_SMALL_BYTES:
        raise ReleaseError(f"{name} is longer than {MAX_SMALL_BYTES} bytes", hint="Copy it again.")
    return found


def _check_signature(sums: bytes, signature: bytes, keys: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    blocks = re.findall(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", keys, re.DOTALL)
    for block in blocks:
        key = load_pem_public_key(block)
        if isinstance(key, Ed25519PublicKey):
            try:
                key.verify(signature, sums)
            except InvalidSignature:
                continue
            return
    raise ReleaseError(
        "the release is not signed by the key that this box trusts",
        hint="Nothing of it ran. Take one from who made this box's Hearth, or install it by hand: "
        "sudo ./install.sh in its folder.",
    )


def _parse(sums: bytes) -> dict[str, str]:
    files: dict[str, str] = {}
    for line in sums.decode("ascii", "replace").splitlines():
        found = _LINE.fullmatch(line)
        if found is None or len(files) >= MAX_FILES:
            raise ReleaseError(f"{SUMS} has a line that is no hash and name: {line[:80]!r}")
        files[found[2]] = found[1]
    return files


def _copy(data: BinaryIO, out: BinaryIO) -> str:
    digest, count = hashlib.sha256(), 0
    while chunk := data.read(_CHUNK_BYTES):
        count += len(chunk)
        if count > MAX_FILE_BYTES:
            raise ReleaseError(f"a file is longer than {MAX_FILE_BYTES} bytes")
        digest.update(chunk)
        out.write(chunk)
    return digest.hexdigest()


def _numbers(version: str) -> list[int]:
    found = _VERSION.match(version)
    return [int(part) for part in found[0].split(".")] if found else []


def _absent(name: str) -> ReleaseError:
    return ReleaseError(
        f"the release has no {name}", hint="It is incomplete or unsigned: copy all of it again."
    )


def _damaged(name: str) -> ReleaseError:
    return ReleaseError(
        f"{name} is not what was signed", hint="Nothing was changed. Copy the release again."
    )
