"""Reads a JSON body within limits: bytes, time, values, nesting, range of numbers.

Decodes as leniently as Ollama (any content type, bytes after the value ignored, `null` for all
defaults) and as strictly as safety asks: no NaN, no numbers that a worker's frames cannot carry,
no text that is not Unicode. Knows no field of any dialect.
"""

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import msgspec
from aiohttp import web

from appliance.config import MIB
from appliance.errors import BadRequestError, OverloadedError, RequestTooLargeError
from appliance.http.context import SETTINGS
from appliance.http.errors import BodyTimeoutError, MalformedError

BODY_TIMEOUT_S = 300.0  # for a whole JSON body
BODIES_AT_ONCE = 4  # of the largest size; more of them together are sent away
MAX_VALUES = 1_000_000  # a list or object costs up to 60 times its two bytes when decoded

_INTEGERS = range(-(2**63), 2**63)
_REPLACED = dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)

T = TypeVar("T")


class Bodies:
    """The memory that all bodies take together while they are being read."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held = 0

    @contextmanager
    def room(self) -> Iterator[Callable[[int], None]]:
        """A function that takes bytes for one body, given back when the context is left.

        It raises OverloadedError when all bodies together would be over the limit.
        """
        mine = 0

        def take(count: int) -> None:
            nonlocal mine
            if self._held + count > self._limit:
                mib = self._limit // MIB
                raise OverloadedError(f"the bodies being sent fill the {mib} MiB kept for them")
            self._held += count
            mine += count

        try:
            yield take
        finally:
            self._held -= mine


BODIES = web.AppKey("BODIES", Bodies)


async def read_json(request: web.Request, shape: type[T]) -> T:
    """The body as a `shape`, a msgspec Struct whose fields all have defaults.

    A field that is null counts as absent. Raises as `read_object` does.
    """
    return to_struct(await read_object(request), shape)


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body's JSON object, {} for null.

    Raises BadRequestError, RequestTooLargeError, BodyTimeoutError.
    """
    data = await _read(request)
    if not data.strip():
        raise BadRequestError("missing request body")
    fields = decode(data, max_depth=request.app[SETTINGS].max_depth)
    if fields is None:
        fields = {}
    if not isinstance(fields, dict):
        raise BadRequestError(f"the body must be a JSON object, this is {_WORDS[type(fields)]}")
    return fields


def to_struct(fields: dict[str, Any], shape: type[T]) -> T:
    """Decoded JSON as a `shape`; null fields count as absent. Raises BadRequestError."""
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return msgspec.convert(given, shape)
    except msgspec.ValidationError as error:
        raise BadRequestError(f"the body has a field of a wrong type: {error}") from error


def decode(data: bytes, *, max_depth: int) -> Any:
    """The first JSON value in `data`; what follows it is ignored, as in Ollama."""
    if sum(data.count(mark) for mark in b",[{") > MAX_VALUES:
        raise RequestTooLargeError(f"the body holds more than {MAX_VALUES} values")
    try:
        text = data.decode("utf-8-sig").lstrip()
        value, _ = _DECODER.raw_decode(text)
    except RecursionError as error:
        raise _too_deep(max_depth) from error
    except ValueError as error:  # not JSON, not UTF-8, or a number of thousands of digits
        raise BadRequestError(f"the body is not valid JSON: {error}") from error
    _check(value, max_depth)
    has_surrogates = "\\ud" in text or "\\uD" in text
    return _whole_characters(value) if has_surrogates else value


def refuse_compressed(request: web.Request) -> None:
    """Raise BadRequestError for a compressed body, which is how bombs travel."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise BadRequestError(
            f"the body has Content-Encoding {encoding[:40]!r}; send it uncompressed"
        )


async def _read(request: web.Request) -> bytes:
    refuse_compressed(request)
    limit = request.app[SETTINGS].max_body_mib * MIB
    too_large = RequestTooLargeError(
        f"the body is larger than the {limit // MIB} MiB allowed", hint="see max_body_mib"
    )
    if (request.content_length or 0) > limit:
        raise too_large
    stall_s = request.app[SETTINGS].write_timeout_s
    data = bytearray()
    try:
        with request.app[BODIES].room() as take:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                while piece := await next_piece(request, stall_s):
                    take(len(piece))
                    data += piece
                    if len(data) > limit:
                        raise too_large
    except TimeoutError as error:
        raise BodyTimeoutError(f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s") from error
    return bytes(data)


async def next_piece(request: web.Request, stall_s: float) -> bytes:
    """What came next of the body; empty at its end.

    Raises BodyTimeoutError after `stall_s` without a byte, MalformedError for broken chunks.
    """
    try:
        async with asyncio.timeout(stall_s):
            return await request.content.readany()
    except TimeoutError as error:
        raise BodyTimeoutError(f"nothing came of the body for {stall_s:g} s") from error
    except web.RequestPayloadError as error:
        raise MalformedError("the body's chunks are not those of HTTP/1.1") from error


def _check(value: Any, max_depth: int) -> None:
    """Refuse deep nesting and numbers beyond 64 bits, level by level instead of recursively."""
    level = [value]
    for _ in range(max_depth + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, float) and not math.isfinite(item):
                raise BadRequestError("the body holds a number that is out of range")
            elif isinstance(item, int) and item not in _INTEGERS:
                raise BadRequestError("the body holds a whole number beyond 64 bits")
        if not below:
            return
        level = below
    raise _too_deep(max_depth)


def _too_deep(max_depth: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"the body is nested deeper than the {max_depth} levels allowed")


def _whole_characters(value: Any) -> Any:
    """`value` with U+FFFD for each half of a surrogate pair, which Go's decoder, too, puts there.

    Recursive: the nesting has been checked.
    """
    if isinstance(value, str):
        return value.translate(_REPLACED)
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(item) for key, item in value.items()}
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_WORDS: dict[type, str] = {list: "a list", str: "text", int: "a number", float: "a number"} | {
    bool: "a boolean"
}
