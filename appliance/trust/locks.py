"""The digest that each unsigned model had when it was first pulled: later changes need a person.

One small file, `lock.json`. Which change is allowed is `policy.py`'s business.
"""

from pathlib import Path

import msgspec

from appliance.errors import LibraryError
from appliance.library.blobs import atomic_write
from appliance.library.names import ModelName


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`digest` is the manifest's, `host` who gave it, `locked_s` when (seconds since 1970)."""

    digest: str
    host: str
    locked_s: int


class Locks:
    """All locks of a box. Names compare without case. One writer at a time: the pull's job."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, name: ModelName) -> Lock | None:
        """Raises LibraryError for a damaged file: a lost lock would let any change through."""
        return self._read().get(_key(name))

    def put(self, name: ModelName, lock: Lock) -> None:
        """Lock a first pull, or a change that a person confirmed; durable."""
        self._write({**self._read(), _key(name): lock})

    def remove(self, name: ModelName) -> None:
        """Forget a model that was removed."""
        locks = self._read()
        if locks.pop(_key(name), None):
            self._write(locks)

    def check(self) -> None:
        """Raises LibraryError for a damaged file."""
        self._read()

    def _read(self) -> dict[str, Lock]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Lock])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            raise LibraryError(
                f"{self._path.name}, which holds the digests of unsigned models, is damaged",
                hint="remove it to accept the installed models as they are, after checking them",
            ) from error

    def _write(self, locks: dict[str, Lock]) -> None:
        encoded = msgspec.json.encode(dict(sorted(locks.items())))
        atomic_write(self._path, msgspec.json.format(encoded))


def _key(name: ModelName) -> str:
    return name.full.lower()
