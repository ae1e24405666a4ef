"""What this machine has: memory that can still be used, and GPUs.

Reads /proc, /sys, /dev and the cgroup, fresh at every call, and decides nothing.
"""

from dataclasses import dataclass
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
SELF_CGROUP = Path("/proc/self/cgroup")
ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. `available` is what can be taken without swapping, cgroup limits considered."""

    total: int
    available: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU whose driver is loaded. What it can compute only its libraries know."""

    model: str
    shares_memory: bool  # with the CPU, as on a Jetson


def read_gpus(root: Path = ROOT) -> tuple[Gpu, ...]:
    """The GPUs that the driver shows and that have a device file; `root` holds proc and dev."""
    if (root / "dev/nvidiactl").exists():
        cards = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
        if cards:
            return tuple(Gpu(_gpu_model(card), shares_memory=False) for card in cards)
    try:
        compatible = (root / "proc/device-tree/compatible").read_text()
        model = (root / "proc/device-tree/model").read_text().strip("\0\n")
    except OSError:
        return ()
    has_device = any((root / f"dev/{name}").exists() for name in _JETSON_DEVICES)
    return (Gpu(model, shares_memory=True),) if has_device and "nvidia,tegra" in compatible else ()


_JETSON_DEVICES = ("nvhost-gpu", "nvgpu/igpu0", "nvidiactl")  # by release of its Linux


def _gpu_model(information: Path) -> str:
    try:
        lines = information.read_text().splitlines()
    except OSError:
        lines = []
    facts = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in facts if key == "Model"), "NVIDIA GPU")


def read_memory(
    meminfo: Path = MEMINFO, cgroup: Path = CGROUP, self_cgroup: Path = SELF_CGROUP
) -> Memory:
    """Memory of the machine, or of our control group where that allows less."""
    fields = {}
    for line in meminfo.read_text().splitlines():
        key, _, rest = line.partition(":")
        fields[key] = int(rest.split()[0]) * 1024
    memory = Memory(fields["MemTotal"], fields["MemAvailable"])
    for group in _own_groups(cgroup, self_cgroup):
        limit, used, reclaimable = _group_memory(group)
        if limit is not None:
            free = max(0, limit - used + reclaimable)
            memory = Memory(min(memory.total, limit), min(memory.available, free))
    return memory


def _own_groups(cgroup: Path, self_cgroup: Path) -> list[Path]:
    """Our cgroup v2 folder and its parents, each of which may limit us."""
    try:
        lines = self_cgroup.read_text().splitlines()
    except OSError:
        return []
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None:
        return []
    own = cgroup / path.lstrip("/")
    return [p for p in (own, *own.parents) if p == cgroup or cgroup in p.parents]


def _group_memory(group: Path) -> tuple[int | None, int, int]:
    """(limit or None, bytes used, bytes of page cache among them)."""
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit == "max":
            return None, 0, 0
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(limit), used, int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return None, 0, 0
