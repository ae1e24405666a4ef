"""What this box has, as the choice of a variant wants it: memory, disk, processor, GPU, engines.

Blocking: reads /proc and the disk, and asks the CUDA driver in a process of its own, so that its
libraries never enter the service.
"""

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from appliance.bundles.variants import Facts
from appliance.config import MIB, Settings
from appliance.hardware import Gpu, read_gpus, read_memory
from appliance.library.blobs import make_folders
from appliance.library.space import reserve_bytes
from engine.abilities import PAGED_LIBRARIES

PROBE_TIMEOUT_S = 20

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

# CUDA driver API: cuDeviceGetAttribute with CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_PROBE = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
device, major, minor, size = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
assert not cuda.cuInit(0) and not cuda.cuDeviceGet(ctypes.byref(device), 0)
assert not cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
assert not cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
assert not cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
print(major.value, minor.value, size.value)
"""


def read_facts(settings: Settings, loaded_bytes: int, own_bytes: int) -> Facts:
    """The facts now. Memory and disk count what the newcomer may take over: `loaded_bytes` of
    models that can make room, and `own_bytes` on the disk of the bundle's earlier releases."""
    memory = read_memory()
    ram = memory.available + loaded_bytes - settings.memory_reserve_mib * MIB
    make_folders(settings.models_dir)
    disk = shutil.disk_usage(settings.models_dir)
    kept = reserve_bytes(disk.total, settings.disk_reserve_mib)
    gpus = read_gpus()
    cuda = _read_cuda() if gpus else None
    vram = 0
    if cuda:
        vram = ram if gpus[0].shares_memory else cuda[1]
    return Facts(
        arch=_ARCHITECTURES.get(platform.machine(), platform.machine()),
        ram_mib=max(0, ram) // MIB,
        disk_mib=max(0, disk.free + own_bytes - kept) // MIB,
        vram_mib=max(0, vram) // MIB,
        accelerators=_accelerators(cuda),
        engines=_engines(settings, gpus),
    )


def _accelerators(cuda: tuple[tuple[int, ...], int] | None) -> Mapping[str, tuple[int, ...]]:
    return MappingProxyType({"cuda": cuda[0]} if cuda else {})


def _engines(settings: Settings, gpus: tuple[Gpu, ...]) -> frozenset[str]:
    """Those that may run here: the one that the settings ask for, else those that can."""
    if settings.engine != "auto":
        return frozenset({settings.engine})
    found = {"llama"} if importlib.util.find_spec("llama_cpp") else set()
    if gpus and all(importlib.util.find_spec(name) for name in PAGED_LIBRARIES):
        found.add("paged")
    return frozenset(found)


@cache
def _read_cuda() -> tuple[tuple[int, ...], int] | None:
    """Compute capability and bytes of the first GPU, or None if the driver does not answer."""
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and text
            [sys.executable, "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=True,
        )
        major, minor, size = map(int, done.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return (major, minor), size
