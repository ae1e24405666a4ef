"""Headers of pictures: kinds, sizes, and all the files that are none."""

import random
import struct

import pytest

from engine.errors import EngineRequestError
from engine.pictures import MAX_PICTURE_BYTES, PictureSize, read_size
from tests.fakes.seeing import bmp, png, png_of

GIF = bytes.fromhex(
    "47494638396103000200800000ffffff00000021f90401000000002c00000000010001000002024401003b"
)


def jpeg(width=40, height=30, *, frame=0xC0, before=b"", end=b"\xff\xd9"):
    size = struct.pack(">BHHB", 8, height, width, 0)
    sof = bytes((0xFF, frame)) + struct.pack(">H", 2 + len(size)) + size
    return b"\xff\xd8\xff\xe0\0\x04ab" + before + sof + b"\xff\xda\0\x02pixels" + end


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(40, 30), (40, 30)),
        (jpeg(), (40, 30)),
        (jpeg(frame=0xC2, before=b"\xff\xff\xe1\0\x06\xff\xc0\xff\xd9"), (40, 30)),
        (GIF, (3, 2)),
        (bmp(40, 30), (40, 30)),
    ],
)
def test_kinds_and_sizes(data, size):
    assert read_size(data) == PictureSize(*size)
    for length in range(1, len(data) - 1, max(1, len(data) // 50)):
        with pytest.raises(EngineRequestError):
            read_size(data[:length])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"hello", "it is not an image; allowed are PNG, JPEG, GIF"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "it is WebP, which this box cannot decode; allowed are"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "it is HEIC or AVIF"),
        (b"II*\0aaaaaaa", "it is TIFF"),
        (b"<svg xmlns=", "it is SVG"),
        (b"RIFF\0\0\0\0WAVEfmt ", "it is not an image"),
        (png_of(50_000, 50_000, b""), "it has 50000x50000 pixels; at most 33554432 pixels"),
        (png_of(20_000, 1, b""), "16384 on a side"),
        (png_of(0, 5, b""), "its header says 0x5 pixels"),
        (png()[:-12], "truncated"),
        (jpeg(end=b""), "truncated"),
        (jpeg(60_000, 60_000), "60000x60000 pixels"),
        (jpeg(frame=0xC9), "arithmetic coding"),
        (b"\xff\xd8\xff\xda\0\x02\xff\xd9", "its size is missing"),
        (GIF[:-1], "truncated"),
        (bmp()[:-5], "truncated"),
        (bytes(MAX_PICTURE_BYTES + 1), "at most 33554432 are allowed"),
    ],
)
def test_what_is_refused_and_how(data, words):
    with pytest.raises(EngineRequestError) as caught:
        read_size(data)
    assert words in str(caught.value)


def test_random_changes_end_in_a_size_or_a_refusal():
    rng = random.Random(5)
    for start in (png(), jpeg(), GIF, bmp(9, 9)):
        for _ in range(400):
            data = bytearray(start)
            for _ in range(rng.randint(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            try:
                read_size(bytes(data))
            except EngineRequestError:
                continue
