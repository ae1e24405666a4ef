"""Parse the header of a GGUF file (versions 2 and 3, little-endian) under fixed limits.

Knows the byte layout and refuses what does not add up: counts, lengths and offsets are compared
with the limits and with the bytes that are really there *before* anything is allocated. What the
keys mean is in `header.py`, what a runnable model needs in `validate.py`. Every complaint about
the file is a ModelFormatError.
"""

import io
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, NoReturn

from engine.errors import ModelFormatError
from engine.gguf.header import TOKENS, ArrayInfo, Header, Scalar, TensorInfo, Value
from engine.gguf.types import BLOCKS, REMOVED_TYPES, SCALAR_CODES, GGMLType, ValueType


@dataclass(frozen=True, slots=True)
class Limits:
    """How much header a file may have. Real ones: 16 MiB, 300,000 tokens, 2,000 tensors."""

    header_bytes: int = 64 << 20
    keys: int = 10_000
    key_bytes: int = 65_535  # of the GGUF specification
    string_bytes: int = 16 << 20
    array_items: int = 64 << 20
    tokens: int = 1 << 20
    tensors: int = 65_536
    kept_items: int = 1024  # longer arrays are reported as ArrayInfo


LIMITS = Limits()

_MAX_NAME_BYTES = 63  # ggml's GGML_MAX_NAME is 64 with the final zero
_MAX_DIMS = 4
_MAX_ELEMENTS = 1 << 60
_MAX_ALIGNMENT = 64 << 10
_CHUNK = 1 << 20
_DAMAGED = "the file is damaged; download it again"


def read_header(path: Path, limits: Limits = LIMITS) -> Header:
    """Parse the header of the file at `path`; raises ModelFormatError for any bad content."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise ModelFormatError("not a regular file; a model is one GGUF file")
        with path.open("rb", buffering=0) as file:
            return _parse(_Window(file, os.fstat(file.fileno()).st_size, limits), limits)
    except OSError as error:
        raise ModelFormatError(f"the model file cannot be read: {error.strerror}") from error


class _Window:
    """A forward view of the file's head, refilled in large pieces; memory stays bounded."""

    def __init__(self, file: BinaryIO, size: int, limits: Limits) -> None:
        self.size = size
        self.limits = limits
        self.buffer = b""
        self.position = 0  # of the next unread byte within `buffer`
        self._base = 0  # file offset of buffer[0]
        self._file = file

    @property
    def offset(self) -> int:
        return self._base + self.position

    def need(self, count: int, what: str) -> int:
        """Make the next `count` bytes available; returns their position in `buffer`."""
        have = len(self.buffer) - self.position
        if have < count:
            self._check_room(count, what)
            more = self._file.read(max(count - have, _CHUNK)) or b""
            self._base += self.position
            self.buffer = self.buffer[self.position :] + more
            self.position = 0
            if len(self.buffer) < count:  # it shrank while being read
                self.truncated(what, self.offset + count)
        return self.position

    def take(self, count: int, what: str) -> bytes:
        start = self.need(count, what)
        self.position = start + count
        return self.buffer[start : start + count]

    def skip(self, count: int, what: str) -> None:
        self._check_room(count, what)
        self.position += count
        if self.position > len(self.buffer):
            self._base += self.position
            self.buffer, self.position = b"", 0
            self._file.seek(self._base)

    def unpack(self, code: str, what: str) -> int:
        fmt = "<" + code
        start = self.need(struct.calcsize(fmt), what)
        self.position += struct.calcsize(fmt)
        value: int = struct.unpack_from(fmt, self.buffer, start)[0]
        return value

    def string(self, what: str) -> bytes:
        length = self.unpack("Q", what)
        if length > self.limits.string_bytes:
            raise ModelFormatError(
                f"{what} is {length} bytes long, at most {self.limits.string_bytes} are allowed: "
                + _DAMAGED
            )
        return self.take(length, what)

    def truncated(self, what: str, end: int) -> NoReturn:
        raise ModelFormatError(
            f"{what} ends at byte {end}, the file has {self.size}: "
            "it is truncated; download it again"
        )

    def _check_room(self, count: int, what: str) -> None:
        end = self.offset + count
        if end > self.size:
            self.truncated(what, end)
        if end > self.limits.header_bytes:
            raise ModelFormatError(
                f"{what} ends at byte {end}; a header may have {self.limits.header_bytes} bytes"
            )


def data_start(head: bytes, size: int, limits: Limits = LIMITS) -> int:
    """Where the tensor data starts in a file of `size` bytes that begins with `head`.

    Raises ModelFormatError, also while `head` does not hold the whole header yet.
    """
    return _parse(_Window(io.BytesIO(head), size, limits), limits).data_offset


def _parse(window: _Window, limits: Limits) -> Header:
    version = _read_version(window)
    tensor_count = _read_count(window, "tensors", limits.tensors)
    key_count = _read_count(window, "metadata keys", limits.keys)
    metadata = _read_metadata(window, key_count)
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ModelFormatError(
            "the key 'general.architecture' is missing or is not text: "
            "convert the model again with a current tool"
        )
    alignment = _alignment(metadata)
    tensors = _read_tensors(window, tensor_count)
    data_offset = window.offset
    if tensors:
        data_offset += -data_offset % alignment
        _check_layout(tensors, data_offset, alignment, window.size)
    return Header(version, metadata, tensors, alignment, data_offset, window.size)


def _read_version(window: _Window) -> int:
    magic = window.take(4, "the magic number")
    if magic != b"GGUF":
        raise ModelFormatError(f"the file starts with {magic!r}, not with b'GGUF': not a GGUF file")
    version = window.unpack("I", "the version")
    if version in {2, 3}:
        return version
    if version and version & 0xFFFF == 0:
        raise ModelFormatError("the file is big-endian; convert the model for little-endian")
    raise ModelFormatError(
        f"GGUF version {version} cannot be read, only 2 and 3; convert the model again"
    )


def _read_count(window: _Window, what: str, limit: int) -> int:
    count = window.unpack("Q", f"the number of {what}")
    if count > limit:
        raise ModelFormatError(f"the file claims {count} {what}, at most {limit} are allowed")
    return count


# -- metadata --------------------------------------------------------------------------------


def _read_metadata(window: _Window, count: int) -> Mapping[str, Value]:
    metadata: dict[str, Value] = {}
    for index in range(count):
        key = _read_key(window, index)
        if key in metadata:
            raise ModelFormatError(f"the key '{key}' appears twice: {_DAMAGED}")
        metadata[key] = _read_value(window, key)
    return MappingProxyType(metadata)


def _read_key(window: _Window, index: int) -> str:
    raw = window.string(f"metadata key {index}")
    if not 0 < len(raw) <= window.limits.key_bytes:
        raise ModelFormatError(
            f"metadata key {index} has {len(raw)} bytes, 1 to {window.limits.key_bytes} are allowed"
        )
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ModelFormatError(f"metadata key {index} is not UTF-8: {_DAMAGED}") from error


def _read_value(window: _Window, key: str) -> Value:
    kind = _value_type(window.unpack("I", f"the type of '{key}'"), key)
    if kind is ValueType.ARRAY:
        return _read_array(window, key)
    if kind is ValueType.STRING:
        return window.string(f"'{key}'").decode(errors="replace")
    if kind is ValueType.BOOL:
        return bool(_checked_bools(window.take(1, f"'{key}'"), key)[0])
    value = window.unpack(SCALAR_CODES[kind], f"'{key}'")
    return shortest_float32(value) if kind is ValueType.FLOAT32 else value


def shortest_float32(number: float) -> float:
    """The shortest decimal that is the same float32: 1e-05, not 9.999999747378752e-06.

    Raises OverflowError for a number beyond float32.
    """
    packed = struct.pack("<f", number)
    candidates = (float(f"{number:.{digits}g}") for digits in range(1, 10))
    return next((c for c in candidates if struct.pack("<f", c) == packed), number)


def _value_type(number: int, key: str) -> ValueType:
    try:
        return ValueType(number)
    except ValueError as error:
        raise ModelFormatError(f"'{key}' has the unknown type {number}: {_DAMAGED}") from error


def _checked_bools(raw: bytes, key: str) -> bytes:
    strange = raw.translate(None, b"\x00\x01")
    if strange:
        raise ModelFormatError(f"'{key}' holds {strange[0]} where only 0 and 1 are allowed")
    return raw


def _read_array(window: _Window, key: str) -> Value:
    kind = _value_type(window.unpack("I", f"the element type of '{key}'"), key)
    length = window.unpack("Q", f"the length of '{key}'")
    if kind is ValueType.ARRAY:
        raise ModelFormatError(f"'{key}' is an array of arrays, which no model uses")
    limit = window.limits.tokens if key == TOKENS else window.limits.array_items
    if length > limit:
        raise ModelFormatError(f"'{key}' claims {length} elements, at most {limit} are allowed")
    if kind is ValueType.STRING:
        return _read_strings(window, key, length)
    return _read_scalars(window, key, kind, length)


def _read_scalars(window: _Window, key: str, kind: ValueType, length: int) -> Value:
    code = SCALAR_CODES[kind]
    size = length * struct.calcsize("<" + code)
    kept = length <= window.limits.kept_items
    if not kept and kind is not ValueType.BOOL:
        window.skip(size, f"'{key}'")
        return ArrayInfo(kind, length)
    if not kept:
        for start in range(0, length, _CHUNK):
            _checked_bools(window.take(min(_CHUNK, length - start), f"'{key}'"), key)
        return ArrayInfo(kind, length)
    raw = window.take(size, f"'{key}'")
    if kind is ValueType.BOOL:
        return tuple(byte == 1 for byte in _checked_bools(raw, key))
    values: tuple[Scalar, ...] = struct.unpack(f"<{length}{code}", raw)
    return values


def _read_strings(window: _Window, key: str, length: int) -> Value:
    """Walk the strings in the buffer; a vocabulary has hundreds of thousands."""
    what = f"an element of '{key}'"
    kept: list[str] | None = [] if length <= window.limits.kept_items else None
    seen: set[bytes] | None = set() if key == TOKENS else None
    if length * 8 > window.size - window.offset:
        window.truncated(f"'{key}'", window.offset + length * 8)
    unpack = struct.Struct("<Q").unpack_from
    buffer, position, end = window.buffer, window.position, len(window.buffer)
    for index in range(length):
        start = position + 8
        stop = start + unpack(buffer, position)[0] if start <= end else end + 1
        if stop > end:
            window.position = position
            text = window.string(what)
            buffer, position, end = window.buffer, window.position, len(window.buffer)
        else:
            text = buffer[start:stop]
            position = stop
        if kept is not None:
            kept.append(text.decode(errors="replace"))
        if seen is not None:
            # llama.cpp aborts on a token that appears twice; it renames empty ones
            seen.add(text or b"[EMPTY_%d]" % index)
    window.position = position
    if seen is not None and len(seen) < length:
        raise ModelFormatError(
            f"{length - len(seen)} of {length} tokens appear twice in '{key}': {_DAMAGED}"
        )
    return ArrayInfo(ValueType.STRING, length) if kept is None else tuple(kept)


# -- tensors ---------------------------------------------------------------------------------


def _alignment(metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", 32)
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not 8 <= value <= _MAX_ALIGNMENT
        or value & (value - 1)
    ):
        raise ModelFormatError(
            f"general.alignment is {value!r}; a power of two from 8 to {_MAX_ALIGNMENT} is allowed"
        )
    return value


def _read_tensors(window: _Window, count: int) -> tuple[TensorInfo, ...]:
    tensors: dict[str, TensorInfo] = {}
    for index in range(count):
        tensor = _read_tensor(window, index)
        if tensor.name in tensors:
            raise ModelFormatError(f"the tensor '{tensor.name}' appears twice: {_DAMAGED}")
        tensors[tensor.name] = tensor
    return tuple(tensors.values())


def _read_tensor(window: _Window, index: int) -> TensorInfo:
    raw = window.string(f"the name of tensor {index}")
    if not 0 < len(raw) <= _MAX_NAME_BYTES:
        raise ModelFormatError(
            f"the name of tensor {index} has {len(raw)} bytes, 1 to {_MAX_NAME_BYTES} are allowed"
        )
    name = raw.decode(errors="replace")
    what = f"the description of tensor '{name}'"
    n_dims = window.unpack("I", what)
    if not 1 <= n_dims <= _MAX_DIMS:
        raise ModelFormatError(
            f"tensor '{name}' has {n_dims} dimensions, 1 to {_MAX_DIMS} are allowed"
        )
    shape = struct.unpack(f"<{n_dims}Q", window.take(8 * n_dims, what))
    kind = _tensor_type(window.unpack("I", what), name)
    nbytes = _tensor_bytes(name, shape, kind)
    return TensorInfo(name, shape, kind, window.unpack("Q", what), nbytes)


def _tensor_type(number: int, name: str) -> GGMLType:
    if number in REMOVED_TYPES:
        raise ModelFormatError(
            f"tensor '{name}' has the type {REMOVED_TYPES[number]}, which llama.cpp has removed; "
            "download a current file of this model"
        )
    try:
        return GGMLType(number)
    except ValueError as error:
        raise ModelFormatError(
            f"tensor '{name}' has the unknown type {number}; "
            "the file is damaged or newer than this release"
        ) from error


def _tensor_bytes(name: str, shape: tuple[int, ...], kind: GGMLType) -> int:
    elements = 1
    for dimension in shape:
        elements *= dimension
        if not 0 < elements <= _MAX_ELEMENTS:
            raise ModelFormatError(f"tensor '{name}' has the impossible shape {list(shape)}")
    per_block, block_bytes = BLOCKS[kind]
    if shape[0] % per_block:
        raise ModelFormatError(
            f"tensor '{name}' has rows of {shape[0]} elements; "
            f"{kind.name} needs a multiple of {per_block}"
        )
    return elements // per_block * block_bytes


def _check_layout(
    tensors: tuple[TensorInfo, ...], data_offset: int, alignment: int, file_size: int
) -> None:
    """Tensors follow each other, padded to the alignment and inside the file, as ggml demands."""
    expected = 0
    for tensor in tensors:
        if tensor.offset != expected:
            raise ModelFormatError(
                f"tensor '{tensor.name}' starts at byte {tensor.offset} of the data, "
                f"where {expected} is expected: {_DAMAGED}"
            )
        end = data_offset + tensor.offset + tensor.nbytes
        if end > file_size:
            raise ModelFormatError(
                f"tensor '{tensor.name}' ends at byte {end}, the file has {file_size}: "
                "it is truncated; download it again"
            )
        expected = tensor.offset + tensor.nbytes
        expected += -expected % alignment
