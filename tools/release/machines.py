"""The architectures that Hearth runs on, as Debian and as the kernel name them."""

import platform

from tools.release.errors import ReleaseError

_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}


def architectures() -> list[str]:
    """Debian's names of all of them."""
    return sorted(_NAMES.values())


def architecture() -> str:
    """Debian's name of this machine's; raises ReleaseError."""
    machine = platform.machine()
    if machine not in _NAMES:
        raise ReleaseError(f"Hearth runs on amd64 and arm64, this machine is {machine}")
    return _NAMES[machine]


def machine_of(arch: str) -> str:
    """The kernel's name of an architecture, as in the tags of wheels."""
    return next(machine for machine, name in _NAMES.items() if name == arch)
