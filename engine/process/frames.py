"""The frames between the control plane and a worker, and how they lie on the wire.

A frame is a 4-byte little-endian length and that many bytes of msgpack: a tagged msgspec struct.
No pickle: a worker that a hostile model file took over can only send what is typed here. Knows
nothing of asyncio or of engines; `client.py` and `worker.py` do.
"""

import struct
from typing import Any

import msgspec

from engine.api import EngineInfo, GenerateRequest, LoadSpec, Pooling, SequenceStep

MAX_FRAME_BYTES = 256 * 1024 * 1024  # embeddings of a large batch; a longer length is a broken peer

_LENGTH = struct.Struct("<I")


class Load(msgspec.Struct, tag=True):
    """First frame to a worker: build this engine. Answered by Ready or Fatal."""

    spec: LoadSpec


class Add(msgspec.Struct, tag=True):
    """Generate; answered by Steps until one carries `finish` or `error`."""

    request: GenerateRequest


class Abort(msgspec.Struct, tag=True):
    """Forget a request; its last step says `abort`, unless it had ended already."""

    id: int


class Embed(msgspec.Struct, tag=True):
    """One vector per input; answered by Result with (vectors, tokens read)."""

    call: int
    inputs: list[str | list[int]]
    pooling: Pooling = Pooling.MODEL
    truncate: bool = True


class Score(msgspec.Struct, tag=True):
    """How well each document answers the query, one for all or one for each; answered by Result
    with (scores, tokens read)."""

    call: int
    queries: list[str]
    documents: list[str]
    max_document_tokens: int = 0
    truncate: bool = True


class Tokenize(msgspec.Struct, tag=True):
    """Token ids of each text; answered by Result, also while a prompt is being processed."""

    call: int
    texts: list[str]
    add_special: bool = True
    parse_special: bool = True


class Detokenize(msgspec.Struct, tag=True):
    """The bytes of each token; answered by Result with a list."""

    call: int
    token_ids: list[int]


class Look(msgspec.Struct, tag=True):
    """Tokens that images of these widths and heights take; answered by Result."""

    call: int
    sizes: list[tuple[int, int]]


class GetStats(msgspec.Struct, tag=True):
    """The engine's counters; answered by Result."""

    call: int


class Stop(msgspec.Struct, tag=True):
    """Close the engine and exit 0. Closing the socket means the same."""


class Ready(msgspec.Struct, tag=True):
    """The engine is loaded."""

    info: EngineInfo


class Steps(msgspec.Struct, tag=True):
    """One engine step: every sequence that moved."""

    steps: list[SequenceStep]


class Result(msgspec.Struct, tag=True):
    """Answer to the call of the same number: a value, or an error (code, message)."""

    call: int
    value: Any = None
    error: tuple[str, str] | None = None


class Fatal(msgspec.Struct, tag=True):
    """The engine could not be built or broke; the worker exits after this frame."""

    code: str
    message: str


ToWorker = Load | Add | Abort | Embed | Score | Tokenize | Detokenize | Look | GetStats | Stop
FromWorker = Ready | Steps | Result | Fatal

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


class FrameError(Exception):
    """The peer sent something that is not a frame."""


def encode(frame: ToWorker | FromWorker) -> bytes:
    """The frame's bytes, length first."""
    payload = _encoder.encode(frame)
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(payload)} bytes is over the {MAX_FRAME_BYTES} allowed")
    return _LENGTH.pack(len(payload)) + payload


class FrameBuffer:
    """Cuts a byte stream into payloads. Feed what was read; take what is whole."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        self._data += data

    def take(self) -> bytes | None:
        """The next whole payload, or None until more bytes have come."""
        if len(self._data) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._data)
        if length > MAX_FRAME_BYTES:
            raise FrameError(f"a frame announces {length} bytes; {MAX_FRAME_BYTES} are allowed")
        end = _LENGTH.size + length
        if len(self._data) < end:
            return None
        payload = bytes(self._data[_LENGTH.size : end])
        del self._data[:end]
        return payload


def decode_to_worker(payload: bytes) -> ToWorker:
    """A frame for the worker; raises FrameError."""
    try:
        return _to_worker.decode(payload)
    except msgspec.DecodeError as error:
        raise FrameError(f"bad frame to the worker: {error}") from error


def decode_from_worker(payload: bytes) -> FromWorker:
    """A frame from the worker; raises FrameError."""
    try:
        return _from_worker.decode(payload)
    except msgspec.DecodeError as error:
        raise FrameError(f"bad frame from the worker: {error}") from error
