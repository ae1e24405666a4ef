"""What became of a signed model on this box: one small file per name, the commit point of all.

    <host>/<namespace>/<model>/<tag>.json    {"sha256": of the state's bytes, "state": {…}}

What the file says counts: the manifest under the model's name is derived from it (activate.py), and
the blobs that it names are never removed. It is replaced whole and durably, and read strictly; a
damaged one is an error of its name alone, and while there is one, no blob of any model is removed.
Synchronous and thread-safe.
"""

import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import msgspec

from appliance.errors import LibraryError, ModelNameError, NotFoundError
from appliance.library.blobs import atomic_write, fsync_folder
from appliance.library.manifest import Digest
from appliance.library.names import ModelName
from appliance.trust.gate import Signed

MAX_ATTEMPTS = 2  # smoke tests that may be cut short before the release counts as bad
MAX_BAD = 32  # the oldest is forgotten; it would only be tried again
_MAX_FILE_BYTES = 8 << 20

DigestText = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release that is here whole. `blobs` is all of it: index, extras, manifest and parts.

    `target` is what the repository lists it as, for revocation; empty: only a moving pointer.
    """

    version: str
    index: DigestText
    manifest: DigestText  # the variant's
    blobs: tuple[DigestText, ...]
    variant: str
    reasons: tuple[str, ...] = ()  # of the choice of the variant
    target: str = ""
    smoke: DigestText | None = None  # its own smoke tests
    staged_s: int = 0  # seconds since 1970
    tokens_per_s: float = 0.0  # as its smoke tests ran here


class Staged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release that waits for its smoke tests. `attempts` counts those that began and were not
    stopped on purpose; `is_testing` in a file of a service that does not run means: it died."""

    release: Kept
    attempts: int = 0
    is_testing: bool = False


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a release is not used. `log` is the end of what a dead worker said."""

    version: str
    index: DigestText
    reason: str
    at_s: int  # seconds since 1970
    variant: str = ""
    prompt: str = ""
    tokens_per_s: float = 0.0
    log: str = ""


class BundleState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about one signed name."""

    name: str  # in full, lower case
    repository: str
    active: Kept | None = None
    previous: Kept | None = None
    staged: Staged | None = None
    bad: tuple[Failure, ...] = ()  # not tried again, oldest first
    failure: Failure | None = None  # the last one, until a release becomes active
    pinned: str = ""  # the only version that may become active
    revoked: str = ""  # why the active one should not be used any more
    is_stopped: bool = False  # it was taken out of use for that

    @property
    def phase(self) -> str:
        """The word for where the newest release is: fetching, staged, smoke, active or failed."""
        if self.staged is not None:
            return "smoke" if self.staged.is_testing else "staged"
        if self.failure is not None:
            return "failed"
        return "active" if self.active is not None else "fetching"

    def why_bad(self, index: Digest, variant: str) -> Failure | None:
        """Why this variant of a release is not tried again, if it is so."""
        wanted = (str(index), variant)
        return next((bad for bad in self.bad if (bad.index, bad.variant) == wanted), None)

    @property
    def kept(self) -> tuple[Kept, ...]:
        """The releases whose blobs must stay."""
        staged = self.staged.release if self.staged else None
        return tuple(kept for kept in (self.active, self.previous, staged) if kept is not None)

    @property
    def digests(self) -> frozenset[Digest]:
        return frozenset(Digest.parse(text) for kept in self.kept for text in kept.blobs)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str
    state: msgspec.Raw


Change = Callable[[BundleState | None], BundleState]


class States:
    """All states below `folder`. Names are told apart without case."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.lock = threading.RLock()  # held by whoever reads a state to change it

    def get(self, name: ModelName) -> BundleState:
        """Raises NotFoundError, or LibraryError for a damaged file."""
        state = self.find(name)
        if state is None:
            raise NotFoundError(
                f"{name.short} is not a signed model of this box",
                hint="`hearth bundle list` shows which are",
            )
        return state

    def find(self, name: ModelName) -> BundleState | None:
        """None if there is none; raises LibraryError for a damaged file."""
        try:
            with self._path(name).open("rb") as file:
                data = file.read(_MAX_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _damaged(name) from error
        return _decode(name, data)

    def signed(self, name: ModelName) -> Signed | None:
        """Who signed for a name and which manifests, of those that are here; None if nobody did.
        Raises LibraryError for a damaged file."""
        state = self.find(name)
        if state is None:
            return None
        manifests = frozenset(Digest.parse(kept.manifest) for kept in state.kept)
        return Signed(state.repository, manifests)

    def names(self) -> Iterator[ModelName]:
        """Of all files, readable or not, in order."""
        for path in sorted(self._folder.glob("*/*/*/*.json")):
            parts = path.relative_to(self._folder).with_suffix("")
            try:
                yield ModelName.from_path(parts)
            except ModelNameError:
                continue  # no file of ours: we write none under such a name

    def roots(self) -> frozenset[Digest]:
        """The blobs that any state names. Raises LibraryError: then nothing may be removed."""
        states = [state for name in self.names() if (state := self.find(name)) is not None]
        return frozenset[Digest]().union(*(state.digests for state in states))

    def change(self, name: ModelName, change: Change) -> BundleState:
        """Replace a state by what `change` makes of it, durably; an equal one is not written."""
        with self.lock:
            before = self.find(name)
            after = change(before)
            if after != before:
                self.write(name, after)
            return after

    def write(self, name: ModelName, state: BundleState) -> None:
        """Replace a state, also a damaged one."""
        body = msgspec.json.encode(state)
        file = _File(sha256(body).hexdigest(), msgspec.Raw(body))
        with self.lock:
            atomic_write(self._path(name), msgspec.json.encode(file))

    def remove(self, name: ModelName) -> None:
        """Forget a model; not an error if there is none."""
        path = self._path(name)
        with self.lock:
            if path.exists():
                path.unlink()
                fsync_folder(path.parent)

    def _path(self, name: ModelName) -> Path:
        path = self._folder / str(name.path).lower()
        return path.with_name(f"{path.name}.json")


def empty_state(name: ModelName, repository: str) -> BundleState:
    """Of a model that was never installed."""
    return BundleState(name.full.lower(), repository)


def _decode(name: ModelName, data: bytes) -> BundleState:
    try:
        file = msgspec.json.decode(data, type=_File)
        state = msgspec.json.decode(file.state, type=BundleState)
    except msgspec.DecodeError as error:
        raise _damaged(name) from error
    is_whole = sha256(bytes(file.state)).hexdigest() == file.sha256
    if not is_whole or state.name != name.full.lower():
        raise _damaged(name)
    return state


def _damaged(name: ModelName) -> LibraryError:
    return LibraryError(
        f"what is stored about the signed model {name.short} is damaged; it serves on as it is",
        hint=f"`hearth pull --retry {name.short}` makes it anew from its repository",
    )
