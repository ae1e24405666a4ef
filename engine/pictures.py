"""What an encoded picture says of itself: kind and size, read off its header without decoding it.

Pure and bounded: a walk over the file's own parts. It is done before any pixel is decoded, so that
a picture that would unfold to gigabytes is refused in time. Decoding is a worker's affair. The
kinds are those that llama.cpp's multimodal library decodes by itself (stb_image); it would start
ffmpeg for others, and read some as sound.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engine.errors import EngineRequestError

MAX_PICTURE_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 1 << 25  # 33 megapixels: 100 MB as colours, and about as much again while decoding
MAX_SIDE = 16_384
KINDS = "PNG, JPEG, GIF (its first frame) and BMP"

_PNG = b"\x89PNG\r\n\x1a\n"
_ISO_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
_FOREIGN = {  # common kinds that we cannot decode: said by name
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"%PDF": "PDF",
    b"\0\0\1\0": "an icon",
    b"<svg": "SVG",
    b"<?xml": "XML or SVG",
    b"\x0a\xff": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
}
_ZLIB_RATIO = 1032  # the most that deflate can shrink
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# JPEG markers that carry the size; DHT, JPG and DAC lie among them and do not
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_DECODED_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # what stb_image reads: baseline, progressive


@dataclass(frozen=True, slots=True)
class PictureSize:
    """Pixels."""

    width: int
    height: int


def read_size(data: bytes) -> PictureSize:
    """Kind, completeness and size; raises EngineRequestError with the reason and the remedy."""
    if not data:
        raise EngineRequestError("it is empty")
    if len(data) > MAX_PICTURE_BYTES:
        raise EngineRequestError(
            f"it has {len(data)} bytes; at most {MAX_PICTURE_BYTES} are allowed; make it smaller"
        )
    try:
        size = _reader(data)(data)
    except (struct.error, IndexError):
        raise _truncated() from None
    if size.width < 1 or size.height < 1:
        raise EngineRequestError(f"its header says {size.width}x{size.height} pixels")
    if size.width * size.height > MAX_PIXELS or max(size.width, size.height) > MAX_SIDE:
        raise EngineRequestError(
            f"it has {size.width}x{size.height} pixels; at most {MAX_PIXELS} pixels and"
            f" {MAX_SIDE} on a side are allowed; make it smaller"
        )
    return size


def check_unfolding(data: bytes, size: PictureSize) -> None:
    """Refuse a PNG whose compressed rows unfold to more than its header says.

    The decoder would take memory for all of it. Takes as long as inflating; a worker does it.
    """
    if not data.startswith(_PNG):
        return
    expected = _png_bytes(data, size)
    pieces = [data[start:end] for kind, start, end in _png_chunks(data) if kind == b"IDAT"]
    if sum(map(len, pieces)) * _ZLIB_RATIO <= 2 * expected:
        return
    inflater, total = zlib.decompressobj(), 0
    for piece in pieces:
        rest = piece
        while rest and not inflater.eof:
            try:
                total += len(inflater.decompress(rest, 1 << 20))
            except zlib.error as error:
                raise EngineRequestError(f"its compressed rows are damaged ({error})") from None
            rest = inflater.unconsumed_tail
            if total > expected:
                raise EngineRequestError(
                    f"its header says {size.width}x{size.height} pixels, but more are packed in it"
                )


def _reader(data: bytes) -> Callable[[bytes], PictureSize]:
    if data.startswith(_PNG):
        return _png
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _gif
    if data.startswith(b"BM"):
        return _bmp
    raise EngineRequestError(f"{_named(data)}; allowed are {KINDS}; convert it")


def _named(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "it is WebP, which this box cannot decode"
    if data[4:8] == b"ftyp" and data[8:12] in _ISO_BRANDS:
        return "it is HEIC or AVIF, which this box cannot decode"
    for start, name in _FOREIGN.items():
        if data.startswith(start):
            return f"it is {name}, which this box cannot decode"
    return "it is not an image"


def _truncated() -> EngineRequestError:
    return EngineRequestError("it is truncated: its end is missing")


# -- PNG (RFC 2083) --------------------------------------------------------------------------


def _png(data: bytes) -> PictureSize:
    chunks = _png_chunks(data)
    kind, start, end = next(chunks)
    if kind != b"IHDR" or end - start != 13:
        raise EngineRequestError("it is a damaged PNG: the header is missing")
    if not any(kind == b"IEND" for kind, _, _ in chunks):
        raise _truncated()
    return PictureSize(*struct.unpack_from(">II", data, start))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the data of each chunk that is whole, up to IEND."""
    at, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        start, end = at + 8, at + 8 + length
        if end + 4 > len(data):
            raise _truncated()
        yield kind, start, end
        at = end + 4


def _png_bytes(data: bytes, size: PictureSize) -> int:
    """Bytes of all rows with their filters; interlaced ones have up to seven rows for eight."""
    depth, colour = data[24], data[25]
    bits = depth * _PNG_CHANNELS.get(colour, 4)
    return 2 * (size.height * ((size.width * bits + 7) // 8 + 1)) + 64


# -- JPEG (ITU T.81) -------------------------------------------------------------------------


def _jpeg(data: bytes) -> PictureSize:
    at, found = 2, None
    while True:
        at = data.index(0xFF, at) if 0xFF in data[at : at + 1] else _next_marker(data, at)
        marker = data[at + 1]
        at += 2
        if marker == 0xFF:
            at -= 1
        elif marker in _ALONE:
            continue
        elif marker == 0xDA and found is not None:
            if data.find(b"\xff\xd9", at) < 0:
                raise _truncated()
            return found
        elif marker in (0xD9, 0xDA):
            raise EngineRequestError("it is a damaged JPEG: its size is missing")
        else:
            (length,) = struct.unpack_from(">H", data, at)
            if marker in _FRAMES:
                if marker not in _DECODED_FRAMES:
                    raise EngineRequestError(
                        "it is a JPEG of a rare kind (lossless or arithmetic coding), which this"
                        " box cannot decode; save it as a baseline or progressive one"
                    )
                height, width = struct.unpack_from(">HH", data, at + 3)
                found = found or PictureSize(width, height)
            at += max(length, 2)


def _next_marker(data: bytes, at: int) -> int:
    found = data.find(b"\xff", at)
    if found < 0:
        raise _truncated()
    return found


# -- GIF and BMP -----------------------------------------------------------------------------


def _gif(data: bytes) -> PictureSize:
    size = PictureSize(*struct.unpack_from("<HH", data, 6))
    if not data.rstrip(b"\0").endswith(b";"):
        raise _truncated()
    return size


def _bmp(data: bytes) -> PictureSize:
    (offset,), (header,) = struct.unpack_from("<I", data, 10), struct.unpack_from("<I", data, 14)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        packed = 0
    elif header in (40, 52, 56, 108, 124):
        width, height, _, bits, packed = struct.unpack_from("<iiHHI", data, 18)
    else:
        raise EngineRequestError("it is not an image")
    size = PictureSize(width, abs(height))
    stride = (size.width * bits + 31) // 32 * 4
    if packed in (0, 3) and size.width > 0 and len(data) < offset + stride * size.height:
        raise _truncated()
    return size
