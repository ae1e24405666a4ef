"""A worker process: one engine, one socket, one thread.

Started as `python -m engine.process.worker FD [STATE MODELS]`; with these it confines itself
(confine.py) before it reads anything of a model. Reads frames from the socket FD, drives the
engine, answers with frames. It blocks on the socket while there is no work, so that idling costs
nothing. It ends when the socket closes, on `Stop`, or when its parent dies.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from pathlib import Path

from engine.api import Engine, EngineFactory, LoadSpec, Poll, SequenceStep
from engine.errors import BackendUnavailableError, EngineError
from engine.process import frames
from engine.process.confine import confine

READ_BYTES = 256 * 1024
EXTRAS = {"paged": "gpu"}  # where the extra is not called like the engine
PACE_NS = 20_000_000  # a reader sees no difference between fifty pieces per second and more
OOM_SCORE_ADJ = "500"  # under memory pressure the kernel takes a worker before the control plane


def engine_factory(name: str) -> EngineFactory:
    """The builder of an engine; imports its library, which is why it runs only here."""
    try:
        if name == "echo":
            from engine.echo import load as load_echo

            return load_echo
        if name == "llama":
            from engine.llama.engine import load as load_llama

            return load_llama
        if name == "paged":
            from engine.paged.engine import load as load_paged

            return load_paged
    except ImportError as error:
        raise BackendUnavailableError(
            f"engine {name!r} needs a library that is missing ({error}):"
            f" pip install 'hearth[{EXTRAS.get(name, name)}]'"
        ) from error
    raise BackendUnavailableError(
        f"engine {name!r} is unknown; there are 'llama', 'paged' and 'echo'"
    )


class Worker:
    """The loop between the socket and the engine."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = frames.FrameBuffer()
        self._waiting: list[frames.ToWorker] = []  # read during a step, handled after it
        self._engine: Engine | None = None
        self._open = True
        self._steps: list[SequenceStep] = []  # not sent yet
        self._held_steps = 0  # how many of them may wait
        self._sent_ns = 0  # when steps were sent last

    def run(self) -> None:
        """Serve until the socket closes or `Stop` arrives."""
        load = self._next_frame()
        if not isinstance(load, frames.Load):
            return
        engine = self._engine = self._load(load.spec)
        try:
            self._send(frames.Ready(engine.info))
            while self._open:
                self._read(block=not (engine.has_work() or self._waiting))
                waiting, self._waiting = self._waiting, []
                for frame in waiting:
                    self._handle(engine, frame)
                if engine.has_work():
                    self._steps += engine.step()
                if self._steps and self._is_due(engine):
                    self._send_steps()
        finally:
            engine.close()

    def poll(self) -> None:
        """Called by the engine inside a long step: take in what has come without waiting.

        Aborts and token counts are served at once, since they touch neither the KV cache nor the
        running computation; everything else waits for the end of the step.
        """
        self._read(block=False)
        if self._engine is None or not self._waiting:
            return
        # An abort must not overtake the `Add` that it means.
        unborn = {f.request.id for f in self._waiting if isinstance(f, frames.Add)}
        later: list[frames.ToWorker] = []
        for frame in self._waiting:
            match frame:
                case frames.Abort(id=request_id) if request_id not in unborn:
                    self._engine.abort(request_id)
                case frames.Tokenize():
                    self._send(self._call(self._engine, frame))
                case _:
                    later.append(frame)
        self._waiting = later

    def _load(self, spec: LoadSpec) -> Engine:
        poll: Poll = self.poll
        return engine_factory(spec.engine)(spec, poll)

    def _next_frame(self) -> frames.ToWorker | None:
        while self._open and not self._waiting:
            self._read(block=True)
        return self._waiting.pop(0) if self._waiting else None

    def _read(self, *, block: bool) -> None:
        """Decode what has arrived into `_waiting`."""
        try:
            data = self._sock.recv(READ_BYTES, 0 if block else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not data:
            self._open = False
            return
        self._buffer.feed(data)
        while (payload := self._buffer.take()) is not None:
            self._waiting.append(frames.decode_to_worker(payload))

    def _is_due(self, engine: Engine) -> bool:
        """Whether steps are to be sent now.

        On a board whose every core computes, the control plane takes one away for each frame that
        it handles: of a small model's time that is a tenth. So what comes quickly goes together.
        """
        return (
            len(self._steps) > self._held_steps
            or not engine.has_work()
            or time.monotonic_ns() - self._sent_ns >= PACE_NS
        )

    def _send_steps(self) -> None:
        self._send(frames.Steps(self._steps))
        self._steps = []
        self._sent_ns = time.monotonic_ns()

    def _send(self, frame: frames.FromWorker) -> None:
        try:
            self._sock.sendall(frames.encode(frame))
        except (BrokenPipeError, ConnectionResetError):
            self._open = False

    def _handle(self, engine: Engine, frame: frames.ToWorker) -> None:
        match frame:
            case frames.Add(request=request):
                self._held_steps, self._sent_ns = request.held_steps, 0  # the first goes at once
                try:
                    engine.add(request)
                except EngineError as error:
                    step = SequenceStep(id=request.id, error=(error.code, str(error)))
                    self._send(frames.Steps([step]))
            case frames.Abort(id=request_id):
                engine.abort(request_id)
            case frames.Stop():
                self._open = False
            case frames.Load():
                self._send(frames.Fatal("protocol", "a worker loads one engine, once"))
                self._open = False
            case _:
                self._send(self._call(engine, frame))

    def _call(
        self,
        engine: Engine,
        frame: frames.Embed
        | frames.Score
        | frames.Tokenize
        | frames.Detokenize
        | frames.Look
        | frames.GetStats,
    ) -> frames.Result:
        try:
            match frame:
                case frames.Embed():
                    value: object = engine.embed(
                        frame.inputs, pooling=frame.pooling, truncate=frame.truncate
                    )
                case frames.Score():
                    value = engine.score(
                        frame.queries,
                        frame.documents,
                        max_document_tokens=frame.max_document_tokens,
                        truncate=frame.truncate,
                    )
                case frames.Tokenize():
                    value = [
                        engine.tokenize(
                            text, add_special=frame.add_special, parse_special=frame.parse_special
                        )
                        for text in frame.texts
                    ]
                case frames.Detokenize():
                    value = [engine.detokenize([token]) for token in frame.token_ids]
                case frames.Look():
                    value = engine.look(frame.sizes)
                case frames.GetStats():
                    value = engine.stats()
        except EngineError as error:
            return frames.Result(frame.call, error=(error.code, str(error)))
        return frames.Result(frame.call, value)


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent dies, also by SIGKILL (Linux)."""
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def offer_to_oom_killer() -> None:
    """Raise our own score so that the kernel takes the worker, not the service."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJ)


def main() -> int:
    """Run the worker on the socket whose file descriptor is the first argument."""
    die_with_parent()
    offer_to_oom_killer()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C at a terminal is the service's affair
    sock = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(sock.fileno(), False)
    if len(sys.argv) > 2:
        confine(Path(sys.argv[2]), Path(sys.argv[3]))
    try:
        Worker(sock).run()
    except EngineError as error:
        fatal = frames.Fatal(error.code, str(error))
    except MemoryError:
        fatal = frames.Fatal("device_memory", "the worker ran out of memory")
    except Exception as error:
        # One of the five boundaries: whatever broke travels to the control plane, which logs it.
        fatal = frames.Fatal("engine_error", f"{type(error).__name__}: {error}")
    else:
        return 0
    with contextlib.suppress(OSError):
        sock.sendall(frames.encode(fatal))
    return 1


if __name__ == "__main__":
    sys.exit(main())
