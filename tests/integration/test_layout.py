"""A layout folder: written whole or not at all, read without leaving it (bundles/layout.py)."""

import json
import os
import random
import socket
from pathlib import Path

import pytest

from appliance.bundles.layout import Layout
from appliance.errors import (
    DigestMismatchError,
    DownloadCorruptError,
    LibraryError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnreachableError,
)
from appliance.library.manifest import Digest
from tests.fakes.stick import DyingDisk, PulledDisk

DATA = random.Random(4).randbytes(2_500_000)
DIGEST = Digest.of(DATA)
PART_BYTES = 1 << 20


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "stick" / "hearth", part_bytes=PART_BYTES)


def names(layout: Layout) -> set[str]:
    return {p.name for p in (layout.root / "blobs" / "sha256").glob("*")}


def test_what_is_put_is_there(layout, tmp_path):
    (tmp_path / "file").write_bytes(DATA)
    layout.put_file(tmp_path / "file", DIGEST)
    small = layout.put_bytes(b"{}")

    assert b"".join(layout.chunks(DIGEST)) == DATA
    assert (layout.size(DIGEST), layout.size(small)) == (len(DATA), 2)
    assert layout.read(small, 10) == b"{}"
    assert names(layout) == {small.hex, *(f"{DIGEST.hex}.{n:03}" for n in range(3))}


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES])
def test_sizes_around_a_part(layout, size):
    digest = layout.put_bytes(DATA[:size])
    assert b"".join(layout.chunks(digest)) == DATA[:size]
    expected = 1 if size <= PART_BYTES else -(-size // PART_BYTES)
    assert len(names(layout)) == expected


@pytest.mark.parametrize(
    "first", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 7, 2 * PART_BYTES, len(DATA)]
)
def test_reading_from_the_middle(layout, first):
    layout.put_bytes(DATA)
    assert b"".join(layout.chunks_from(DIGEST, first)) == DATA[first:]


def test_an_ordinary_filesystem_gets_one_file(tmp_path):
    layout = Layout.create(tmp_path / "l")
    layout.put_bytes(DATA)
    assert names(layout) == {DIGEST.hex}


def test_wrong_bytes_are_not_written(layout):
    with pytest.raises(DigestMismatchError):
        layout.put_chunks(DIGEST, len(DATA), [DATA[:-1], b"x"])
    assert names(layout) == set()
    assert not layout.has(DIGEST)


def test_an_interrupted_copy_leaves_nothing_that_looks_whole(tmp_path):
    """Whatever the last call was: has() and index.json promise only what can be read."""
    broken = 0
    for calls in range(100):
        root = tmp_path / str(calls)
        Layout.create(root)
        dying = Layout(root, disk=DyingDisk(calls), part_bytes=PART_BYTES)
        try:
            dying.put_bytes(DATA)
            dying.set_release("acme/a:1", DIGEST, len(DATA))
        except LibraryError:
            broken += 1
        after = Layout(root)
        if after.has(DIGEST) or after.releases():
            assert b"".join(after.chunks(DIGEST)) == DATA
        after = Layout.create(root, part_bytes=PART_BYTES)
        assert not list(root.rglob(".hearth-*"))
        after.put_bytes(DATA)
        assert b"".join(after.chunks(DIGEST)) == DATA
        if dying.files.disk.left >= 0:  # it all went through
            break
    assert broken > 10
    assert after.releases() == {"acme/a:1": DIGEST}


def test_parts_of_an_interrupted_copy_with_other_parts_are_not_joined(layout):
    folder = layout.root / "blobs" / "sha256"
    folder.mkdir(parents=True)
    (folder / f"{DIGEST.hex}.003").write_bytes(b"of a copy with smaller parts")
    layout.put_bytes(DATA)
    assert b"".join(layout.chunks(DIGEST)) == DATA


def test_a_flipped_byte_and_a_lost_part_are_noticed(layout):
    layout.put_bytes(DATA)
    part = layout.root / "blobs" / "sha256" / f"{DIGEST.hex}.001"
    part.write_bytes(b"\0" + part.read_bytes()[1:])
    with pytest.raises(DownloadCorruptError):
        list(layout.chunks(DIGEST))
    part.unlink()
    with pytest.raises(DownloadCorruptError):
        layout.read(DIGEST, len(DATA))


# -- index.json -----------------------------------------------------------------------------


def test_the_index_has_the_same_bytes_whatever_the_order(tmp_path):
    one, two = Layout.create(tmp_path / "1"), Layout.create(tmp_path / "2")
    refs = [("acme/a:1", b"1"), ("acme/a:2", b"2"), ("acme/b:1", b"3")]
    for layout, order in ((one, refs), (two, refs[::-1])):
        layout.set_release("acme/a:1", Digest.of(b"old"), 3)
        for ref, data in order:
            layout.set_release(ref, Digest.of(data), 1)
    assert (one.root / "index.json").read_bytes() == (two.root / "index.json").read_bytes()
    assert one.releases() == {ref: Digest.of(data) for ref, data in refs}
    two.remove_entry("acme/a:2")
    assert list(two.releases()) == ["acme/a:1", "acme/b:1"]


def test_entries_of_other_programs_are_kept(layout):
    body = json.loads((layout.root / "index.json").read_bytes())
    foreign = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "x", "size": 1}
    body["manifests"] = [foreign]
    (layout.root / "index.json").write_text(json.dumps(body))
    layout.set_release("acme/a:1", DIGEST, 1)
    assert foreign in json.loads((layout.root / "index.json").read_bytes())["manifests"]
    assert layout.releases() == {"acme/a:1": DIGEST}


RELEASE = {
    "mediaType": "application/vnd.oci.image.index.v1+json",
    "artifactType": "application/vnd.hearth.bundle.v1",
    "digest": str(DIGEST),
    "size": 1,
    "annotations": {"org.opencontainers.image.ref.name": "acme/a:1"},
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "[" * 100_000,
        '{"schemaVersion":1,"manifests":[]}',
        '{"schemaVersion":2,"manifests":{}}',
        '{"schemaVersion":2,"manifests":[1]}',
        json.dumps({"schemaVersion": 2, "manifests": [RELEASE, RELEASE]}),
        json.dumps({"schemaVersion": 2, "manifests": [RELEASE | {"digest": "sha256:../../x"}]}),
        json.dumps({"schemaVersion": 2, "manifests": [RELEASE | {"digest": 7}]}),
        json.dumps({"schemaVersion": 2, "manifests": [RELEASE | {"size": -1}]}),
        json.dumps({"schemaVersion": 2, "manifests": [RELEASE | {"size": True}]}),
        json.dumps({"schemaVersion": 2, "manifests": [{}] * 10_001}),
        " " * (4 << 20) + "{}",
    ],
)
def test_a_hostile_index_is_refused(layout, text):
    (layout.root / "index.json").write_text(text)
    with pytest.raises(RegistryError, match=r"index\.json"):
        layout.releases()


@pytest.mark.parametrize("text", ["", "{}", '{"imageLayoutVersion":"2.0.0"}', "x" * 5000])
def test_what_is_no_layout_is_refused(layout, text):
    (layout.root / "oci-layout").write_text(text)
    with pytest.raises(RegistryError):
        layout.releases()


# -- confined -------------------------------------------------------------------------------


def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(DATA)
    return path


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))


HOSTILE = {
    "a link": lambda path, target: path.symlink_to(target),
    "a link upwards": lambda path, target: path.symlink_to("../../../../secret"),
    "a FIFO": lambda path, target: os.mkfifo(path),
    "a folder": lambda path, target: path.mkdir(),
    "a socket": lambda path, target: socket_at(path),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_blob_that_is_no_file_is_not_read(layout, tmp_path, monkeypatch, kind):
    folder = layout.root / "blobs" / "sha256"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)  # AF_UNIX paths are short
    HOSTILE[kind](Path(DIGEST.hex), secret(tmp_path))
    assert not layout.has(DIGEST)
    with pytest.raises(RegistryNotFoundError):
        layout.read(DIGEST, len(DATA))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a device node")
def test_a_device_is_not_read(layout):
    folder = layout.root / "blobs" / "sha256"
    folder.mkdir(parents=True)
    try:
        os.mknod(folder / DIGEST.hex, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("this sandbox makes no device nodes")
    assert not layout.has(DIGEST)


@pytest.mark.parametrize("step", ["blobs", "blobs/sha256", ""])
def test_folders_that_are_links_are_not_entered(layout, tmp_path, step):
    outside = tmp_path / "outside"
    layout.put_bytes(DATA)
    (layout.root / step).rename(outside)
    (layout.root / step).symlink_to(outside)
    with pytest.raises(RegistryError):
        layout.read(DIGEST, len(DATA))
    with pytest.raises((RegistryError, LibraryError)):
        layout.put_bytes(b"new")
    assert not [p for p in outside.rglob("*") if p.name.startswith(Digest.of(b"new").hex)]


@pytest.mark.parametrize("path", ["../x", "a/../x", "/x", "a//x", "", ".", "..", "a/\0"])
def test_paths_that_lead_elsewhere_are_refused(layout, path):
    with pytest.raises(RegistryError):
        layout.files.read(path, 10)
    with pytest.raises(RegistryError):
        layout.files.write(path, b"")


@pytest.mark.parametrize("repository", ["../x", "", ".", "A", "a/b", "a" * 41])
def test_repositories_have_plain_names(layout, repository):
    with pytest.raises(RegistryError):
        layout.metadata_folder(repository)


def test_a_huge_file_is_not_read_into_memory(layout):
    digest = layout.put_bytes(b"small")
    path = layout.root / "blobs" / "sha256" / digest.hex
    os.truncate(path, 1 << 40)  # sparse
    with pytest.raises(RegistryError, match="allowed"):
        layout.read(digest, 1 << 20)
    os.truncate(layout.root / "index.json", 1 << 40)
    with pytest.raises(RegistryError, match="allowed"):
        layout.releases()


def test_a_pulled_stick_is_told_as_one(layout):
    layout.put_chunks(DIGEST, len(DATA), [DATA])
    whole = Layout(layout.root, disk=PulledDisk(1 << 20))
    joined = layout.root / "blobs" / "sha256"
    (joined / DIGEST.hex).write_bytes(DATA)
    with pytest.raises(RegistryUnreachableError, match="cannot be read") as caught:
        list(whole.chunks(DIGEST))
    assert "plugged in" in caught.value.hint
