"""Kernels that import Triton when first launched, so that only a GPU worker needs it.

Knows how a Python function becomes a Triton kernel; knows no kernel. Modules with kernels write
`from __future__ import annotations` and import `tl`, `constexpr` and `Ptr` from here: they are
replaced by Triton's in the module when its first kernel is launched, so that a CPU worker reads
the same modules, uses the torch twins and never needs Triton.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

Ptr = Any  # a tensor; inside the kernel a pointer to its first element
constexpr = Any  # a value that the kernel is compiled for
tl: Any = None


class Kernel:
    """A Triton function before its first launch; afterwards its module holds the jitted one."""

    def __init__(self, function: Callable[..., Any], varying: tuple[str, ...] = ()) -> None:
        self._function = function
        self._varying = varying
        self._jitted: Any = None

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        launcher: Callable[..., Any] = self.resolve()[grid]
        return launcher

    def __call__(self, *args: Any) -> Any:
        raise TypeError(f"{self._function.__name__} is called by kernels; launch it with [grid]")

    def resolve(self) -> Any:
        """The jitted function; puts it and all other kernels of its module in their places."""
        if self._jitted is None:
            import triton
            import triton.language

            names = self._function.__globals__
            core = triton.language
            names |= {"tl": core, "constexpr": core.constexpr, "Ptr": core.tensor}
            self._jitted = triton.jit(self._function, do_not_specialize=self._varying)
            if self._function is _loop_bound and triton.knobs.runtime.interpret:
                self._jitted = _interpreted_loop_bound
            for name, value in list(names.items()):
                if isinstance(value, Kernel):
                    names[name] = value.resolve()
        return self._jitted


def kernel(*varying: str) -> Callable[[Callable[..., Any]], Any]:
    """Decorator. `varying` integers differ from step to step: compile once for all their values."""
    return functools.partial(Kernel, varying=varying)


def _loop_bound(n: Ptr) -> Ptr:
    return n


def _interpreted_loop_bound(n: Any) -> int:
    # With numpy >= 2.4 the interpreter of Triton 3.6 cannot loop to a tensor: it keeps scalars in
    # arrays of one element. A `while` could, but the compiler pipelines the loads of `for` only.
    return int(n.handle.data.item()) if hasattr(n, "handle") else int(n)


loop_bound: Any = Kernel(_loop_bound)
"""Wrap the bounds of a kernel's `range` in it when they are computed in the kernel."""


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed; does not import it."""
    return importlib.util.find_spec("triton") is not None


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is `n` or more."""
    return 1 << max(n - 1, 0).bit_length()


def cdiv(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)
