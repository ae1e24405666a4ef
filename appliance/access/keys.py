"""Keys: `hearth_<id>_<secret>`, shown once, kept as a hash, with scopes and limits, revocable.

All keys are in memory, so that a request asks no disk; changes are written before they count. A
secret has 256 bits, so a plain SHA-256 keeps it: nobody tries such secrets one by one. Blocking
SQL runs in the database's thread.
"""

import hashlib
import hmac
import json
import re
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

from appliance.access.caller import KeyFacts, Scope
from appliance.db import Database, Work
from appliance.errors import BadRequestError, LibraryError, NotFoundError

PREFIX = "hearth_"
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32: no letter looks like a digit
ID_CHARACTERS = 8
SECRET_CHARACTERS = 52  # of 5 bits: 260
MIN_ADOPTED_CHARACTERS = 26  # 130 bits: a plain hash must keep it
MAX_KEYS = 1000  # that are not revoked; a household has ten, a school a few hundred
KEPT_REVOKED = 200  # revoked ones stay in the list for a while, so that people see what was
MAX_TOKEN_CHARACTERS = 200
STALE_S = 3600.0  # how far a written last use may lie behind the true one: writes wear a card
_TOKEN = re.compile(r"hearth_([0-9a-z]{1,32})_([0-9A-Za-z]{1,128})")
_UNKNOWN = bytes(32)  # compared with in place of a key that is not there


@dataclass(frozen=True, slots=True)
class Key:
    """A stored key. Times in seconds since 1970, None: never."""

    facts: KeyFacts
    secret_hash: bytes
    created_at: float
    last_used_at: float | None = None
    revoked_at: float | None = None

    @classmethod
    def of_row(cls, row: sqlite3.Row) -> Self:
        known = {str(scope) for scope in Scope}  # a newer release may have had more
        facts = KeyFacts(
            id=row["id"],
            name=row["name"],
            scopes=frozenset(Scope(s) for s in row["scopes"].split(",") if s in known),
            models=None if row["models"] is None else tuple(json.loads(row["models"])),
            rate_per_minute=row["rate_per_minute"],
            tokens_per_day=row["tokens_per_day"],
        )
        times = (row["created_at"], row["last_used_at"], row["revoked_at"])
        return cls(facts, row["secret_hash"], *times)


class Keys:
    """The keys of this box."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: dict[str, Key] = {}
        self._adopted: dict[str, Key] = {}
        self._used: dict[str, float] = {}  # last uses that are not written yet
        self._written: dict[str, float] = {}  # those that this process wrote last

    async def load(self) -> None:
        """Read what is stored."""
        rows = await self._database.read(lambda c: c.execute("SELECT * FROM keys").fetchall())
        self._keys = {row["id"]: Key.of_row(row) for row in rows} | self._adopted

    def adopt(self, token: str, name: str) -> bool:
        """Take a key of an administrator that is kept elsewhere, before `load`; it lives as long as
        this process. False if it has not the form of a key with a long enough secret."""
        match = _TOKEN.fullmatch(token)
        if match is None or len(match[2]) < MIN_ADOPTED_CHARACTERS:
            return False
        facts = KeyFacts(match[1], name, frozenset({Scope.ADMIN}))
        self._adopted[match[1]] = Key(facts, _hash(match[2]), created_at=0.0)
        return True

    def list(self) -> Sequence[Key]:
        """All keys, the newest first."""
        return sorted(self._keys.values(), key=lambda key: key.created_at, reverse=True)

    @property
    def has_admin(self) -> bool:
        """Whether anybody on the network can administrate."""
        return any(
            Scope.ADMIN in key.facts.scopes and key.revoked_at is None
            for key in self._keys.values()
        )

    def find(self, token: str) -> KeyFacts | None:
        """The key whose token this is; None if it is wrong, revoked or unknown.

        Takes the same steps for an unknown id as for a wrong secret.
        """
        match = _TOKEN.fullmatch(token[:MAX_TOKEN_CHARACTERS])
        key_id, secret = match.groups() if match else ("", "")
        key = self._keys.get(key_id)
        expected = key.secret_hash if key else _UNKNOWN
        is_right = hmac.compare_digest(_hash(secret), expected)
        if key is None or not is_right or key.revoked_at is not None:
            return None
        return key.facts

    async def create(
        self, facts: KeyFacts, now: float, also: Work[None] = lambda _: None
    ) -> tuple[Key, str]:
        """Store a new key with the properties of `facts` (its id is ours to choose), and do `also`
        in the same transaction.

        Returns it with the token, which nobody can see again.
        """
        active = sum(key.revoked_at is None for key in self._keys.values())
        if active >= MAX_KEYS:
            raise BadRequestError(
                f"this box has {active} keys, {MAX_KEYS} are allowed", hint="revoke some first"
            )
        key, token = generate(facts, now)
        await self.add(key, also)
        return key, token

    async def add(self, key: Key, also: Work[None] = lambda _: None) -> None:
        """Store a key that was made elsewhere, and do `also` in the same transaction."""

        def work(connection: sqlite3.Connection) -> None:
            # Back after a reset, which revoked it
            statement = "DELETE FROM keys WHERE id = ? AND revoked_at IS NOT NULL"
            connection.execute(statement, (key.facts.id,))
            _insert(connection, key)
            also(connection)

        await self._database.write(work)
        await self._settle()
        self._keys[key.facts.id] = key

    def holds(self, key: Key) -> bool:
        """Whether this key with this secret is one of ours."""
        known = self._keys.get(key.facts.id)
        if known is None or known.revoked_at is not None:
            return False
        return hmac.compare_digest(known.secret_hash, key.secret_hash)

    async def revoke(self, key_id: str, now: float) -> Key:
        """From now on the key is worth nothing. Raises NotFoundError."""
        key = self._keys.get(key_id)
        if key is None:
            raise NotFoundError(
                f"there is no key {key_id[:40]!r}", hint="`hearth keys list` shows all"
            )
        if key.revoked_at is None:
            key = self._keys[key_id] = replace(key, revoked_at=now)  # whatever the disk says
            try:
                await self._revoke("id = ?", (now, key_id))
            except LibraryError as error:
                raise type(error)(
                    f"the key is refused until a restart, but is not revoked for good: {error}",
                    hint=error.hint,
                ) from error
            self._forget_old()
        return key

    async def revoke_all(self, now: float) -> int:
        """Revoke every key; how many there were."""
        count = await self._revoke("revoked_at IS NULL", (now,))
        await self.load()
        return count

    def note_use(self, key_id: str, now: float) -> bool:
        """Remember that the key was used; True if that is worth a `flush` of its own."""
        self._keys[key_id] = replace(self._keys[key_id], last_used_at=now)
        self._used[key_id] = now
        return not 0 <= now - self._written.get(key_id, 0.0) < STALE_S

    async def flush(self) -> None:
        """Write the last uses, all in one go."""
        if not self._used:
            return
        rows = [(at, key_id) for key_id, at in self._used.items()]
        await self._database.write(
            lambda c: c.executemany("UPDATE keys SET last_used_at = ? WHERE id = ?", rows)
        )
        for at, key_id in rows:
            self._written[key_id] = at
            if self._used.get(key_id) == at:
                del self._used[key_id]

    async def _revoke(self, condition: str, values: Sequence[object]) -> int:
        statement = f"UPDATE keys SET revoked_at = ? WHERE {condition}"  # noqa: S608 - our own texts

        def work(connection: sqlite3.Connection) -> int:
            count = connection.execute(statement, values).rowcount
            connection.execute(_DELETE_OLD, (KEPT_REVOKED,))
            return count

        count = await self._database.write(work)
        await self._settle()
        return count

    async def _settle(self) -> None:
        """Bring a change into the file itself, so that keys are also right when the disk is so full
        that only the file can be read (db.py, _copy_in_memory)."""
        with suppress(LibraryError):  # the change itself is safe in the log
            await self._database.read(
                lambda c: c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            )

    def _forget_old(self) -> None:
        revoked = sorted(
            (key for key in self._keys.values() if key.revoked_at is not None),
            key=lambda key: key.revoked_at or 0.0,
        )
        for key in revoked[: max(0, len(revoked) - KEPT_REVOKED)]:
            del self._keys[key.facts.id]
            self._written.pop(key.facts.id, None)


_DELETE_OLD = """DELETE FROM keys WHERE id IN (
    SELECT id FROM keys WHERE revoked_at IS NOT NULL ORDER BY revoked_at DESC LIMIT -1 OFFSET ?
)"""


def generate(facts: KeyFacts, now: float) -> tuple[Key, str]:
    """A new key with the properties of `facts`, its id chosen here, and its token. No IO."""
    key_id, secret = _random(ID_CHARACTERS), _random(SECRET_CHARACTERS)
    key = Key(replace(facts, id=key_id), _hash(secret), created_at=now)
    return key, f"{PREFIX}{key_id}_{secret}"


def looks_like_key(token: str) -> bool:
    """Whether somebody means one of our keys. Clients without one send any word: `ollama`, `x`."""
    return token.startswith(PREFIX)


def _insert(connection: sqlite3.Connection, key: Key) -> None:
    facts = key.facts
    connection.execute(
        "INSERT INTO keys (id, name, secret_hash, scopes, models, rate_per_minute, tokens_per_day,"
        " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            facts.id,
            facts.name,
            key.secret_hash,
            ",".join(sorted(facts.scopes)),
            None if facts.models is None else json.dumps(facts.models),
            facts.rate_per_minute,
            facts.tokens_per_day,
            key.created_at,
        ),
    )


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _random(characters: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(characters))
