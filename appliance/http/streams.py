"""Writes answers that arrive in pieces: NDJSON and SSE, with an honest end in every case.

The first piece is awaited before the status is sent, so most errors still get a proper status.
After that an error travels as the last piece. A dialect with pings begins its stream with one when
nothing came for long, so that nobody between gives up on a slow box. A client that stops reading is
dropped. Leaving the pieces closes their generator, which aborts the job behind it.
"""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from aiohttp import web

from appliance.chat.events import (
    CallDone,
    Done,
    Echoed,
    Event,
    JobRequest,
    Rendered,
    Text,
    Thinking,
    ToolCall,
)
from appliance.errors import ModelNameError, ModelNotFoundError
from appliance.http.access import require_model
from appliance.http.context import (
    CHAT,
    FAILURE,
    FIELDS,
    IS_GONE,
    METER,
    METRICS,
    REQUEST_ID,
    SETTINGS,
)
from appliance.http.counting import JobClock
from appliance.http.errors import Dialect, Problem, problem_of
from appliance.http.limits import check_options
from appliance.http.logline import note_event
from engine.api import TokenLogprob

# As long as so little is unsent, asyncio's transport (low-water mark 16 KiB) makes no writer wait.
_FREE_BYTES = 16 * 1024
PING_S = 15.0  # proxies close what was silent for 30 s or 60 s
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s: close with RST, forget what is unsent


class ClientStalledError(ConnectionError):
    """The client stopped reading its stream for longer than write_timeout_s."""


@dataclass(frozen=True, slots=True)
class Framing:
    """How JSON documents are put on the wire one after another."""

    content_type: str
    dialect: Dialect
    before: bytes
    after: bytes
    end: bytes  # after the last document
    ping: bytes = b""  # sent after each `ping_s` of silence, where a dialect has such a thing
    ping_s: float = PING_S

    def frame(self, document: bytes) -> bytes:
        """One document, ready to send; it holds no line end, as JSON escapes them."""
        return self.before + document + self.after

    def failure(self, problem: Problem, request_id: str) -> bytes:
        """The document that ends a broken stream."""
        return problem.body(self.dialect, request_id)


class NamedFraming(Framing):
    """Server-sent events, each named by the `type` that its document begins with."""

    def frame(self, document: bytes) -> bytes:
        name = document.split(b'"', 4)[3]
        return b"event: " + name + b"\ndata: " + document + b"\n\n"


NDJSON = Framing("application/x-ndjson", Dialect.OLLAMA, before=b"", after=b"\n", end=b"")
SSE = Framing(
    "text/event-stream",
    Dialect.OPENAI,
    before=b"data: ",
    after=b"\n\n",
    end=b"data: [DONE]\n\n",
)


async def run_job(request: web.Request, job: JobRequest) -> AsyncGenerator[Event, None]:
    """The events of a job; notes for the log line what they say."""
    fields = request[FIELDS]
    fields["model"] = job.model
    require_model(request, job.model)
    check_options(request, job.options)
    came = time.monotonic()
    clock = JobClock(request.app[METRICS], job.model, came)
    with model_named(job.model):
        async with aclosing(request.app[CHAT].run(job)) as events:
            async for event in events:
                now = time.monotonic()
                note_event(fields, event, now - came)
                clock.note(event, now)
                if isinstance(event, Text | Thinking):
                    request.app[METER].add(event.tokens, now)
                yield event


class Writer(Protocol):
    """What turns a job's events into the pieces of an answer."""

    def feed(self, event: Event, /) -> Sequence[dict[str, Any]]: ...


async def documents_of(
    request: web.Request, job: JobRequest, writer: Writer
) -> AsyncGenerator[bytes, None]:
    """The pieces of a job's answer, as JSON."""
    async with aclosing(run_job(request, job)) as events:
        async for event in events:
            for piece in writer.feed(event):
                yield msgspec.json.encode(piece)


@contextmanager
def model_named(typed: str) -> Iterator[None]:
    """One error, with the name as it was typed, for a model that is not there and for a name that
    cannot be one (Ollama API, /api/generate)."""
    try:
        yield
    except (ModelNameError, ModelNotFoundError) as error:
        raise ModelNotFoundError(
            f"model '{typed[:400]}' not found", hint="`hearth list` shows what is installed"
        ) from error


@dataclass(slots=True)
class Folded:
    """A job's events as one answer; in the end exactly one of `done` and `rendered` is set."""

    text: str = ""
    echoed: Echoed | None = None
    thinking: str = ""
    calls: list[tuple[int, ToolCall]] = field(default_factory=list)  # with their indices
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of the text alone
    thinking_logprobs: list[TokenLogprob] = field(default_factory=list)
    done: Done | None = None
    rendered: str | None = None
    rendered_tokens: int = 0
    _pieces: list[str] = field(default_factory=list)
    _thoughts: list[str] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Take in the next event; the last one completes `text` and `thinking`."""
        match event:
            case Text():
                self._pieces.append(event.text)
                self.logprobs.extend(event.logprobs)
            case Thinking():
                self._thoughts.append(event.text)
                self.thinking_logprobs.extend(event.logprobs)
            case Echoed():
                self.echoed = event
            case CallDone():
                self.calls.append((event.index, event.call))
            case Rendered():
                self.rendered, self.rendered_tokens = event.prompt, event.tokens
            case Done():
                self.done = event
                self.text = "".join(self._pieces)
                self.thinking = "".join(self._thoughts)
            case _:
                pass  # what the others say is in these


async def fold(events: AsyncGenerator[Event, None]) -> Folded:
    """Everything that a stream would have carried."""
    folded = Folded()
    async with aclosing(events):
        async for event in events:
            folded.add(event)
    return folded


async def stream(
    request: web.Request, documents: AsyncGenerator[bytes, None], framing: Framing
) -> web.StreamResponse:
    """Send JSON documents as they come; raises only while nothing was sent.

    The second of the boundaries that turn any error into an answer.
    """
    writer = _Writer(request, framing)
    async with aclosing(documents), _pinging(writer):
        try:
            await _send_all(writer, documents)
        except ConnectionError:
            if not writer.has_begun:
                raise
            request[IS_GONE] = True  # left or stalled: there is nobody to tell
    return writer.response


async def report(
    request: web.Request, documents: AsyncGenerator[bytes, None], *, whole: bool
) -> web.StreamResponse:
    """Status lines of Ollama's long operations; `whole` asks for the last one alone."""
    if not whole:
        return await stream(request, documents, NDJSON)
    last = b"{}"
    async with aclosing(documents):
        async for document in documents:
            last = document
    return web.Response(headers={"Content-Type": "application/json"}, body=last)


async def _send_all(writer: "_Writer", documents: AsyncGenerator[bytes, None]) -> None:
    """Everything to the honest end. Raises ConnectionError alone, once something was sent."""
    try:
        async for document in documents:
            await writer.send(writer.framing.frame(document))
    except ConnectionError:
        raise
    except Exception as error:
        if not writer.has_begun:
            raise
        await writer.send(writer.framing.frame(writer.fail(error)))
    await writer.close()


@asynccontextmanager
async def _pinging(writer: "_Writer") -> AsyncGenerator[None, None]:
    """While held, silence is filled with pings."""
    if not writer.framing.ping:
        yield
        return
    pings = asyncio.create_task(writer.ping_forever())
    try:
        yield
    finally:
        pings.cancel()
        await asyncio.gather(pings, return_exceptions=True)


class _Writer:
    """Writes with a limit on how long the client may leave its buffers full."""

    def __init__(self, request: web.Request, framing: Framing) -> None:
        self.framing = framing
        self.response = web.StreamResponse(
            headers={"Content-Type": framing.content_type, "Cache-Control": "no-cache"}
        )
        self.has_begun = False  # the status is on its way
        self._request = request
        self._limit_s = request.app[SETTINGS].write_timeout_s
        self._sent_at = time.monotonic()
        self._lock = asyncio.Lock()  # between the answer and the pings

    async def send(self, data: bytes) -> None:
        """Write one frame, behind status and headers if it is the first."""
        async with self._lock:
            await self._begin()
            await self._write(data)
            self._sent_at = time.monotonic()

    async def ping_forever(self) -> None:
        """Send a ping whenever nothing was sent for long."""
        while True:
            silent_s = time.monotonic() - self._sent_at
            if silent_s < self.framing.ping_s:
                await asyncio.sleep(self.framing.ping_s - silent_s)
                continue
            try:
                await self.send(self.framing.ping)
            except ConnectionError:
                return  # the next piece of the answer meets it, too

    def fail(self, error: Exception) -> bytes:
        """Note for the log what broke the stream; returns the document that says so."""
        self._request[FAILURE] = error
        problem = problem_of(error, self.framing.dialect)
        return self.framing.failure(problem, self._request.get(REQUEST_ID, ""))

    async def close(self) -> None:
        async with self._lock:
            await self._begin()
            try:
                async with asyncio.timeout(self._limit_s):
                    await self.response.write_eof(self.framing.end)
            except TimeoutError as error:
                raise self._drop() from error

    async def _begin(self) -> None:
        if not self.has_begun:
            self.has_begun = True
            await self.response.prepare(self._request)

    async def _write(self, data: bytes) -> None:
        transport = self._request.transport
        if transport is not None and transport.get_write_buffer_size() + len(data) < _FREE_BYTES:
            await self.response.write(data)
            return
        try:
            async with asyncio.timeout(self._limit_s):
                await self.response.write(data)
        except TimeoutError as error:
            raise self._drop() from error

    def _drop(self) -> ClientStalledError:
        """Close the connection at once: what is buffered will never be read."""
        self._request[FIELDS]["error"] = "client_stalled"
        if (transport := self._request.transport) is not None:
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _RESET
            )
            transport.abort()
        return ClientStalledError(f"the client stopped reading for {self._limit_s:g} s")
