"""Claiming: a one-time code turns a new box into an owned one.

The code has 8 characters of Crockford's base32, 40 bits, made at the first start, and is shown on
the box alone. It counts once. Five wrong tries close the door to the network for 15 minutes, also
through restarts; the box itself, which can see the code, stays free to use it. Only a physical act,
the file `reset-claim` in the state folder, makes a new code (access.py).
"""

import hmac
import secrets
import sqlite3

from appliance.access.keys import ALPHABET
from appliance.db import Database
from appliance.errors import ConflictError, ForbiddenError, RateLimitedError

CODE_CHARACTERS = 8
MAX_TRIES = 5
LOCK_S = 15 * 60.0
_MAX_TYPED = 40
# What people write for what they see (Crockford): case, the letters O, I and L, any separators.
_READ_AS = str.maketrans("oil", "011", "- \t\r\n")


class Claim:
    """Whether the box is owned, and the code that makes it so."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._code = ""
        self._tries = 0
        self._locked_until = 0.0  # seconds since 1970
        self.is_claimed = False

    async def load(self) -> None:
        """Read the state, or make the code of a new box."""
        row = await self._database.read(lambda c: c.execute("SELECT * FROM claim").fetchone())
        if row is None:
            await self.rearm()
            return
        self._code, self._tries = row["code"], row["tries"]
        self._locked_until = row["locked_until"]
        self.is_claimed = row["claimed_at"] is not None

    @property
    def code(self) -> str | None:
        """The code as people read it, `ABCD-EFGH`; None on an owned box."""
        if self.is_claimed or not self._code:
            return None
        text = self._code.upper()
        return f"{text[:4]}-{text[4:]}"

    async def rearm(self) -> None:
        """A new code for a box without an owner. Where nothing can be kept there is none."""
        self._code = ""
        self._tries, self._locked_until, self.is_claimed = 0, 0.0, False
        if not self._database.is_durable:
            return  # a code that counts again after a restart would not be one-time
        code = "".join(secrets.choice(ALPHABET) for _ in range(CODE_CHARACTERS))
        await self._database.write(
            lambda c: c.execute("REPLACE INTO claim VALUES (1, ?, 0, 0.0, NULL)", (code,))
        )
        self._code = code

    async def check(self, typed: str, now: float, *, is_here: bool) -> None:
        """Return if `typed` is the code of a box without an owner. Callers hold a lock.

        Raises ConflictError (owned), RateLimitedError (too many tries), ForbiddenError (wrong).
        """
        if self.is_claimed:
            raise ConflictError(
                "this box has an owner already",
                hint="ask the owner for a key; a new claim needs the file reset-claim in the box's"
                " state folder and a restart",
            )
        if not is_here:
            self._refuse_while_locked(now)
        plain = typed[:_MAX_TYPED].lower().translate(_READ_AS)
        if self._code and hmac.compare_digest(plain.encode(errors="replace"), self._code.encode()):
            return
        if not is_here:
            await self._count(now)
        raise ForbiddenError(
            "this is not the code of this box", hint="run `hearth pair` on the box to see it"
        )

    def record(self, connection: sqlite3.Connection, now: float) -> None:
        """Write that the box is owned, in the transaction that writes the owner's key."""
        connection.execute(
            "UPDATE claim SET code = '', tries = 0, locked_until = 0, claimed_at = ?", (now,)
        )

    def _refuse_while_locked(self, now: float) -> None:
        # a clock that was set back must not keep the door closed for longer than was meant
        self._locked_until = min(self._locked_until, now + LOCK_S)
        rest_s = self._locked_until - now
        if rest_s > 0:
            raise RateLimitedError(
                f"{MAX_TRIES} wrong codes were tried; claiming waits for {round(rest_s / 60)} min",
                retry_after_s=max(1, round(rest_s)),
                hint="or run `hearth keys create NAME --scope admin` on the box itself",
            )

    async def _count(self, now: float) -> None:
        """One more wrong try; it counts here even where it cannot be written."""
        self._tries += 1
        if self._tries >= MAX_TRIES:
            self._tries, self._locked_until = 0, now + LOCK_S
        values = (self._tries, self._locked_until)
        await self._database.write(
            lambda c: c.execute("UPDATE claim SET tries = ?, locked_until = ?", values)
        )
