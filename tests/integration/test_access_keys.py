"""Keys, the claim and the audit log over a real database, with a clock of the test's own."""

import asyncio
import hmac
import sqlite3
from contextlib import asynccontextmanager, closing

import pytest

from appliance.access import keys as keys_module
from appliance.access.access import RESET_FILE, Access
from appliance.access.audit import KEPT, MAX_VALUE
from appliance.access.caller import Caller, KeyFacts, OriginKind, Ring, Scope
from appliance.access.claim import LOCK_S, MAX_TRIES
from appliance.access.guessers import WRONG_KEYS
from appliance.access.keys import KEPT_REVOKED, STALE_S
from appliance.config import load_settings
from appliance.db import FILE, Database
from appliance.errors import (
    ConflictError,
    DiskFullError,
    ForbiddenError,
    LibraryError,
    NotFoundError,
    RateLimitedError,
    UnauthorizedError,
)
from appliance.network import Network
from tests.fakes.loop_disk import fill, small_disk
from tests.fakes.waiting import until

PHONE = Caller("192.168.1.7", Ring.LAN)
BOX = Caller("", Ring.HERE, scopes=frozenset(Scope))
CHAT = KeyFacts("", "Anna's phone", frozenset({Scope.CHAT}))
ADMIN = KeyFacts("", "owner", frozenset({Scope.ADMIN}))


class Clock:
    now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def start(tmp_path, clock):
    """Opens the access of the box in `tmp_path`, as each start of the service does."""

    @asynccontextmanager
    async def opened(**settings):
        flags = {"state": str(tmp_path), **settings}
        found = await asyncio.to_thread(load_settings, flags, {}, None)
        access = Access(found, Database(tmp_path), Network(), clock)
        await access.open()
        try:
            yield access
        finally:
            await access.close()

    return opened


# -- keys --------------------------------------------------------------------------------------


async def test_a_key_is_known_also_after_a_restart_and_its_secret_is_nowhere(start, tmp_path):
    async with start() as access:
        key, token = await access.create_key(CHAT)
        assert access.keys.find(token) == key.facts
    content = b"".join(path.read_bytes() for path in tmp_path.glob(f"{FILE}*"))
    assert token.encode() not in content
    assert token.rpartition("_")[2].encode() not in content
    async with start() as access:
        assert access.keys.find(token) == key.facts


async def test_a_revoked_key_is_worth_nothing_also_after_a_restart(start):
    async with start() as access:
        key, token = await access.create_key(CHAT)
        await access.revoke_key(key.facts.id)
        assert access.keys.find(token) is None
        await access.revoke_key(key.facts.id)  # twice is once
        with pytest.raises(NotFoundError):
            await access.revoke_key("nobody")
    async with start() as access:
        assert access.keys.find(token) is None


async def test_wrong_tokens(start):
    async with start() as access:
        key, token = await access.create_key(CHAT)
        other, _ = await access.create_key(CHAT)
        secret = token.rpartition("_")[2]
        for wrong in (
            "",
            "hearth_",
            token[:-1],
            token + "x",
            token.upper(),
            f"hearth_{other.facts.id}_{secret}",
            f"hearth_{key.facts.id}_",
            f"hearth__{secret}",
            f"hearth_{key.facts.id}_{secret}_{secret}",
            f"hearth_{key.facts.id}_" + "x" * 10_000,
            f"hearth_{key.facts.id}_\udcff",
            token + "\n",
        ):
            assert access.keys.find(wrong) is None, wrong


async def test_every_try_compares_in_constant_time_also_of_an_unknown_id(start, monkeypatch):
    """One comparison of 32 bytes each, by hmac.compare_digest, whatever the token is."""
    compared = []

    def compare(left, right):
        compared.append((len(left), len(right)))
        return hmac.compare_digest(left, right)

    class Recorded:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(keys_module, "hmac", Recorded)
    async with start() as access:
        key, token = await access.create_key(CHAT)
        wrong_secret = f"hearth_{key.facts.id}_{'x' * 52}"
        for tried in (token, wrong_secret, f"hearth_nobody00_{'x' * 52}", "hearth_", "ollama"):
            access.keys.find(tried)
    assert compared == [(32, 32)] * 5


async def test_the_last_use_is_written_in_batches(start, clock):
    async with start() as access:
        _, token = await access.create_key(CHAT)
        for _ in range(5):
            access.identify(PHONE, token, "")
            clock.now += 1
        assert access.keys.list()[0].last_used_at == clock.now - 1
    async with start() as access:
        assert access.keys.list()[0].last_used_at == clock.now - 1


async def test_a_use_is_worth_a_write_once_an_hour(start, clock):
    async with start() as access:
        key, _ = await access.create_key(CHAT)
        for later_s in (0, STALE_S, -60):  # the last: a clock that was set back
            now = clock.now + later_s
            assert access.keys.note_use(key.facts.id, now)
            await access.keys.flush()
            assert not access.keys.note_use(key.facts.id, now + STALE_S - 1)


async def test_revoked_keys_are_forgotten_in_time(start, clock):
    async with start() as access:
        _, token = await access.create_key(CHAT)
        for _ in range(KEPT_REVOKED + 3):
            clock.now += 1
            key, _ = await access.create_key(CHAT)
            await access.revoke_key(key.facts.id)
        assert len(access.keys.list()) == KEPT_REVOKED + 1
    async with start() as access:
        assert len(access.keys.list()) == KEPT_REVOKED + 1
        assert access.keys.find(token)


async def test_words_that_are_no_keys_leave_a_guest_a_guest(start):
    async with start() as access:
        for word in ("ollama", "sk-1234", "x", "", "Hearth_1_2", "hearth"):
            caller = access.identify(PHONE, word, "")
            assert caller.key is None
            assert caller.scopes == {Scope.CHAT}


async def test_guessers_wait_and_the_owner_never_does(start, clock):
    async with start() as access:
        _, token = await access.create_key(ADMIN)
        for _ in range(WRONG_KEYS):
            with pytest.raises(UnauthorizedError):
                access.identify(PHONE, "hearth_guess_guess", "")
        with pytest.raises(RateLimitedError) as refused:
            access.identify(PHONE, "hearth_guess_guess", "")
        assert 0 < refused.value.retry_after_s <= 600
        assert access.identify(PHONE, token, "").key.name == "owner"
        with pytest.raises(UnauthorizedError):  # another address
            access.identify(Caller("192.168.1.8", Ring.LAN), "hearth_guess_guess", "")
        clock.now += 601
        with pytest.raises(UnauthorizedError):
            access.identify(PHONE, "hearth_guess_guess", "")


async def test_one_guesser_with_a_whole_prefix_is_one(start):
    async with start() as access:
        seen = []
        for number in range(WRONG_KEYS + 5):
            caller = Caller(f"2001:db8::{number:x}", Ring.OUTSIDE)
            with pytest.raises((UnauthorizedError, RateLimitedError)) as refused:
                access.identify(caller, "hearth_guess_guess", "")
            seen.append(type(refused.value))
        assert seen[-1] is RateLimitedError


async def test_a_user_is_believed_with_a_key_or_on_the_box(start):
    async with start() as access:
        _, token = await access.create_key(CHAT)
        assert access.identify(PHONE, token, "u1").user == "u1"
        assert access.identify(BOX, "", "u1").user == "u1"
        assert access.identify(PHONE, "", "u1").user == ""


# -- claiming ----------------------------------------------------------------------------------


async def test_a_new_box_is_claimed_once(start):
    async with start() as access:
        code = access.code
        assert not access.is_claimed
    async with start() as access:
        assert access.code == code  # it survives a restart
        key, token = await access.claim_box(PHONE, code, "Anna")
        assert key.facts.scopes == {Scope.ADMIN}
        assert access.keys.find(token).name == "Anna"
        assert access.is_claimed
        assert access.code is None
        await access.revoke_key(key.facts.id)  # it stays owned
        with pytest.raises(ConflictError, match="has an owner"):
            await access.claim_box(PHONE, code, "Eve")
    async with start() as access:
        assert access.is_claimed
        with pytest.raises(ConflictError):
            await access.claim_box(PHONE, code, "Eve")


async def test_two_at_once_are_not_both_owners(start):
    async with start() as access:
        code = access.code
        claims = [access.claim_box(PHONE, code, f"n{n}") for n in range(10)]
        results = await asyncio.gather(*claims, return_exceptions=True)
        assert sum(isinstance(result, tuple) for result in results) == 1
        assert sum(isinstance(result, ConflictError) for result in results) == 9
        assert len(access.keys.list()) == 1


async def test_the_code_as_people_write_it(start):
    async with start() as access:
        plain = access.code.replace("-", "")
        written = f" {plain[:2]} {plain[2:]} ".lower().replace("0", "o").replace("1", "I")
        await access.claim_box(PHONE, written, "Anna")


async def test_five_wrong_codes_close_the_door_also_through_a_restart(start, clock):
    async with start() as access:
        code = access.code
        for _ in range(MAX_TRIES):
            with pytest.raises(ForbiddenError):
                await access.claim_box(PHONE, "AAAA-AAAA", "Eve")
        with pytest.raises(RateLimitedError):
            await access.claim_box(PHONE, code, "Eve")
    async with start() as access:
        with pytest.raises(RateLimitedError) as refused:
            await access.claim_box(Caller("192.168.1.9", Ring.LAN), code, "Eve")
        assert 800 < refused.value.retry_after_s <= 900
        clock.now -= 10 * 365 * 86_400  # a board without a battery starts in the past
        with pytest.raises(RateLimitedError) as refused:
            await access.claim_box(PHONE, code, "Eve")
        assert refused.value.retry_after_s <= 900
        clock.now += LOCK_S + 1
        await access.claim_box(PHONE, code, "Anna")


async def test_tries_are_counted_through_restarts(start):
    for _ in range(MAX_TRIES):
        async with start() as access:
            with pytest.raises(ForbiddenError):
                await access.claim_box(PHONE, "AAAA-AAAA", "Eve")
    async with start() as access:
        with pytest.raises(RateLimitedError):
            await access.claim_box(PHONE, access.code, "Eve")


async def test_nobody_on_the_network_locks_out_who_stands_at_the_box(start):
    async with start() as access:
        for _ in range(MAX_TRIES):
            with pytest.raises(ForbiddenError):
                await access.claim_box(PHONE, "AAAA-AAAA", "Eve")
        await access.claim_box(BOX, access.code, "Anna")


async def test_an_app_on_the_box_guesses_no_faster_than_the_network(start):
    app = Caller("127.0.0.1", Ring.HERE, OriginKind.APP, "app://x", scopes=frozenset({Scope.CHAT}))
    async with start() as access:
        for _ in range(MAX_TRIES):
            with pytest.raises(ForbiddenError):
                await access.claim_box(app, "AAAA-AAAA", "Eve")
        with pytest.raises(RateLimitedError):
            await access.claim_box(app, access.code, "Eve")


@pytest.mark.parametrize("typed", ["", "x" * 10_000, "\udcff", "ÅÅÅÅ-ÅÅÅÅ", "\0" * 8])
async def test_odd_codes_are_wrong_codes(start, typed):
    async with start() as access:
        with pytest.raises(ForbiddenError, match="not the code"):
            await access.claim_box(PHONE, typed, "Eve")


async def test_a_box_is_not_claimed_from_outside(start):
    async with start() as access:
        with pytest.raises(ForbiddenError, match="its own network"):
            await access.claim_box(Caller("8.8.8.8", Ring.OUTSIDE), access.code, "Eve")
        assert not access.is_claimed
    async with start(access_lan="off") as access:
        with pytest.raises(ForbiddenError):
            await access.claim_box(PHONE, access.code, "Eve")


async def test_an_admin_key_made_on_the_box_makes_it_owned(start):
    async with start() as access:
        code = access.code
        await access.create_key(CHAT)
        assert not access.is_claimed
        key, _ = await access.create_key(ADMIN)
        await access.revoke_key(key.facts.id)
        assert access.code is None  # it stays owned: only the physical act makes a new code
        with pytest.raises(ConflictError):
            await access.claim_box(PHONE, code, "Eve")


async def test_the_reset_file_takes_the_box_back(start, tmp_path):
    async with start() as access:
        code = access.code
        _, token = await access.claim_box(PHONE, code, "Anna")
    (tmp_path / RESET_FILE).touch()
    async with start() as access:
        assert access.keys.find(token) is None
        assert not access.is_claimed
        assert access.code != code
        new_code = access.code
        assert not (tmp_path / RESET_FILE).exists()
        assert (await access.audit.entries(1))[0].action == "reset"
    async with start() as access:
        assert access.code == new_code
        await access.claim_box(PHONE, new_code, "Anna")


async def test_a_box_whose_database_was_lost_is_claimed_anew(start, tmp_path):
    async with start() as access:
        code = access.code
        _, token = await access.claim_box(PHONE, code, "Anna")
    (tmp_path / FILE).write_bytes(b"not a database" * 1000)
    async with start() as access:
        assert access.problems
        assert access.keys.find(token) is None
        with pytest.raises(ForbiddenError):
            await access.claim_box(PHONE, code, "Eve")  # the old code counts for nothing
        await access.claim_box(PHONE, access.code, "Anna")


async def test_a_full_disk_makes_no_half_keys(tmp_path, clock):
    with small_disk(tmp_path, 4) as disk:
        settings = await asyncio.to_thread(load_settings, {"state": str(disk)}, {}, None)
        access = Access(settings, Database(disk), Network(), clock)
        await access.open()
        try:
            await asyncio.to_thread(fill, disk / "filler")
            access.note(PHONE, "POST /api/pull", "llama", "ok")
            with pytest.raises(DiskFullError):
                await make_many(access)  # the file has some room left
            known = len(access.keys.list())
            (disk / "filler").unlink()
            await access.keys.load()
            assert len(access.keys.list()) == known
            await access.create_key(CHAT)
            assert (await access.audit.entries(1))[0].target == "llama"
        finally:
            await access.close()


async def test_a_key_that_cannot_be_revoked_for_good_is_refused_now(start, tmp_path):
    async with start() as access:
        key, token = await access.create_key(CHAT)
    (tmp_path / f"{FILE}-wal").mkdir()  # so that SQLite cannot write, as on a broken disk
    (tmp_path / f"{FILE}-wal" / "x").touch()
    async with start() as access:
        assert access.keys.find(token) == key.facts
        with pytest.raises(LibraryError, match="refused until a restart"):
            await access.revoke_key(key.facts.id)
        assert access.keys.find(token) is None
        with pytest.raises(LibraryError, match="nothing was changed"):
            await access.create_key(CHAT)


async def make_many(access):
    for _ in range(200):
        await access.create_key(CHAT)


# -- audit -------------------------------------------------------------------------------------


async def test_the_audit_log_holds_what_was_done(start):
    async with start() as access:
        access.note(PHONE, "POST /api/pull", "llama", "ok")
        access.note(PHONE, "POST /api/create", "x\n\x1b[31mFORGED \u202e" + "y" * 999, "ok")
    async with start() as access:
        newest, oldest = await access.audit.entries(10)
        assert (oldest.who, oldest.action, oldest.target) == (
            PHONE.address,
            "POST /api/pull",
            "llama",
        )
        assert newest.target.isprintable()
        assert len(newest.target) <= MAX_VALUE
        assert r"x\n\x1b[31mFORGED" in newest.target


async def test_refusals_cannot_push_out_what_was_done(start, clock):
    async with start() as access:
        access.note(PHONE, "POST /api/pull", "llama", "ok")
        for number in range(KEPT[True] + 500):
            caller = Caller(f"10.0.{number // 250}.{number % 250}", Ring.LAN)
            for _ in range(2):  # the second is not noted
                access.note(caller, "DELETE /api/delete", "", "forbidden", is_refused=True)
            if number % 500 == 0:
                await access.audit.flush()
        entries = await access.audit.entries(10_000)
        assert len(entries) <= KEPT[True] + 1
        assert entries[-1].outcome == "ok"
        assert len({entry.who for entry in entries}) == len(entries)


async def test_no_secret_is_in_the_audit_log(start):
    async with start() as access:
        code = access.code
        _, token = await access.claim_box(PHONE, code, "Anna")
        for _ in range(WRONG_KEYS + 1):
            with pytest.raises((UnauthorizedError, RateLimitedError)):
                access.identify(PHONE, token + "x", "")
        text = str(await access.audit.entries(100))
    assert token not in text
    assert code not in text
    assert "wrong keys" in text


async def test_notes_are_written_by_themselves(start, tmp_path):
    def written():
        with closing(sqlite3.connect(tmp_path / FILE)) as other:
            return other.execute("SELECT target FROM audit").fetchall()

    async with start() as access:
        running = asyncio.create_task(access.run_forever())
        access.note(PHONE, "POST /api/pull", "llama", "ok")
        await until(lambda: written() == [("llama",)])
        running.cancel()
        await asyncio.wait([running])
