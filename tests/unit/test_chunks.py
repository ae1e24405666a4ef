"""The map of a blob's chunks: where they lie, and that the pieces it came in do not matter."""

import hashlib
import random

import pytest

from appliance.library.chunks import CHUNK_BYTES, ChunkHasher, ChunkMap
from appliance.library.manifest import Digest
from engine.gguf.reader import read_header
from tests.fakes.gguf_builder import tiny_llama_bytes

DIGEST = Digest.of(b"x")
NOISE = random.Random(4).randbytes(1 << 20)


def gguf(name):
    return tiny_llama_bytes(ballast_mib=13, metadata={"general.name": name})


@pytest.fixture(scope="module")
def one():
    return gguf("a")


def noise(count):
    return (NOISE * (count // len(NOISE) + 1))[:count]


def mapped(data, *, size=None, piece=1 << 20):
    hasher = ChunkHasher(size)
    for at in range(0, len(data), piece):
        hasher.update(data[at : at + piece])
    return hasher.result()


def check(chunks, data):
    spans = chunks.spans(len(data))
    assert [hashlib.sha256(data[a:b]).hexdigest() for a, b in spans] == list(chunks.hashes)
    assert b"".join(data[a:b] for a, b in spans) == data
    assert all(b - a <= CHUNK_BYTES for a, b in spans)


@pytest.mark.parametrize("count", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 5])
def test_what_is_no_gguf_is_cut_from_its_first_byte(count):
    data = noise(count)
    chunks = mapped(data)
    assert chunks.first == 0
    assert len(chunks.hashes) == -(-count // CHUNK_BYTES)
    check(chunks, data)


@pytest.mark.parametrize("piece", [1000, 1 << 20, 3 << 20, 64 << 20])
@pytest.mark.parametrize("is_known", [True, False])
def test_chunks_start_where_tensors_do(one, tmp_path, piece, is_known):
    (tmp_path / "x").write_bytes(one)
    chunks = mapped(one, size=len(one) if is_known else None, piece=piece)
    assert chunks.first == read_header(tmp_path / "x").data_offset
    assert len(chunks.hashes) > 2
    check(chunks, one)


def test_another_header_leaves_the_hashes_of_the_tensors_as_they_were(one):
    one = mapped(one)
    two = mapped(gguf("a much longer name" * 40))
    assert one.first != two.first
    assert one.hashes[0] != two.hashes[0]
    assert one.hashes[1:] == two.hashes[1:]
    assert len(one.hashes) > 2


def test_a_header_that_never_ends_is_cut_from_0():
    data = b"GGUF\x03\0\0\0" + noise(2 * CHUNK_BYTES)
    chunks = mapped(data)
    assert chunks.first == 0
    check(chunks, data)


def test_there_and_back():
    chunks = mapped(noise(3 * CHUNK_BYTES))
    assert ChunkMap.parse(chunks.encode(DIGEST), DIGEST) == chunks
    assert ChunkMap.parse(chunks.encode(DIGEST), Digest.of(b"y")) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"chunk_bytes":1,"blobs":{"%s":{"first":0,"hashes":[]}}}',
        '{"chunk_bytes":4194304,"blobs":[]}',
        '{"chunk_bytes":4194304,"blobs":{"%s":{"first":-1,"hashes":[]}}}',
        '{"chunk_bytes":4194304,"blobs":{"%s":{"first":true,"hashes":[]}}}',
        '{"chunk_bytes":4194304,"blobs":{"%s":{"first":0,"hashes":["x"]}}}',
        '{"chunk_bytes":4194304,"blobs":{"%s":{"first":0,"hashes":[1]}}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_map_is_none(text):
    assert ChunkMap.parse(text.replace("%s", str(DIGEST)).encode(), DIGEST) is None


def test_a_map_of_another_size_is_not_used():
    chunks = mapped(noise(3 * CHUNK_BYTES))
    assert chunks.spans(3 * CHUNK_BYTES + 1) == []
    assert chunks.spans(CHUNK_BYTES) == []
    assert ChunkMap(100, ()).spans(50) == []
