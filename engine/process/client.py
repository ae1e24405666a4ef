"""The asyncio face of one worker: start it, ask it, stream from it, notice its death.

Every request ends: with a finish reason, or with an EngineError (`EngineCrashedError` if the
process died). Works by protocol callbacks, so a client needs no task of its own. Knows nothing of
model names, leases or HTTP.
"""

import asyncio
import itertools
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import msgspec

from engine.api import EngineInfo, GenerateRequest, LoadSpec, Pooling, SequenceStep
from engine.errors import (
    EngineCrashedError,
    EngineError,
    EngineStoppedError,
    error_from_code,
)
from engine.process import frames

STDERR_BYTES = 4096  # the end of a dead worker's stderr goes into the error
HUGE_PAGES = "glibc.malloc.hugetlb=1"
STOP_GRACE_S = 5.0  # from `Stop` to SIGKILL


def _worker_environment() -> dict[str, str]:
    tunables = os.environ.get("GLIBC_TUNABLES")
    return os.environ | {
        # Else ggml_abort() calls a debugger for a backtrace, which takes seconds.
        "GGML_NO_BACKTRACE": "1",
        # Every token reads all weights: in huge pages that misses the TLB less (glibc 2.35, which
        # asks for them with madvise; other C libraries and older ones do not look at this).
        "GLIBC_TUNABLES": f"{tunables}:{HUGE_PAGES}" if tunables else HUGE_PAGES,
    }


class EngineClient:
    """One worker process and the requests that run in it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._streams: dict[int, asyncio.Queue[list[SequenceStep] | EngineError]] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._ready: asyncio.Future[EngineInfo] = loop.create_future()
        self._ended: asyncio.Future[EngineError] = loop.create_future()
        self._fatal: EngineError | None = None
        self._wire = _Wire(self._on_frame, self._on_end)
        self._child = _Child(self._on_end)

    @classmethod
    async def start(
        cls, spec: LoadSpec, *, timeout_s: float, private: tuple[Path, Path] | None = None
    ) -> Self:
        """Start a worker and load `spec` in it.

        private  the state folder that it must not see, and the models that it may read (confine.py)

        Raises EngineError (ModelFormatError, DeviceMemoryError, …) when the engine cannot be built,
        EngineCrashedError when the process dies meanwhile or is not ready after `timeout_s`.
        """
        client = cls()
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                await loop.subprocess_exec(
                    lambda: client._child,
                    sys.executable,
                    "-m",
                    "engine.process.worker",
                    str(theirs.fileno()),
                    *map(str, private or ()),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True,  # Ctrl+C at a terminal must not reach it
                    env=_worker_environment(),
                )
            await loop.create_connection(lambda: client._wire, sock=ours)
        except BaseException:
            ours.close()
            client.kill()
            raise
        try:
            client._send(frames.Load(spec))
            async with asyncio.timeout(timeout_s):
                await client._ready
        except TimeoutError:
            client.kill()
            await client.wait_ended()
            raise EngineCrashedError(
                f"the model was not loaded within {timeout_s:.0f} s; raise load_timeout_s or use a"
                " smaller model"
            ) from None
        except EngineError:
            await client.close()
            raise
        except BaseException:
            client.kill()
            raise
        return client

    @property
    def info(self) -> EngineInfo:
        """What the engine said about itself when it was ready."""
        return self._ready.result()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._child.pid

    @property
    def is_alive(self) -> bool:
        """Whether requests can still be sent."""
        return not self._wire.is_closed and not self._ended.done()

    async def wait_ended(self) -> EngineError:
        """Wait for the process to be gone, for whatever reason, and tell that reason."""
        return await asyncio.shield(self._ended)

    def when_ended(self, told: Callable[[EngineError], None]) -> None:
        """Call `told` with the reason as soon as the process is gone."""
        self._ended.add_done_callback(lambda ended: told(ended.result()))

    async def generate(
        self, request: GenerateRequest, *, is_over: Callable[[], bool] = lambda: False
    ) -> AsyncGenerator[list[SequenceStep], None]:
        """Run one sequence; its `id` is set here. Yields the steps that arrived together, at least
        one; the last of all carries `finish` and usage.

        `is_over` is asked after each yield: when it says True the sequence is aborted, and its last
        step still follows. Leaving the loop early (break, error, cancel) aborts it silently.
        """
        request = msgspec.structs.replace(request, id=next(self._numbers))
        queue = self._streams[request.id] = asyncio.Queue()
        finished = is_aborted = False
        try:
            self._send(frames.Add(request))
            while not finished:
                item = await queue.get()
                if isinstance(item, EngineError):
                    finished = True
                    raise item
                finished = item[-1].finish is not None
                yield item
                if not (finished or is_aborted) and is_over():
                    is_aborted = True
                    self._send(frames.Abort(request.id))
        finally:
            del self._streams[request.id]
            if not (finished or is_aborted) and self.is_alive:
                self._send(frames.Abort(request.id))

    async def embed(
        self,
        inputs: Sequence[str | list[int]],
        *,
        pooling: Pooling = Pooling.MODEL,
        truncate: bool = True,
    ) -> tuple[list[list[float]], int]:
        """One raw vector per input, and the number of tokens read."""
        number = next(self._numbers)
        frame = frames.Embed(number, list(inputs), pooling=pooling, truncate=truncate)
        vectors, tokens = await self._call(number, frame)
        return vectors, tokens

    async def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        max_document_tokens: int = 0,
        truncate: bool = True,
    ) -> tuple[list[float], int]:
        """One score per document, as `info.scoring` says, and the number of tokens read."""
        number = next(self._numbers)
        frame = frames.Score(number, list(queries), list(documents), max_document_tokens, truncate)
        scores, tokens = await self._call(number, frame)
        return scores, tokens

    async def tokenize(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[list[int]]:
        """Token ids of each text."""
        number = next(self._numbers)
        frame = frames.Tokenize(number, list(texts), add_special, parse_special)
        return list(await self._call(number, frame))

    async def detokenize(self, token_ids: Sequence[int]) -> bytes:
        """The bytes of the tokens."""
        return b"".join(await self.pieces(token_ids))

    async def pieces(self, token_ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token; they may end inside a character."""
        number = next(self._numbers)
        return list(await self._call(number, frames.Detokenize(number, list(token_ids))))

    async def look(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """How many tokens images of these widths and heights take in a prompt."""
        number = next(self._numbers)
        return list(await self._call(number, frames.Look(number, list(sizes))))

    async def stats(self) -> dict[str, Any]:
        """The engine's counters."""
        number = next(self._numbers)
        return dict(await self._call(number, frames.GetStats(number)))

    async def close(self, why: str = "the model was unloaded") -> None:
        """End the worker: ask, wait STOP_GRACE_S, then kill. Its requests fail with `why`.

        Who is cancelled here kills it at once: nobody else would.
        """
        self._fatal = self._fatal or EngineStoppedError(why)
        if self.is_alive:
            self._send(frames.Stop())
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await self.wait_ended()
        except TimeoutError:
            self.kill()
            await self.wait_ended()
        except asyncio.CancelledError:
            self.kill()
            raise

    def kill(self) -> None:
        """End the worker at once; its requests get EngineCrashedError."""
        self._child.kill()

    async def _call(self, number: int, frame: frames.ToWorker) -> Any:
        future = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(frame)
            return await future
        finally:
            del self._calls[number]

    def _send(self, frame: frames.ToWorker) -> None:
        if self._ended.done():
            raise self._ended.result()
        self._wire.write(frames.encode(frame))

    def _on_frame(self, frame: frames.FromWorker) -> None:
        match frame:
            case frames.Steps(steps=steps):
                for number, group in itertools.groupby(steps, key=lambda step: step.id):
                    if (queue := self._streams.get(number)) is not None:
                        arrived = list(group)
                        error = arrived[-1].error
                        queue.put_nowait(error_from_code(*error) if error else arrived)
            case frames.Result(call=call, value=value, error=error):
                future = self._calls.get(call)
                if future is not None and not future.done():
                    if error:
                        future.set_exception(error_from_code(*error))
                    else:
                        future.set_result(value)
            case frames.Ready(info=info):
                if not self._ready.done():
                    self._ready.set_result(info)
            case frames.Fatal(code=code, message=message):
                self._fatal = error_from_code(code, message)

    def _on_end(self) -> None:
        """The socket or the process ended; once both have, everything waiting gets the error."""
        if not self._child.has_ended:
            self._child.kill()  # a worker without its socket is of no use
            return
        if self._ended.done() or not (self._wire.is_closed or self._wire.never_opened):
            return
        error = self._fatal or self._child.obituary()
        self._ended.set_result(error)
        for queue in self._streams.values():
            queue.put_nowait(error)
        for future in (self._ready, *self._calls.values()):
            if not future.done():
                future.set_exception(error)
                future.exception()  # whether or not anyone still waits, it has been seen


class _Wire(asyncio.Protocol):
    """The socket: bytes to frames."""

    def __init__(self, on_frame: Any, on_end: Any) -> None:
        self._on_frame = on_frame
        self._on_end = on_end
        self._buffer = frames.FrameBuffer()
        self._transport: asyncio.Transport | None = None
        self.is_closed = False

    @property
    def never_opened(self) -> bool:
        return self._transport is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer.feed(data)
        try:
            while (payload := self._buffer.take()) is not None:
                self._on_frame(frames.decode_from_worker(payload))
        except frames.FrameError:
            # A worker that speaks nonsense is treated as a dead one.
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._on_end()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self.is_closed:
            self._transport.write(data)


class _Child(asyncio.SubprocessProtocol):
    """The process: the end of its stderr, and how it died."""

    def __init__(self, on_end: Any) -> None:
        self._on_end = on_end
        self._transport: asyncio.SubprocessTransport | None = None
        self._stderr: deque[int] = deque(maxlen=STDERR_BYTES)
        self.has_ended = False

    @property
    def pid(self) -> int:
        assert self._transport is not None
        return self._transport.get_pid()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._stderr.extend(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Exited, reaped, and its stderr read to the end."""
        self.has_ended = True
        if self._transport is not None:
            self._transport.close()
        self._on_end()

    def kill(self) -> None:
        if self._transport is not None and not self.has_ended:
            # Not transport.kill(): it polls first, and right after the child watcher has reaped
            # the process that poll finds no child and takes its status for 0.
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def obituary(self) -> EngineCrashedError:
        """How the process ended, and what it last said."""
        code = self._transport.get_returncode() if self._transport else None
        is_killed = False
        if code is not None and code < 0:
            how = f"was killed by {_signal_name(-code)}"
            is_killed = -code == signal.SIGKILL
        else:
            how = f"exited with status {code}"
        last = bytes(self._stderr).decode(errors="replace").strip().splitlines()[-3:]
        return EngineCrashedError(
            f"the model's worker process {how}",
            last_words=" | ".join(line.strip() for line in last),
            is_killed=is_killed,
        )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
