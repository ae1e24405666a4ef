"""The repositories that this box trusts: each with a pinned root and the names that it owns.

    <name>/repository.json   what was confirmed: address, names, freshness, fingerprint of the root
    <name>/root.pin.json     the root itself; all trust in the repository starts here
    <name>/...               its metadata (statefolder.py)

A root is trusted because a person compared its fingerprint, never because it was the first to come.
"""

import re
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from appliance.errors import ConfigError, LibraryError, NotFoundError
from appliance.library.names import ModelName
from appliance.trust.clock import RELEASED_S, ClockReading, judge_clock, read_clock
from appliance.trust.errors import TrustCode, TrustError
from appliance.trust.floor import Floor
from appliance.trust.patterns import NamePattern, check_owners, owner_of
from appliance.trust.policy import DEFAULT_FRESHNESS_S, Freshness, freshness_of
from appliance.trust.statefolder import Disk, StateFolder
from appliance.trust.store import TrustStore

MAX_ROOT_BYTES = 512_000  # what python-tuf allows for later roots

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_CONTENT = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?|registry\+https?://[^\s/?#]+/?")
_PIN = "root.pin.json"
_DEFINITION = "repository.json"
_DRAFT, _GONE = ".new-", ".gone-"  # before the names of folders that are none of ours yet, any more
_YOUNG_S = 3600
_GROUPS, _GROUP_DIGITS = 8, 5


class Repository(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an administrator says about a repository. `metadata_url` is empty for sticks only.

    `content` is where bytes may be had, best first: `https://host/path`, a published folder, or
    `registry+https://host`, an OCI registry. Empty: the published folder that holds the metadata.
    `freshness_s` is how old its newest word may be for a new install; 0 turns that off. The root of
    a `is_site` repository is this site's own, and makes `signed` the default mode.
    """

    name: str
    names: tuple[str, ...]
    metadata_url: str = ""
    freshness_s: int = DEFAULT_FRESHNESS_S
    is_site: bool = False
    content: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise ConfigError for a value that cannot be."""
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"{self.name[:60]!r} is not a repository name",
                hint="up to 40 lower-case letters, digits, '-' and '_'",
            )
        if not self.names:
            raise ConfigError(f"{self.name} owns no names", hint="give patterns such as 'acme/*'")
        if self.metadata_url and not self.metadata_url.startswith(("https://", "http://")):
            raise ConfigError(f"{self.metadata_url[:100]!r} is not an http or https address")
        for address in self.content:
            if not _CONTENT.fullmatch(address):
                raise ConfigError(
                    f"{address[:100]!r} is not an address to get releases from",
                    hint="write https://host/path for a published folder, or registry+https://host",
                )
        if self.freshness_s < 0:
            raise ConfigError(f"freshness is {self.freshness_s} s; it must be 0 or more")

    def patterns(self) -> tuple[NamePattern, ...]:
        return tuple(NamePattern.parse(text) for text in self.names)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where to get releases: `content`, else the folder that `metadata_url` lies in."""
        root, tuf, _ = self.metadata_url.rpartition("/tuf/")
        return self.content or ((root,) if tuf else ())


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    repository: Repository
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A root that somebody offers: what a person must see before confirming it."""

    root: bytes
    fingerprint: str
    version: int
    expires: str
    keys: int
    threshold: int

    @property
    def masked(self) -> str:
        """The fingerprint but for its last group: that one has to come from the publisher."""
        return self.fingerprint[:-_GROUP_DIGITS] + "." * _GROUP_DIGITS


def read_root(data: bytes) -> Candidate:
    """What an offered root says; raises TrustError unless it is signed by its own keys."""
    from appliance.trust import metadata

    if len(data) > MAX_ROOT_BYTES:
        raise TrustError.of(TrustCode.TOO_LARGE, f"a root has at most {MAX_ROOT_BYTES} bytes")
    root = metadata.check_root(data)
    role = root.roles["root"]
    return Candidate(
        root=data,
        fingerprint=fingerprint_of(metadata.root_digest(data)),
        version=root.version,
        expires=root.expires.isoformat(),
        keys=len(role.keyids),
        threshold=role.threshold,
    )


class Repositories:
    """The enrolled repositories below `folder`."""

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], ClockReading] = read_clock,
        disk: Disk | None = None,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._disk = disk or Disk()

    def read_clock(self) -> ClockReading:
        """The clock that expiry is judged by."""
        return self._clock()

    def enrol(self, repository: Repository, root: bytes, confirmed: str) -> Candidate:
        """Trust `root` from now on; `confirmed` is the fingerprint that a person compared.

        Raises TrustError (signature) when they differ, ConfigError when another repository owns
        some of the names, or the name is taken.
        """
        repository.check()
        candidate = read_root(root)
        if _digits(confirmed) != _digits(candidate.fingerprint):
            raise TrustError.of(
                TrustCode.SIGNATURE,
                f"the root's fingerprint is {candidate.masked}, not {confirmed[:60]!r}",
                hint="compare it with the one that the publisher printed; do not guess",
            )
        if (self._folder / repository.name).exists():
            raise ConfigError(
                f"a repository {repository.name} is enrolled already",
                hint=f"a new root of its own arrives signed by the old one; to replace it by hand, "
                f"`hearth trust remove {repository.name}` first",
            )
        check_owners({**self.owned(), repository.name: repository.patterns()})
        self._write(repository, candidate)
        return candidate

    def remove(self, name: str) -> None:
        """Forget a repository, its root and its floor; what it installed stays."""
        self._require(name)
        gone = self._folder / f"{_GONE}{secrets.token_hex(8)}"
        self._disk.rename(self._folder / name, gone)
        self._disk.sync_folder(self._folder)
        shutil.rmtree(gone)

    def sweep(self) -> None:
        """Remove what an enrolment or a removal left that died; one that runs now is young."""
        if not self._folder.is_dir():
            return
        oldest = time.time() - _YOUNG_S
        for path in self._folder.iterdir():
            is_draft = path.name.startswith((_DRAFT, _GONE))
            if is_draft and path.is_dir() and path.stat().st_mtime < oldest:
                shutil.rmtree(path)

    def all(self) -> list[Repository]:
        """In order of names. Raises LibraryError for a damaged one: nothing then fails open."""
        if not self._folder.is_dir():
            return []
        folders = (path for path in self._folder.iterdir() if path.is_dir())
        return [self.get(p.name) for p in sorted(folders) if not p.name.startswith(".")]

    def get(self, name: str) -> Repository:
        """Raises NotFoundError."""
        return self._load(name).repository

    def fingerprint(self, name: str) -> str:
        """Of the pinned root, 8 groups of 5 digits; raises NotFoundError."""
        return self._load(name).fingerprint

    def owned(self) -> dict[str, tuple[NamePattern, ...]]:
        """The patterns by repository, as TrustPolicy wants them."""
        return {repository.name: repository.patterns() for repository in self.all()}

    def owner(self, name: ModelName) -> Repository | None:
        """The repository that has to sign `name`, if any does."""
        repositories = {repository.name: repository for repository in self.all()}
        patterns = {key: repository.patterns() for key, repository in repositories.items()}
        found = owner_of(name, patterns)
        return repositories[found] if found else None

    def has_site_root(self) -> bool:
        return any(repository.is_site for repository in self.all())

    def store(self, name: str) -> TrustStore:
        """The repository's metadata; raises NotFoundError, LibraryError if the pin is damaged."""
        stored = self._load(name)
        pinned = (self._folder / name / _PIN).read_bytes()
        if read_root(pinned).fingerprint != stored.fingerprint:
            raise _damaged(name)
        return TrustStore(StateFolder(self._folder / name, self._disk), pinned, self._clock)

    def freshness(self, name: str) -> Freshness:
        """How old the repository's newest word is, by what this box noted of it. Cheap: neither
        metadata nor keys are read. Raises NotFoundError."""
        allowed_s = self.get(name).freshness_s
        folder = StateFolder(self._folder / name, self._disk)
        issued_s = (folder.floor() or Floor()).issued_s
        now_s = judge_clock(self._clock(), max(RELEASED_S, issued_s)).now_s
        return freshness_of(issued_s or None, now_s, allowed_s)

    def _write(self, repository: Repository, candidate: Candidate) -> None:
        """All files under a hidden name first: a repository is enrolled wholly or not."""
        draft = self._folder / f"{_DRAFT}{secrets.token_hex(8)}"
        stored = _Stored(repository, candidate.fingerprint)
        self._disk.make_folder(draft)
        self._disk.write(draft / _PIN, candidate.root)
        self._disk.write(draft / _DEFINITION, msgspec.json.format(msgspec.json.encode(stored)))
        self._disk.sync_folder(draft)
        self._disk.rename(draft, self._folder / repository.name)
        self._disk.sync_folder(self._folder)

    def _load(self, name: str) -> _Stored:
        self._require(name)
        try:
            data = (self._folder / name / _DEFINITION).read_bytes()
            return msgspec.json.decode(data, type=_Stored)
        except (OSError, msgspec.DecodeError) as error:
            raise _damaged(name) from error

    def _require(self, name: str) -> None:
        if not _NAME.fullmatch(name) or not (self._folder / name).is_dir():
            raise NotFoundError(
                f"no repository {name[:60]!r} is enrolled", hint="`hearth trust list` shows them"
            )


def _damaged(name: str) -> LibraryError:
    return LibraryError(
        f"what is stored about the repository {name} is damaged",
        hint=f"`hearth trust remove {name}` and enrol it again with its fingerprint",
    )


def fingerprint_of(digest: bytes) -> str:
    """40 decimal digits of a SHA-256, in groups that people can read to each other."""
    number = int.from_bytes(digest) % 10 ** (_GROUPS * _GROUP_DIGITS)
    text = f"{number:0{_GROUPS * _GROUP_DIGITS}d}"
    starts = range(0, len(text), _GROUP_DIGITS)
    return " ".join(text[start : start + _GROUP_DIGITS] for start in starts)


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdecimal())
