"""The door to llama.cpp: its C functions as `lib`, and its log, caught instead of printed.

Knows nothing of requests. Importing this loads the shared library, so only a worker may.
"""

import ctypes
import os
import re
from collections import deque
from typing import Any

from engine.errors import BackendUnavailableError

try:
    from llama_cpp import llama_cpp
except (ImportError, OSError, RuntimeError) as error:  # a missing wheel, or one for another CPU
    raise BackendUnavailableError(
        f"the llama engine needs llama-cpp-python ({error}); pip install 'hearth[llama]'"
    ) from error

lib: Any = llama_cpp
"""The C API under its own names (llama.h); untyped, so every caller converts what it takes out."""

_INFO, _WARN, _ERROR, _CONTINUATION = 2, 3, 4, 5  # ggml_log_level
_FUNCTION_PREFIX = re.compile(r"^\w+: ")


class NativeLog:
    """The last lines that llama.cpp logged in this process.

    llama.cpp has one log per process and calls it from any of its threads; appending to a deque
    is safe there.
    """

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=500)
        # ctypes does not keep a callback alive: this attribute must outlive every native call
        self._callback = lib.llama_log_callback(self._receive)

    @property
    def callback(self) -> Any:
        """For other libraries that log in the same way."""
        return self._callback

    def install(self) -> None:
        lib.llama_log_set(self._callback, None)

    def clear(self) -> None:
        self._lines.clear()

    def reason(self) -> str:
        """What llama.cpp said went wrong: its last error lines, else its last warning."""
        lines = list(self._lines)
        for level, keep in ((_ERROR, 3), (_WARN, 1)):
            found = [_FUNCTION_PREFIX.sub("", text) for seen, text in lines if seen == level]
            if found:
                return "; ".join(dict.fromkeys(found[-keep:]))
        return "llama.cpp gave no reason"

    def mebibytes(self, pattern: str) -> int:
        """Bytes that the lines matching `pattern` (one group, a figure in MiB) add up to."""
        figures = (re.search(pattern, text) for _, text in list(self._lines))
        return sum(int(float(found[1]) * 2**20) for found in figures if found)

    def _receive(self, level: int, text: bytes, _user_data: Any) -> None:
        line = text.decode("utf-8", "replace").rstrip("\n")
        if level == _CONTINUATION and self._lines:
            last_level, last = self._lines.pop()
            self._lines.append((last_level, (last + line)[:2000]))
        elif line and level >= _INFO:
            self._lines.append((level, line[:2000]))


_log = NativeLog()


def start() -> NativeLog:
    """Initialise llama.cpp and silence it; safe to call again. Returns the caught log."""
    # Else a failed assertion starts a debugger on this process before it dies.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    _log.install()
    _log.clear()
    lib.llama_backend_init()
    return _log


def utf8_from(call: Any, *args: Any) -> str:
    """The text of a C function that fills (…, buffer, size) and returns the length, or ''."""
    buffer = ctypes.create_string_buffer(512)
    length = call(*args, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if length > 0 else ""
