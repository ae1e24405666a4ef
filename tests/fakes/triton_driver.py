"""A Triton driver without a device: launches compile for the target asked for, and run nothing.

The launchers run as they do on a GPU, so what is compiled is what would be launched, with the same
constants and specialisations. Triton itself refuses what exceeds the target's shared memory.
"""

import contextlib
import itertools
from types import SimpleNamespace

from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

# What one block may use, in KB (CUDA C++ Programming Guide, "Technical Specifications per Compute
# Capability", maximum amount of shared memory per thread block).
SHARED_LIMIT_KB = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 120: 99}
_numbers = itertools.count()


class CompileOnlyDriver:
    """Stands for one GPU of compute capability `capability` (87 is 8.7)."""

    def __init__(self, capability, shared_limit_kb):
        self.built = []  # metadata of each kernel: name, shared (bytes), num_warps, num_stages
        self._device, self._capability = next(_numbers), capability  # kernels are kept by device
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": shared_limit_kb * 1024},
            load_binary=self._load,
        )
        self._metadata = None

    def get_current_device(self):
        return self._device

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self._capability, 32)

    def launcher_cls(self, source, metadata):
        self._metadata = metadata
        return lambda *args: None

    def _load(self, name, binary, shared, device):
        self.built.append(self._metadata)  # after Triton has compared it with the limit
        return None, None, 0, 0, 1024


@contextlib.contextmanager
def compile_only(capability, shared_limit_kb=None):
    """Within it, launching a kernel on tensors of the meta device only compiles it."""
    fake = CompileOnlyDriver(capability, shared_limit_kb or SHARED_LIMIT_KB[capability])
    driver.set_active(fake)
    try:
        yield fake
    finally:
        with contextlib.suppress(
            RuntimeError
        ):  # where no device is, there is nothing to go back to
            driver.reset_active()
