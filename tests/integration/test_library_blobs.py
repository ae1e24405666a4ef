"""The blob store: what is written is whole and verified, or not there."""

import contextlib
import os
import resource
import signal
import stat
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from appliance.errors import BadRequestError, DigestMismatchError, DiskFullError, LibraryError
from appliance.library.blobs import BlobStore, atomic_write
from appliance.library.manifest import Digest

DATA = b"weights" * 1000
DIGEST = Digest(sha256(DATA).hexdigest())


def write(store, *chunks, expected=None, size=None):
    """Write a blob to its end."""
    with store.writer(expected, size) as writer:
        for chunk in chunks:
            writer.write(chunk)
        return writer.commit()


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path / "blobs")


def files(store):
    return sorted(path.name for path in store.root.iterdir()) if store.root.exists() else []


def test_a_blob_is_written_in_pieces_and_found(store):
    with store.writer(DIGEST, len(DATA)) as writer:
        for start in range(0, len(DATA), 999):
            writer.write(DATA[start : start + 999])
        assert writer.commit() == DIGEST
    assert files(store) == [DIGEST.filename]
    assert store.has(DIGEST)
    assert store.size(DIGEST) == len(DATA)
    assert store.read(DIGEST, len(DATA)) == DATA
    assert list(store.stored()) == [DIGEST]
    assert stat.S_IMODE(store.path(DIGEST).stat().st_mode) == 0o644


def test_bytes_and_files_are_stored_once(store, tmp_path):
    assert store.put_bytes(DATA) == (DIGEST, len(DATA))
    source = tmp_path / "model.gguf"
    source.write_bytes(DATA)
    assert store.put_file(source) == (DIGEST, len(DATA))
    source.write_bytes(b"changed")
    assert store.read(DIGEST, len(DATA)) == DATA
    assert files(store) == [DIGEST.filename]


def test_a_wrong_digest_leaves_nothing(store):
    other = Digest("0" * 64)
    with pytest.raises(DigestMismatchError) as caught:
        write(store, DATA, expected=other)
    assert caught.value.message == f'digest mismatch, expected "{other}", got "{DIGEST}"'
    assert files(store) == []


def test_leaving_without_commit_leaves_nothing(store):
    with store.writer(DIGEST) as writer:
        writer.write(DATA)
    assert files(store) == []
    with pytest.raises(TypeError):
        write(store, DATA, None)
    assert files(store) == []


def test_more_bytes_than_announced_are_refused(store):
    with pytest.raises(BadRequestError, match="longer than the announced 10 bytes"):
        write(store, b"12345", b"678901", size=10)
    assert files(store) == []


def test_a_rotten_blob_is_replaced_by_verified_bytes(store):
    store.put_bytes(DATA)
    store.path(DIGEST).write_bytes(b"rot")
    write(store, DATA, expected=DIGEST)
    assert store.read(DIGEST, len(DATA)) == DATA


def test_what_is_missing_or_too_large_is_an_error_of_the_library(store):
    with pytest.raises(LibraryError, match="is missing"):
        store.read(DIGEST, 10)
    with pytest.raises(LibraryError, match="is missing"):
        store.size(DIGEST)
    store.put_bytes(DATA)
    with pytest.raises(LibraryError, match="larger than the 10 bytes"):
        store.read(DIGEST, 10)


def test_sweep_takes_the_dead_and_keeps_the_living(store):
    store.put_bytes(DATA)
    (store.root / ".hearth-dead").write_bytes(b"half")
    partials = ["sha256-" + "0" * 64 + "-partial", "sha256-" + "0" * 64 + "-partial-0"]
    for name in partials:  # Ollama's own downloads, to be resumed
        (store.root / name).write_bytes(b"{}")
    with store.writer() as writer:
        writer.write(b"alive")
        store.sweep()
        digest = writer.commit()
    assert files(store) == sorted([DIGEST.filename, digest.filename, *partials])


def test_blobs_of_old_ollama_versions_are_renamed(store):
    store.root.mkdir()
    (store.root / f"sha256:{DIGEST.hex}").write_bytes(DATA)
    store.sweep()
    assert files(store) == [DIGEST.filename]


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a" / "b" / "c"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["c"]


def test_a_size_that_cannot_fit_is_refused_before_any_byte(store):
    with pytest.raises(DiskFullError, match="the blob needs") as caught:
        write(store, size=1 << 60)
    assert "hearth rm" in caught.value.hint
    assert files(store) == []


@contextlib.contextmanager
def file_size_limit(size):
    """The kernel refuses to grow a file beyond `size`, as a quota does."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_quota_in_the_middle_leaves_nothing(store):
    with file_size_limit(3000), pytest.raises(DiskFullError, match="no space left"):
        write(store, DATA)
    assert files(store) == []


@pytest.fixture
def small_disk(tmp_path):
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs root and a mountable tmpfs")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_in_the_middle_leaves_nothing(small_disk):
    store = BlobStore(small_disk / "blobs")
    kept, _ = store.put_bytes(DATA)
    with pytest.raises(DiskFullError, match="no space left"):
        write(store, *[bytes(1000)] * 1000)
    assert files(store) == [kept.filename]
    with pytest.raises(DiskFullError):
        atomic_write(small_disk / "manifest", bytes(300_000))
    assert [entry.name for entry in small_disk.iterdir()] == ["blobs"]
    assert store.put_bytes(b"there is room again")[1] == 19


def test_a_store_in_an_impossible_place_is_an_error_of_the_library(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(LibraryError, match="could not be written"):
        BlobStore(blocked / "blobs").put_bytes(DATA)


WRITER = """
import sys
from pathlib import Path
from appliance.library.blobs import BlobStore, atomic_write
root = Path(sys.argv[1])
store = BlobStore(root / "blobs")
print("go", flush=True)
for n in range(1_000_000):
    data = str(n).encode() * 20_000
    with store.writer() as writer:
        for start in range(0, len(data), 4096):
            writer.write(data[start:start + 4096])
        digest = writer.commit()
    atomic_write(root / "current", str(digest).encode())
"""


def test_killed_at_any_moment_nothing_is_broken(tmp_path):
    store = BlobStore(tmp_path / "blobs")
    for _ in range(30):
        with subprocess.Popen(
            [sys.executable, "-S", "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as process:
            process.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=int.from_bytes(os.urandom(1)) / 5000)
            process.kill()
        store.sweep()
        names = files(store)
        for name in names:
            data = (store.root / name).read_bytes()
            assert name == Digest(sha256(data).hexdigest()).filename
        if (tmp_path / "current").exists():
            current = Digest.parse((tmp_path / "current").read_text())
            assert current.filename in names
