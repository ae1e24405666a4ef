"""Locks of unsigned models: kept on disk, one per name, and never lost in silence."""

import pytest

from appliance.errors import LibraryError
from appliance.library.names import ModelName
from appliance.trust.locks import Lock, Locks
from appliance.trust.policy import Mode, Offer, TrustPolicy, Verdict

LLAMA = ModelName.parse("llama3:8b")
FIRST = Lock("sha256:aa", "registry.ollama.ai", 1_800_000_000)


@pytest.fixture
def locks(tmp_path):
    return Locks(tmp_path / "trust" / "lock.json")


def test_a_lock_outlives_the_process_and_ignores_case(locks, tmp_path):
    assert locks.get(LLAMA) is None
    locks.put(LLAMA, FIRST)
    again = Locks(tmp_path / "trust" / "lock.json")
    assert again.get(ModelName.parse("LLAMA3:8B")) == FIRST
    assert again.get(ModelName.parse("llama3:70b")) is None


def test_removal_forgets_one(locks):
    locks.put(LLAMA, FIRST)
    locks.put(ModelName.parse("qwen3"), FIRST)
    locks.remove(LLAMA)
    locks.remove(LLAMA)
    assert locks.get(LLAMA) is None
    assert locks.get(ModelName.parse("qwen3")) == FIRST


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a": {"digest": 1}}', b'{"a": {"x": "y"}}'])
def test_a_damaged_file_is_an_error_and_not_an_open_door(locks, tmp_path, data):
    locks.put(LLAMA, FIRST)
    (tmp_path / "trust" / "lock.json").write_bytes(data)
    with pytest.raises(LibraryError, match="damaged"):
        locks.get(LLAMA)
    with pytest.raises(LibraryError, match="damaged"):
        locks.put(LLAMA, FIRST)


def test_a_changed_digest_needs_a_person_and_is_then_locked(locks):
    locks.put(LLAMA, FIRST)

    def decide(digest):
        lock = locks.get(LLAMA)
        offer = Offer(LLAMA, lock.host, digest=digest, locked_digest=lock.digest)
        return TrustPolicy(Mode.OPEN).decide(offer).verdict

    assert decide("sha256:aa") is Verdict.ALLOW
    assert decide("sha256:bb") is Verdict.CONFIRM
    locks.put(LLAMA, Lock("sha256:bb", FIRST.host, FIRST.locked_s + 1))
    assert decide("sha256:bb") is Verdict.ALLOW
