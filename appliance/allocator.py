"""How the C library keeps memory: small, for a process that idles next to models.

A box has other uses for what one upload needed. glibc grows its thresholds with each large buffer
that is freed and keeps what lies below them, in as many arenas as there are threads.
"""

import ctypes
from contextlib import suppress

# malloc.h; these are mallopt(3)'s numbers
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 128 * 1024  # glibc's own start; said once, it does not grow
_ARENAS = 2


def give_back_freed_memory() -> None:
    """Have freed memory return to the system. Does nothing where there is no mallopt (musl)."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, _LARGE_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_ARENA_MAX, _ARENAS)
