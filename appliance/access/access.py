"""Who may do what: the one that is asked. Puts rings, keys, claim and audit together.

A right key always gets in, whatever its address did before; wrong ones of one address are answered
with a wait after some. Owns the database's access tables; hears of the interfaces by `network.py`.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from appliance.access.audit import Audit
from appliance.access.caller import (
    Caller,
    KeyFacts,
    Ring,
    Scope,
    clean_user,
    site_of,
)
from appliance.access.claim import Claim
from appliance.access.guessers import WRONG_KEYS, Guessers
from appliance.access.keys import Key, Keys, looks_like_key
from appliance.access.policy import refusal, scopes_of, who
from appliance.access.rings import Neighbourhood
from appliance.config import Settings
from appliance.db import Database
from appliance.errors import (
    ApplianceError,
    ForbiddenError,
    LibraryError,
    RateLimitedError,
    UnauthorizedError,
)
from appliance.network import Network

log = logging.getLogger("hearth.access")

RESET_FILE = "reset-claim"
FLUSH_S = 2.0  # how long notes for the database gather
REST_S = 60.0  # after they were written: nobody who is refused all day wears out a card
RETRY_S = 60.0  # after the database could not be written
ADOPTED = "admin-key"  # the name of the key that a file of the system gives
OWNER = "owner"  # the name of a key that was claimed without one


class Access:
    """Access to one box. `open` first, `run_forever` as a task, `close` last."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        network: Network,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.lan = settings.access_lan
        self.keys = Keys(database)
        self.claim = Claim(database)
        self.audit = Audit(database, now)
        self.near = Neighbourhood()
        self.problems = database.problems
        self._reset_file = settings.state / RESET_FILE
        self._database = database
        self._now = now
        self._changing = asyncio.Lock()  # one claim at a time
        self._guessers = Guessers()
        self._has_notes = asyncio.Event()
        self._network = network
        network.on_change.append(self._look_around)
        self._is_waiting = False  # for a disk that takes the notes

    async def open(self, admin_key: str = "") -> None:
        """Read what is stored, make a new box's code, obey a `reset-claim` file.

        admin_key  an administrator's key that the system's owner keeps in a file; never stored
        """
        await self._database.open()
        if admin_key and not self.keys.adopt(admin_key, ADOPTED):
            log.warning("the credential admin-key is no key of the form hearth_<id>_<secret>")
        await self.keys.load()
        try:
            await self.claim.load()
        except LibraryError as error:  # without a code nobody claims it, which harms nobody
            log.warning("this box has no claim code yet: %s", error)
        if await asyncio.to_thread(self._reset_file.exists):
            await self._reset()
        if not self.is_claimed:
            log.info("this box has no owner yet; `hearth pair` on it shows how to claim it")

    async def run_forever(self) -> None:
        """Write what was noted: soon, but no more often than once a minute."""
        while True:
            await self._has_notes.wait()
            await asyncio.sleep(FLUSH_S)
            self._has_notes.clear()
            if await self._flush():
                await asyncio.sleep(REST_S)
            else:
                self._has_notes.set()
                await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        """Write what was noted and let go of the database."""
        await self._flush()
        await self._database.close()

    @property
    def is_claimed(self) -> bool:
        """Whether somebody owns the box."""
        return self.claim.is_claimed or self.keys.has_admin

    @property
    def code(self) -> str | None:
        """The claim code of a box without an owner, for people at the box."""
        return None if self.is_claimed else self.claim.code

    def addresses(self) -> list[str]:
        """Our addresses on the network as people would type them, IPv4 first."""
        found = [own.ip for own in self._network.own_addresses() if not own.is_link_local]
        return [str(a) for a in sorted(found, key=lambda a: a.version)]

    def identify(self, caller: Caller, token: str, user: str) -> Caller:
        """`caller` with its key and scopes. `token` is what it sent as a key, or empty.

        Many clients must send some key and send any word; that is no key, and they are guests.
        Raises UnauthorizedError and RateLimitedError for a wrong token of our own form.
        """
        key = self._key_of(caller, token) if looks_like_key(token) else None
        believed = clean_user(user) if key or caller.is_local else ""
        scopes = scopes_of(caller.ring, caller.origin, key, self.lan)
        return replace(caller, key=key, user=believed, scopes=scopes)

    def require(self, caller: Caller, scope: Scope) -> None:
        """Raise UnauthorizedError or ForbiddenError unless `caller` may do this."""
        if scope not in caller.scopes:
            raise refusal(caller, scope, self.lan, is_claimed=self.is_claimed)

    async def claim_box(self, caller: Caller, code: str, name: str) -> tuple[Key, str]:
        """Make the caller, who read the code on the box, its owner: one admin key and its token.

        Raises ForbiddenError, ConflictError, RateLimitedError.
        """
        if caller.ring is Ring.OUTSIDE or (caller.ring is Ring.LAN and self.lan == "off"):
            raise ForbiddenError(
                "a box is claimed from its own network, not through a proxy or from afar",
                hint="connect to it directly, or run `hearth keys create NAME --scope admin` there",
            )
        facts = KeyFacts("", name or OWNER, frozenset({Scope.ADMIN}))
        now = self._now()
        is_here = caller.is_local and Scope.ADMIN in caller.scopes
        async with self._changing:
            try:
                if self.keys.has_admin:
                    self.claim.is_claimed = True
                await self.claim.check(code, now, is_here=is_here)
                made = await self.keys.create(facts, now, lambda c: self.claim.record(c, now))
            except ApplianceError as error:
                self.note(caller, "claim", name, error.code, is_refused=True)
                raise
            self.claim.is_claimed = True
        self.note(caller, "claim", made[0].facts.id, "ok")
        return made

    async def create_key(self, facts: KeyFacts) -> tuple[Key, str]:
        """A new key and its token. The first key of an administrator makes the box an owned one."""
        now = self._now()
        async with self._changing:
            owns = Scope.ADMIN in facts.scopes
            also = (lambda c: self.claim.record(c, now)) if owns else (lambda _: None)
            made = await self.keys.create(facts, now, also)
            self.claim.is_claimed |= owns
        return made

    async def own(self, key: Key | None) -> None:
        """The box has an owner from now on, whose key, made elsewhere, is `key`."""
        now = self._now()
        async with self._changing:
            if key is None:
                await self._database.write(lambda c: self.claim.record(c, now))
            else:
                made = replace(key, created_at=now)
                await self.keys.add(made, lambda c: self.claim.record(c, now))
            self.claim.is_claimed = True

    async def revoke_key(self, key_id: str) -> Key:
        """From now on the key is worth nothing. Raises NotFoundError."""
        return await self.keys.revoke(key_id, self._now())

    def note(
        self, caller: Caller, action: str, target: str, outcome: str, *, is_refused: bool = False
    ) -> None:
        """Put a line into the audit log, soon."""
        if self.audit.note(who(caller), action, target, outcome, is_refused=is_refused):
            self._has_notes.set()

    def _key_of(self, caller: Caller, token: str) -> KeyFacts:
        key = self.keys.find(token)
        if key is None:
            raise self._wrong_key(caller)
        if self.keys.note_use(key.id, self._now()):
            self._has_notes.set()
        return key

    def _wrong_key(self, caller: Caller) -> ApplianceError:
        """Count one more wrong key of this address; the answer to it."""
        wait_s = self._guessers.count(site_of(caller.address), self._now())
        if not wait_s:
            return UnauthorizedError(
                "this key is wrong or was revoked",
                hint="check the key in your app, or ask the box's owner for a new one"
                " (`hearth keys create NAME` on the box)",
            )
        self.note(caller, "key", "", f"{WRONG_KEYS} wrong keys", is_refused=True)
        return RateLimitedError(
            f"more than {WRONG_KEYS} wrong keys came from {caller.address or 'this machine'}",
            retry_after_s=wait_s,
            hint="correct the key in your app: a right one is taken at once",
        )

    async def _reset(self) -> None:
        """The physical act: somebody who can write the state folder takes the box back."""
        try:
            count = await self.keys.revoke_all(self._now())
            await self.claim.rearm()
            await asyncio.to_thread(self._reset_file.unlink)
        except (ApplianceError, OSError) as error:
            log.error("the claim could not be reset: %s", error)  # noqa: TRY400 - says it all
            return
        log.warning("reset-claim was found: %d keys are revoked, there is a new code", count)
        self.audit.note("this box", "reset", "", f"{count} keys revoked")

    def _look_around(self) -> None:
        self.near.replace(own.network for own in self._network.own_addresses())

    async def _flush(self) -> bool:
        if not self._database.is_durable:
            return True  # said at the start
        try:
            await self.keys.flush()
            await self.audit.flush()
        except LibraryError as error:
            if not self._is_waiting:
                log.warning("uses of keys and the audit log wait to be written: %s", error)
            self._is_waiting = True
            return False
        self._is_waiting = False
        return True
