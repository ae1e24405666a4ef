"""A Triton driver without a device: launches compile for the target asked for, and run nothing.

The launchers run as they do on a GPU, so what is compiled is what would be launched, with the same
constants and specialisations. Triton itself checks the shared memory against the target's limit.
"""

import contextlib
from types import SimpleNamespace

from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

# What one block may use, in KB (CUDA C++ Programming Guide, "Technical Specifications per Compute
# Capability", maximum amount of shared memory per thread block).
SHARED_LIMIT_KB = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 120: 99}


class CompileOnlyDriver:
    """Stands for one GPU of compute capability `capability` (87 is 8.7); keeps what was built."""

    def __init__(self, capability):
        self.capability = capability
        self.built = []  # metadata of each kernel: name, shared (bytes), num_warps, num_stages
        limit = SHARED_LIMIT_KB[capability] * 1024
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": limit},
            load_binary=lambda name, binary, shared, device: (None, None, 0, 0, 1024),
        )

    def get_current_device(self):
        return self.capability  # Triton keeps its compiled kernels by device

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)

    def launcher_cls(self, source, metadata):
        self.built.append(metadata)
        return lambda *args: None


@contextlib.contextmanager
def compile_only(capability):
    """Within it, launching a kernel on tensors of the meta device only compiles it."""
    fake = CompileOnlyDriver(capability)
    driver.set_active(fake)
    try:
        yield fake
    finally:
        with contextlib.suppress(RuntimeError):  # where no device is, there is nothing to go back to
            driver.reset_active()
