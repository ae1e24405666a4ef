"""One blob from a registry that misbehaves: it arrives whole, or the error says why."""

import asyncio
import hashlib
import os

import pytest
from yarl import URL

from appliance.errors import (
    DownloadCorruptError,
    LibraryError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnreachableError,
)
from appliance.library.blobs import BlobStore
from appliance.library.manifest import Digest
from appliance.transfer.download import fetch_blob
from appliance.transfer.identity import Identity
from appliance.transfer.partial import CHUNK_BYTES, Partial
from appliance.transfer.patience import Patience
from appliance.transfer.registry import Registry, open_session
from appliance.transfer.sources import Source
from tests.fakes.fault_proxy import fault_proxy

SIZE = 3 * CHUNK_BYTES + 12_345
DATA = os.urandom(SIZE)
DIGEST = Digest(hashlib.sha256(DATA).hexdigest())
QUICK = Patience(tries=3, stall_s=0.5, first_wait_s=0.001, longest_wait_s=0.01)


@pytest.fixture
async def proxy():
    async with fault_proxy() as running:
        running.blobs[str(DIGEST)] = DATA
        yield running


@pytest.fixture
async def registry_of(tmp_path):
    """Makes a client for the registry at host:port."""
    async with open_session(QUICK) as session:
        identity = Identity(tmp_path / "id_ed25519")

        def make(address):
            source = Source(URL(f"http://{address}"), "library/x")
            return Registry(source, session, identity, QUICK)

        yield make


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def fetch(store, registry_of, proxy):
    """Fetches the blob through the proxy; what progress it reported."""

    async def run(*more, digest=DIGEST, size=SIZE, parts=4):
        reports = []
        registries = [registry_of(proxy.address), *more]
        await fetch_blob(store, digest, size, registries, parts=parts, report=reports.append)
        return reports

    return run


def files(store):
    return sorted(path.name for path in store.root.iterdir())


def check(store):
    assert files(store) == [DIGEST.filename]
    assert store.path(DIGEST).read_bytes() == DATA


async def test_parts_come_at_once_and_progress_only_grows(fetch, store, proxy):
    reports = await fetch()
    check(store)
    assert reports == sorted(reports)
    assert reports[-1] == SIZE
    assert proxy.most_at_once > 1
    assert proxy.sent_bytes == SIZE


async def test_an_empty_blob_needs_no_request(fetch, store, proxy):
    await fetch(digest=Digest.of(b""), size=0)
    assert store.path(Digest.of(b"")).read_bytes() == b""
    assert proxy.requests == []


async def test_a_server_without_ranges_is_read_in_one_stream(fetch, store, proxy):
    proxy.faults.no_ranges = True
    await fetch()
    check(store)
    assert len(proxy.requests) == 1


async def test_what_breaks_off_goes_on_where_it_broke(fetch, store, proxy):
    proxy.faults.cut_times, proxy.faults.cut_after = 2, CHUNK_BYTES // 2
    reports = await fetch(parts=1)
    check(store)
    assert reports == sorted(reports)
    starts = [request.headers["Range"].split("-")[0] for request in proxy.requests]
    firsts = [int(start.removeprefix("bytes=")) for start in starts]
    # what the client's buffer held at the break is lost, the rest is not
    assert firsts[0] == 0 < firsts[1] <= CHUNK_BYTES // 2
    assert firsts == sorted(firsts)


async def test_a_stream_without_ranges_that_breaks_off_is_begun_again(fetch, store, proxy):
    proxy.faults.no_ranges = True
    proxy.faults.cut_times, proxy.faults.cut_after = 1, 2 * CHUNK_BYTES
    reports = await fetch()
    check(store)
    assert reports == sorted(reports)


async def test_a_busy_server_is_asked_again(fetch, store, proxy):
    proxy.faults.fail_times = QUICK.tries - 1
    await fetch()
    check(store)


async def test_tries_are_bounded(fetch, store, proxy):
    proxy.faults.fail_times = 1000
    with pytest.raises(RegistryUnreachableError, match="answered 503: not now"):
        await fetch()
    assert len(proxy.requests) == QUICK.tries
    assert DIGEST.filename not in files(store)


async def test_a_refusal_is_final(fetch, proxy):
    proxy.faults.fail_times, proxy.faults.fail_status = 1, 403
    with pytest.raises(RegistryError, match="answered 403") as refused:
        await fetch()
    assert "id_ed25519.pub" in refused.value.hint
    assert len(proxy.requests) == 1


async def test_a_missing_blob(fetch, proxy):
    proxy.blobs.clear()
    proxy.faults.fail_times, proxy.faults.fail_status = 1, 404
    with pytest.raises(RegistryNotFoundError):
        await fetch()


async def test_wrong_bytes_leave_nothing(fetch, store, proxy):
    proxy.faults.wrong_bytes = True
    with pytest.raises(DownloadCorruptError, match=f"want {DIGEST}, got sha256:"):
        await fetch()
    assert files(store) == []


async def test_the_next_source_helps_out(fetch, store, proxy, registry_of):
    proxy.faults.wrong_bytes = True
    async with fault_proxy() as good:
        good.blobs[str(DIGEST)] = DATA
        await fetch(registry_of(good.address))
    check(store)


async def test_a_stalled_server_is_left(fetch, store, proxy):
    proxy.faults.stall_after = 1000
    with pytest.raises(RegistryUnreachableError, match=r"nothing for 0\.5 s"):
        await fetch()
    assert DIGEST.filename not in files(store)


async def test_a_server_that_drips_is_left(fetch, store, proxy):
    proxy.faults.drip_s = 0.05
    with pytest.raises(RegistryUnreachableError, match=r"sent only \d+ bytes in 0\.5 s"):
        await fetch()
    assert len(proxy.requests) == QUICK.tries


async def test_a_stall_is_overcome_when_bytes_come_again(fetch, store, proxy):
    proxy.faults.stall_after = 1000

    async def recover():
        while len(proxy.requests) < 2:
            await asyncio.sleep(0.01)
        proxy.faults.stall_after = None

    await asyncio.gather(fetch(), recover())
    check(store)


async def test_a_length_that_is_not_the_manifests_is_refused(fetch, store, proxy):
    proxy.faults.no_ranges, proxy.faults.add_length = True, 10
    with pytest.raises(RegistryError, match=f"sends {SIZE + 10} bytes"):
        await fetch()


async def test_a_range_that_announces_too_much_is_judged_by_its_bytes(fetch, store, proxy):
    proxy.faults.add_length = 10
    await fetch()
    check(store)


async def test_more_bytes_than_announced_are_not_written(fetch, store, proxy):
    proxy.faults.no_ranges, proxy.faults.extra_bytes = True, b"x" * 100
    with pytest.raises(RegistryError, match="more bytes"):
        await fetch()
    assert DIGEST.filename not in files(store)


async def test_a_size_that_is_a_lie_is_refused(fetch, proxy):
    with pytest.raises(RegistryError, match="answers bytes"):
        await fetch(size=SIZE - 1)


async def test_compressed_bodies_are_refused(fetch, proxy):
    proxy.faults.compress = True
    with pytest.raises(RegistryError, match="compressed"):
        await fetch()


async def test_a_redirect_to_storage_carries_no_token(fetch, store, proxy):
    proxy.faults.realm = "own"
    async with fault_proxy() as storage:
        storage.blobs[str(DIGEST)] = DATA
        proxy.faults.redirect_to = f"http://{storage.address}"
        await fetch()
        check(store)
        assert all("Authorization" not in request.headers for request in storage.requests)
        assert storage.sent_bytes == SIZE


async def test_redirects_in_a_circle_end(fetch, proxy):
    proxy.faults.redirect_to = f"http://{proxy.address}"
    with pytest.raises(RegistryError, match="more than 5 times"):
        await fetch()


async def test_one_token_serves_all_parts(fetch, store, proxy):
    proxy.faults.realm = "own"
    await fetch()
    check(store)
    assert len(proxy.paths("/token")) == 1


async def test_a_foreign_realm_gets_neither_signature_nor_request(fetch, proxy, tmp_path):
    async with fault_proxy() as foreign:
        proxy.faults.realm = f"http://{foreign.address}/token"
        with pytest.raises(RegistryError, match="for a token"):
            await fetch()
        assert foreign.requests == []
    assert not (tmp_path / "id_ed25519").exists()


async def test_the_key_is_ours_alone(fetch, proxy, tmp_path):
    proxy.faults.realm = "own"
    await fetch()
    assert (tmp_path / "id_ed25519").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "id_ed25519.pub").read_text().startswith("ssh-ed25519 ")


async def test_cancelled_in_the_middle_it_goes_on_later(fetch, store, proxy):
    proxy.faults.stall_after = CHUNK_BYTES  # whole chunks come, and then it hangs
    task = asyncio.create_task(fetch())
    while not (store.root / f"{DIGEST.filename}-part").exists() or len(proxy.requests) < 2:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert DIGEST.filename not in files(store)
    proxy.faults.stall_after = None
    proxy.sent_bytes = 0
    reports = await fetch()
    check(store)
    assert reports[0] >= CHUNK_BYTES
    assert proxy.sent_bytes <= SIZE - CHUNK_BYTES


async def test_resuming_needs_no_ranges(fetch, store, proxy):
    def begin():
        partial = Partial(store, DIGEST, SIZE)
        partial.open()
        partial.write(0, [DATA[:1000], DATA[1000:CHUNK_BYTES]])
        partial.complete(0)
        partial.close()

    await asyncio.to_thread(begin)
    proxy.faults.no_ranges = True
    reports = await fetch()
    check(store)
    assert reports[0] == CHUNK_BYTES
    assert reports == sorted(reports)


@pytest.mark.parametrize(
    "journal",
    [
        b"",
        b"[]",
        b'{"size": 1, "chunk": 8388608, "done": "1"}',
        b'{"size": %d, "chunk": 8388608, "done": "ffffff"}' % SIZE,
        b'{"size": %d, "chunk": 8388608, "done": "-1"}' % SIZE,
        b'{"size": %d, "chunk": 8388608, "done": 1}' % SIZE,
    ],
)
async def test_a_damaged_journal_only_costs_time(fetch, store, proxy, journal):
    store.root.mkdir()
    (store.root / f"{DIGEST.filename}-part").write_bytes(b"\0" * SIZE)
    (store.root / f"{DIGEST.filename}-part.json").write_bytes(journal)
    await fetch()
    check(store)
    assert proxy.sent_bytes == SIZE


async def test_two_processes_do_not_write_one_file(fetch, store):
    other = Partial(store, DIGEST, SIZE)
    await asyncio.to_thread(other.open)
    with pytest.raises(LibraryError, match="another process"):
        await fetch()
    await asyncio.to_thread(other.close)
    await fetch()
    check(store)


def test_a_journal_without_its_file_vouches_for_nothing(tmp_path):
    """Killed between the blob's own name and the journal's end; pruned; killed again."""
    store = BlobStore(tmp_path / "blobs")
    first = Partial(store, DIGEST, SIZE)
    first.open()
    first.write(0, [DATA[:CHUNK_BYTES]])
    first.complete(0)
    first.close()
    (tmp_path / "blobs" / f"{DIGEST.filename}-part").unlink()
    second = Partial(store, DIGEST, SIZE)
    second.open()
    os.close(second._fd)  # a kill  # noqa: SLF001
    third = Partial(store, DIGEST, SIZE)
    third.open()
    assert third.missing == list(range(third.chunk_count))
    third.close()
