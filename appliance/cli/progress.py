"""Progress on stderr: a spinner or bar that redraws itself on a terminal, plain lines elsewhere."""

import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Self, TextIO

from appliance.cli.inert import inert
from appliance.cli.table import text_width
from appliance.cli.units import size_words, span_words

REFRESH_S = 0.1
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_CLEAR_LINE = "\r\x1b[K"
# Synchronized output: the terminal shows the frame whole (DEC private mode 2026).
_BEGIN_FRAME, _END_FRAME = "\x1b[?2026h", "\x1b[?2026l"
_BAR_COLUMNS = 20


class Progress:
    """One line that shows the current step; finished steps stay above it. A context manager.

    On a terminal a thread redraws the line every 100 ms; otherwise each new step is one line, and
    no thread is started. Not safe to share between threads.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._is_live = self._stream.isatty()
        self._step = ""
        self._counts: tuple[int, int] | None = None  # bytes done, bytes in all
        self._began = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._redraw, daemon=True)

    def __enter__(self) -> Self:
        if self._is_live:
            self._thread.start()
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        self._stop(keep=error_type is None)

    def step(self, text: str) -> None:
        """Begin a step; the same text again changes nothing."""
        self._begin(text, None)

    def count(self, text: str, done: int, total: int) -> None:
        """Show how far a step is, in bytes."""
        self._begin(text, (done, total))

    def clear(self) -> None:
        """Stop and leave nothing of the current step on the screen."""
        self._stop(keep=False)

    def _begin(self, text: str, counts: tuple[int, int] | None) -> None:
        text = inert(text)
        with self._lock:
            if text != self._step:
                self._finish_step()
                self._step, self._began = text, self._clock()
                if not self._is_live and text:
                    self._write(f"{text}\n")
            self._counts = counts

    def _finish_step(self) -> None:
        if self._is_live and self._step:
            self._write(f"{_CLEAR_LINE}{self._line(finished=True)}\n")
        self._step = ""

    def _stop(self, *, keep: bool) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        if not self._is_live:
            return
        self._thread.join()
        if keep:
            self._finish_step()
        self._write(_CLEAR_LINE)

    def _redraw(self) -> None:
        while not self._ended.wait(REFRESH_S):
            with self._lock:
                self._write(f"{_BEGIN_FRAME}{_CLEAR_LINE}{self._line()}{_END_FRAME}")

    def _line(self, *, finished: bool = False) -> str:
        elapsed_s = self._clock() - self._began
        columns = shutil.get_terminal_size().columns
        if self._counts is not None:
            return render_bar(self._step, *self._counts, elapsed_s, columns)
        frame = " " if finished else _FRAMES[int(elapsed_s / REFRESH_S) % len(_FRAMES)]
        return f"{self._step} {frame}"[: columns - 1]

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def render_bar(label: str, done: int, total: int, elapsed_s: float, columns: int) -> str:
    """One line of at most `columns`: label, percent, bar, bytes, rate and time left."""
    share = min(done / total, 1.0) if total else 1.0
    filled = int(share * _BAR_COLUMNS)
    bar = "█" * filled + " " * (_BAR_COLUMNS - filled)
    head = f"{label}: {share * 100:3.0f}% ▕{bar}▏ {size_words(done)}"
    if done >= total:
        parts = [head]
    else:
        parts = [f"{head}/{size_words(total)}", *_pace(done, total, elapsed_s)]
    line = "  ".join(parts)
    return line if text_width(line) < columns else f"{label}: {share * 100:3.0f}%"


def _pace(done: int, total: int, elapsed_s: float) -> list[str]:
    if done == 0 or elapsed_s < 1:
        return []
    rate = done / elapsed_s
    return [f"{size_words(int(rate))}/s", f"{span_words((total - done) / rate)} left".lower()]
