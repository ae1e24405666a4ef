"""What this box knows of the channels that it follows: one small file each, and rules of change.

    channels/<repository>/<channel>.json

Replaced whole and durably. The rules are pure: the time comes in as seconds since 1970.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from appliance.bundles.channel_document import ChannelDocument
from appliance.errors import BadRequestError, LibraryError, NotFoundError
from appliance.library.blobs import atomic_write, fsync_folder
from appliance.library.manifest import Digest
from appliance.trust.errors import TrustCode, TrustError

FIRST_WAIT_S = 60.0  # after a failure; doubled by each further one, up to the time between polls

_PART = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_MAX_FILE_BYTES = 4 << 20


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far one bundle is. `state` is active, waiting (it will be tried again) or failed (not
    before the channel names another version, or a person insists)."""

    version: str
    state: str
    reason: str = ""


class Followed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One channel. `document` is the newest that was believed, `digest` that of its bytes."""

    repository: str
    channel: str
    is_paused: bool = False
    document: ChannelDocument | None = None
    digest: str = ""
    data: bytes = b""  # of the document as it was signed, for media
    outcomes: dict[str, Outcome] = {}
    checked_s: int = 0  # when the repository was last heard
    due_s: float = 0.0  # when it is to be asked again
    failures: int = 0  # turns in a row that did not get where they wanted
    problem: str = ""  # why the last turn could not learn what the channel says

    @property
    def key(self) -> str:
        return f"{self.repository}/{self.channel}"

    @property
    def target(self) -> str:
        return f"channels/{self.channel}.json"


def take(followed: Followed, document: ChannelDocument, data: bytes, now_s: float) -> Followed:
    """The state with a document that was signed; raises TrustError (rollback) for an older one, and
    for another one of the same generation: then nobody could tell which is meant."""
    digest, held = str(Digest.of(data)), followed.document
    generation = held.generation if held else 0
    is_other = document.generation == generation and digest != followed.digest
    if document.generation < generation or is_other:
        what = "again with other content" if is_other else f"and {generation} was here before"
        raise TrustError.of(
            TrustCode.ROLLBACK,
            f"the channel {followed.key} offers generation {document.generation} {what}",
            hint="its publisher has to sign a document of a higher generation",
        )
    return replace(
        followed, document=document, digest=digest, data=data, checked_s=int(now_s), problem=""
    )


def rest(
    followed: Followed, now_s: float, poll_s: float, opens_in_s: float, chance: float
) -> Followed:
    """The state after a turn, with the time of the next one. `opens_in_s` is how long the window
    stays closed, `chance` a number from 0 to 1: boxes must not come all at once."""
    waiting = [each for each in followed.outcomes.values() if each.state == "waiting"]
    wait_s = poll_s * (0.75 + chance / 2)
    failures = followed.failures + 1 if followed.problem or waiting else 0
    if opens_in_s and waiting:
        wait_s = min(wait_s, opens_in_s + chance * FIRST_WAIT_S)
        failures = followed.failures + 1 if followed.problem else 0  # a closed window is none
    elif failures:
        backed_off_s = FIRST_WAIT_S * 2.0 ** min(failures - 1, 20) * (0.5 + chance / 2)
        wait_s = min(wait_s, backed_off_s)
    return replace(followed, failures=failures, due_s=now_s + wait_s)


def wait_of(followed: Followed, now_s: float, poll_s: float) -> float:
    """Seconds until it is due; for ever while paused. A clock that was set back delays nothing."""
    if followed.is_paused:
        return float("inf")
    wait_s = followed.due_s - now_s
    return 0.0 if wait_s > 2 * poll_s + FIRST_WAIT_S else max(wait_s, 0.0)


class ChannelFiles:
    """The files below `folder`. Synchronous."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> tuple[list[Followed], list[str]]:
        """In order of names, and what is damaged."""
        found, problems = [], []
        for path in sorted(self._folder.glob("*/*.json")):
            try:
                found.append(self.get(f"{path.parent.name}/{path.stem}"))
            except LibraryError as error:
                problems.append(f"{error}; {error.hint}")
            except (NotFoundError, BadRequestError):
                continue  # gone since, or none of ours
        return found, problems

    def get(self, key: str) -> Followed:
        """Raises NotFoundError, or LibraryError for a damaged file."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_FILE_BYTES)
            found = msgspec.json.decode(data, type=Followed)
        except FileNotFoundError as error:
            raise NotFoundError(
                f"this box does not follow {key}", hint="`hearth channel list` shows what it does"
            ) from error
        except (OSError, msgspec.DecodeError) as error:
            raise _damaged(key) from error
        if found.key != key:
            raise _damaged(key)
        return found

    def put(self, followed: Followed) -> None:
        atomic_write(self._path(followed.key), msgspec.json.encode(followed))

    def remove(self, key: str) -> None:
        """Also a damaged one; raises NotFoundError."""
        path = self._path(key)
        if not path.exists():
            raise NotFoundError(f"this box does not follow {key}")
        path.unlink()
        fsync_folder(path.parent)

    def _path(self, key: str) -> Path:
        parts = split_key(key)
        return self._folder / parts[0] / f"{parts[1]}.json"


def split_key(key: str) -> tuple[str, str]:
    """Repository and channel of `acme/stable`; raises BadRequestError."""
    parts = key.split("/")
    if len(parts) != 2 or not all(_PART.fullmatch(part) for part in parts):
        raise BadRequestError(
            f"{key[:100]!r} is not a channel", hint="write REPOSITORY/CHANNEL, like acme/stable"
        )
    return parts[0], parts[1]


def key_of(text: str, addresses: Mapping[str, tuple[str, ...]]) -> str:
    """The key that a person means: `acme/stable`, or an address below one of a repository's.

    `addresses` are those of each enrolled repository; the longest that fits counts. Raises
    BadRequestError.
    """
    if "://" not in text:
        return "/".join(split_key(text))
    fitting = [
        (len(address), repository, text[len(address) :])
        for repository, several in addresses.items()
        for address in (one.rstrip("/") + "/" for one in several)
        if text.startswith(address)
    ]
    if not fitting:
        raise BadRequestError(
            f"{text[:200]} is no address of an enrolled repository",
            hint="enrol it first with `hearth trust add`; `hearth trust list` shows who is",
        )
    _, repository, rest_of_it = max(fitting)
    channel = rest_of_it.removeprefix("channels/").removesuffix(".json")
    return "/".join(split_key(f"{repository}/{channel}"))


def _damaged(key: str) -> LibraryError:
    return LibraryError(
        f"what is stored about the channel {key} is damaged",
        hint=f"`hearth channel unfollow {key}` and follow it again",
    )
