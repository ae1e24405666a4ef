"""A look at the outside from inside a long computation, which may end it."""

import time
from collections.abc import Callable

from engine.llama.native import lib

_POLL_NS = 5_000_000
_NO_CALLBACK = lib.ggml_abort_callback()


class Interruption:
    """Calls `poll` every few milliseconds from inside a computation, and may stop it.

    `wanted` is asked after each poll. What `poll` raises cannot travel through C; it is kept and
    raised again when the computation has come back.
    """

    def __init__(self, poll: Callable[[], None], wanted: Callable[[], bool]) -> None:
        self._poll = poll
        self._wanted = wanted
        self._next_ns = 0
        self._error: BaseException | None = None
        self._callback = lib.ggml_abort_callback(self.check)

    def begin(self) -> None:
        """A computation begins; the first poll is due a moment later."""
        self._next_ns = time.monotonic_ns() + _POLL_NS

    def arm(self, context: int) -> None:
        self.begin()
        lib.llama_set_abort_callback(context, self._callback, None)

    def disarm(self, context: int) -> None:
        """Take the callback away, so that decoding single tokens never enters Python."""
        lib.llama_set_abort_callback(context, _NO_CALLBACK, None)

    def reraise(self) -> None:
        """Raise what `poll` raised during the computation, if it did."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def check(self, _user_data: object = None) -> bool:
        """Poll if it is time to; whether to stop."""
        now = time.monotonic_ns()
        if now < self._next_ns:
            return False
        try:
            self._poll()
        except BaseException as error:  # a ctypes callback would print it and go on
            self._error = error
            return True
        self.begin()
        return self._wanted()
