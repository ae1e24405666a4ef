"""A new box becomes its site's own, by the file `site-root.json` that its first boot found.

`hearth firstboot` puts the file into the state folder, unread; the service takes it before it
opens its door, so nobody else can claim the box meanwhile: the site's repository is enrolled, the
box gets its owner, and both are told, in the audit log and as a condition, for as long as they
hold. Each step may be repeated, so a power cut in between costs nothing. A file that is refused
changes nothing; the sentence that says why stays until the box has an owner.
"""

import asyncio
import logging
from pathlib import Path

import msgspec

from appliance.access.access import Access
from appliance.access.caller import KeyFacts, Scope
from appliance.access.keys import Key
from appliance.conditions import Condition, Severity
from appliance.errors import ApplianceError, LibraryError
from appliance.library.blobs import atomic_write
from appliance.trust.clock import judge_clock
from appliance.trust.enrolment import FILE, MAX_FILE_BYTES, Enrolment, read_enrolment
from appliance.trust.errors import TrustCode, TrustError
from appliance.trust.repositories import Candidate, Repositories

log = logging.getLogger("hearth.trust")

OUTCOME_FILE = "enrolment.json"
_WHO = "the boot partition"  # in the audit log
_ACTION = "enrol"


class Outcome(msgspec.Struct, frozen=True):
    """What became of the last file: `problem` and `cure`, or a repository and its fingerprint."""

    name: str = ""
    fingerprint: str = ""
    names: tuple[str, ...] = ()
    admin_key: str = ""  # its id
    problem: str = ""
    cure: str = ""


class Enroller:
    """`open` before anybody is served."""

    def __init__(self, state: Path, repositories: Repositories, access: Access) -> None:
        self._file = state / FILE
        self._outcome_file = state / OUTCOME_FILE
        self._repositories = repositories
        self._access = access
        self._outcome: Outcome | None = None

    async def open(self) -> None:
        """Take the file that the first boot left, or remember what became of an earlier one."""
        try:
            data = await asyncio.to_thread(self._read)
            if data is None:
                self._outcome = await asyncio.to_thread(self._remembered)
                return
            self._outcome = await self._take(data)
            await self._access.audit.flush()
            await asyncio.to_thread(self._settle, self._outcome)
        except (LibraryError, OSError) as error:
            cure = "make room on the disk or repair it, then restart the service: it is kept"
            self._outcome = Outcome(problem=f"{FILE} could not be taken: {error}", cure=cure)
        if self._outcome.problem:
            log.error("%s; %s", self._outcome.problem, self._outcome.cure)
        else:
            log.warning("%s; its fingerprint: %s", *_words(self._outcome))

    def conditions(self) -> list[Condition]:
        """What there is to say of it."""
        outcome = self._outcome
        if outcome is None:
            return []
        if outcome.problem:
            title = "the site's file was not taken"
            problem, cure = outcome.problem, outcome.cure
            return [Condition("enrolment_refused", title, problem, Severity.WARNING, cure)]
        text, fingerprint = _words(outcome)
        cure = f"compare its fingerprint with the site's: {fingerprint}"
        return [Condition("site_enrolled", "owned by a site", text, Severity.NOTE, cure)]

    async def _take(self, data: bytes) -> Outcome:
        """Raises LibraryError where it could not be kept; it is tried again at the next start."""
        audit = self._access.audit
        try:
            now_s = judge_clock(self._repositories.read_clock()).now_s
            enrolment, candidate = await asyncio.to_thread(read_enrolment, data, now_s)
            await self._own(enrolment, candidate)
        except LibraryError:
            raise
        except ApplianceError as error:
            audit.note(_WHO, _ACTION, FILE, error.code, is_refused=True)
            return Outcome(problem=f"{FILE} was not taken: {error}", cure=error.hint)
        repository, key = enrolment.repository, enrolment.admin_key
        audit.note(_WHO, _ACTION, repository.name, f"root {candidate.fingerprint}")
        key_id = key.id if key else ""
        return Outcome(repository.name, candidate.fingerprint, repository.names, key_id)

    async def _own(self, enrolment: Enrolment, candidate: Candidate) -> None:
        repository = enrolment.repository
        root = (repository.name, candidate.fingerprint)
        is_known = await asyncio.to_thread(self._is_enrolled, *root)
        key = _key(enrolment)
        if self._access.is_claimed:
            if is_known and (key is None or self._access.keys.holds(key)):
                return  # a power cut came after all was done, or the same file came again
            raise TrustError.of(
                TrustCode.POLICY,
                "this box has an owner already",
                hint="the owner may use `hearth trust add --site`; or put the file"
                " hearth-reset-keys beside it, which takes all keys back",
            )
        if not is_known:
            known = (repository, candidate.root, candidate.fingerprint)
            await asyncio.to_thread(self._repositories.enrol, *known)
        await self._access.own(key)

    def _is_enrolled(self, name: str, fingerprint: str) -> bool:
        names = {each.name for each in self._repositories.all() if each.is_site}
        return name in names and self._repositories.fingerprint(name) == fingerprint

    def _read(self) -> bytes | None:
        try:
            with self._file.open("rb") as file:
                return file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return None

    def _settle(self, outcome: Outcome) -> None:
        atomic_write(self._outcome_file, msgspec.json.encode(outcome), mode=0o600)
        self._file.unlink(missing_ok=True)

    def _remembered(self) -> Outcome | None:
        """The last outcome while it holds; it goes once there is another owner or root."""
        try:
            outcome = msgspec.json.decode(self._outcome_file.read_bytes(), type=Outcome)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            return Outcome(problem=f"{self._outcome_file} is damaged", cure="remove it")
        if outcome.problem:
            holds = not self._access.is_claimed
        else:
            is_there = self._is_enrolled(outcome.name, outcome.fingerprint)
            holds = is_there and self._access.is_claimed
        if not holds:
            self._outcome_file.unlink()
        return outcome if holds else None


def _key(enrolment: Enrolment) -> Key | None:
    """The administrators' key as this box keeps it."""
    given = enrolment.admin_key
    if given is None:
        return None
    facts = KeyFacts(given.id, enrolment.repository.name, frozenset({Scope.ADMIN}))
    return Key(facts, bytes.fromhex(given.secret_sha256), created_at=0.0)


def _words(outcome: Outcome) -> tuple[str, str]:
    """What was done, and the fingerprint."""
    key = f", its administrators hold the key {outcome.admin_key}" if outcome.admin_key else ""
    names = " ".join(outcome.names)
    text = f"{FILE} made this box one of {outcome.name}, which signs {names}{key}"
    return text, outcome.fingerprint
