"""Bytes from a stick into the blob store: once, resumed, and never wrong (folder_content.py)."""

import asyncio
import os
import random
import subprocess

import pytest

from appliance.bundles.confined import filesystem_type
from appliance.bundles.folder_content import FolderContent
from appliance.bundles.layout import Layout
from appliance.errors import (
    DiskFullError,
    DownloadCorruptError,
    LibraryError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnreachableError,
)
from appliance.library.blobs import BlobStore
from appliance.library.manifest import Digest
from appliance.transfer.partial import CHUNK_BYTES
from tests.fakes.stick import PulledDisk, small_filesystem

DATA = random.Random(7).randbytes(5 * CHUNK_BYTES + 12345)
DIGEST = Digest.of(DATA)
PART_BYTES = 9_000_001  # of no relation to a chunk


@pytest.fixture(scope="module")
def stick(tmp_path_factory):
    layout = Layout.create(tmp_path_factory.mktemp("stick") / "hearth", part_bytes=PART_BYTES)
    layout.put_bytes(DATA)
    return layout.root


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path / "models" / "blobs")


def fetch(layout, store, digest=DIGEST, size=None):
    """What it told about its progress, in bytes."""
    told = []
    size = len(DATA) if size is None else size
    asyncio.run(FolderContent(layout).fetch("acme/a", digest, size, store, told.append))
    return told


def document(layout, digest, max_bytes):
    return asyncio.run(FolderContent(layout).document("acme/a", digest, max_bytes))


def left(store):
    return sorted(p.name for p in store.root.glob("*")) if store.root.is_dir() else []


def test_a_blob_in_parts_arrives_whole(stick, store):
    told = fetch(Layout(stick), store)
    assert store.path(DIGEST).read_bytes() == DATA
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, len(DATA))
    assert left(store) == [DIGEST.filename]


def test_an_empty_blob_arrives(stick, store):
    Layout(stick).put_bytes(b"")
    fetch(Layout(stick), store, Digest.of(b""), 0)
    assert store.size(Digest.of(b"")) == 0


def test_documents_are_checked_and_capped(stick):
    small = Layout(stick).put_bytes(b"{}")
    assert document(Layout(stick), small, 2) == b"{}"
    with pytest.raises(RegistryError, match="allowed"):
        document(Layout(stick), small, 1)
    with pytest.raises(RegistryNotFoundError):
        document(Layout(stick), Digest.of(b"other"), 2)


@pytest.mark.parametrize("budget", [0, 3 << 20, CHUNK_BYTES, 3 * CHUNK_BYTES + 1])
def test_a_pulled_stick_is_gone_on_with(stick, store, budget):
    """What was whole is not read again: at most one chunk is."""
    pulled = Layout(stick, disk=PulledDisk(budget))
    with pytest.raises(RegistryUnreachableError, match="cannot be read") as caught:
        fetch(pulled, store)
    assert "plugged in" in caught.value.hint
    assert not store.has(DIGEST)

    again = Layout(stick, disk=PulledDisk(1 << 60))
    told = fetch(again, store)
    assert store.path(DIGEST).read_bytes() == DATA
    kept = pulled.files.disk.bytes_read // CHUNK_BYTES * CHUNK_BYTES
    assert told[0] == kept
    assert again.files.disk.bytes_read == len(DATA) - kept


def test_an_unmounted_stick_is_told_from_one_that_lacks_a_blob(tmp_path, store):
    layout = Layout.create(tmp_path / "hearth")
    with pytest.raises(RegistryNotFoundError):
        fetch(layout, store)
    layout.root.rename(tmp_path / "elsewhere")
    with pytest.raises(RegistryUnreachableError, match="is gone"):
        fetch(layout, store)
    with pytest.raises(RegistryUnreachableError, match="is gone"):
        document(layout, DIGEST, 10)


def test_wrong_bytes_are_not_kept(tmp_path, store):
    layout = Layout.create(tmp_path / "hearth")
    layout.put_bytes(DATA)
    path = layout.root / "blobs" / "sha256" / DIGEST.hex
    with path.open("r+b") as file:
        file.seek(3 * CHUNK_BYTES)
        file.write(b"\0\0")
    with pytest.raises(DownloadCorruptError, match="damaged") as caught:
        fetch(layout, store)
    assert "copy the medium again" in caught.value.hint
    assert left(store) == []


@pytest.mark.parametrize("change", [-1, 1, -len(DATA)])
def test_a_copy_of_another_length_is_refused_before_a_byte_is_written(tmp_path, store, change):
    layout = Layout.create(tmp_path / "hearth")
    layout.put_bytes(DATA)
    path = layout.root / "blobs" / "sha256" / DIGEST.hex
    os.truncate(path, len(DATA) + change)
    with pytest.raises(DownloadCorruptError, match="were signed"):
        fetch(layout, store)
    assert left(store) == []


# -- full disks -----------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_refused_before_the_first_byte(stick, tmp_path):
    with small_filesystem(tmp_path / "disk", "20m") as disk:
        store = BlobStore(disk / "blobs")
        with pytest.raises(DiskFullError, match="the disk has"):
            fetch(Layout(stick), store)
        assert left(store) == []


def test_a_disk_that_fills_meanwhile_shows_nothing_half(stick, tmp_path):
    """Somebody else writes: the check before the first byte could not know."""
    with small_filesystem(tmp_path / "disk", "60m") as disk:
        store = BlobStore(disk / "blobs")
        layout = Layout(stick, disk=FillingDisk(disk / "other", 2 * CHUNK_BYTES))
        with pytest.raises(DiskFullError, match="no space left"):
            fetch(layout, store)
        assert not store.has(DIGEST)
        (disk / "other").unlink()
        fetch(Layout(stick), store)
        assert store.path(DIGEST).read_bytes() == DATA


class FillingDisk(PulledDisk):
    """Once `budget` bytes were read, fills the disk that they are written to."""

    def __init__(self, path, budget):
        super().__init__(budget)
        self.path = path

    def read(self, file, count, offset):
        if self.bytes_read >= self.budget and not self.path.exists():
            with self.path.open("wb", buffering=0) as other:
                try:
                    while other.write(b"\0" * (1 << 20)) == 1 << 20:
                        pass
                except OSError:
                    pass
            self.budget = 1 << 60
        return super().read(file, count, offset)


def test_a_medium_that_is_too_small_is_not_begun(tmp_path):
    with small_filesystem(tmp_path / "stick", "20m") as medium:
        layout = Layout.create(medium / "hearth")
        with pytest.raises(DiskFullError, match="are free there"):
            layout.put_bytes(DATA)
        assert not list((medium / "hearth" / "blobs").rglob("*.*"))


@pytest.mark.parametrize("spare_pages", range(4))
def test_a_medium_that_fills_at_the_last_writes_promises_nothing(tmp_path, spare_pages):
    """Blobs fit, index.json or the name in it does not."""
    with small_filesystem(tmp_path / "stick", "128k") as medium:
        layout = Layout.create(medium / "hearth")
        layout.put_bytes(DATA[:8192])
        with (medium / "ballast").open("wb", buffering=0) as ballast:
            free = os.statvfs(medium).f_bavail
            ballast.write(b"\0" * 4096 * (free - spare_pages))
        ref, digest = "acme/a:" + "1" * 500, Digest.of(DATA[:8192])
        try:
            layout.put_bytes(DATA[8192:12288])
            layout.set_release(ref, digest, 8192)
        except LibraryError as error:
            assert isinstance(error, DiskFullError)  # noqa: PT017 - which step fails varies
            assert layout.releases() == {}
        else:
            assert layout.releases() == {ref: digest}
        assert not list(medium.rglob(".hearth-*"))
        (medium / "ballast").unlink()
        layout.set_release(ref, digest, 8192)
        assert layout.releases() == {ref: digest}


def test_the_filesystem_is_recognised(tmp_path):
    """FAT itself is not to be had everywhere; that the word is read from the right place is."""
    said = subprocess.run(
        ["stat", "-f", "-c", "%t", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert filesystem_type(tmp_path) == int(said.stdout, 16)
    assert filesystem_type(tmp_path / "missing") == 0
