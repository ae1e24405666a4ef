"""The health log of an NVMe disk, asked of the controller itself: no program need be installed.

NVM Express Base Specification, 5.16.1.3, "SMART / Health Information"; the request is Linux's
NVME_IOCTL_ADMIN_CMD (linux/nvme_ioctl.h), which root alone may make.
"""

import ctypes
import fcntl
from pathlib import Path
from typing import Any

_ADMIN, _GET_LOG, _ALL_NAMESPACES, _HEALTH_LOG = 0xC0484E41, 2, 0xFFFFFFFF, 2
LOG_BYTES = 512


class _AdminCommand(ctypes.Structure):
    """struct nvme_admin_cmd"""

    _fields_ = (
        ("opcode", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("reserved", ctypes.c_uint16),
        ("namespace", ctypes.c_uint32),
        ("cdw2_3", ctypes.c_uint32 * 2),
        ("metadata", ctypes.c_uint64),
        ("address", ctypes.c_uint64),
        ("metadata_bytes", ctypes.c_uint32),
        ("data_bytes", ctypes.c_uint32),
        ("cdw10_15", ctypes.c_uint32 * 6),
        ("timeout_ms", ctypes.c_uint32),
        ("result", ctypes.c_uint32),
    )


def read_nvme(controller: Path) -> dict[str, Any] | None:
    """What a controller, like /dev/nvme0, says of its disk; None where it does not answer."""
    log = ctypes.create_string_buffer(LOG_BYTES)
    command = _AdminCommand(
        opcode=_GET_LOG,
        namespace=_ALL_NAMESPACES,
        address=ctypes.addressof(log),
        data_bytes=LOG_BYTES,
    )
    command.cdw10_15[0] = _HEALTH_LOG | (LOG_BYTES // 4 - 1) << 16
    try:
        with controller.open("rb", buffering=0) as file:
            status = fcntl.ioctl(file, _ADMIN, command)
    except OSError:
        return None
    return parse_nvme(log.raw) if status == 0 else None


def parse_nvme(log: bytes) -> dict[str, Any]:
    """Byte 0 warns of spare blocks (bit 0), reliability (2), read-only media (3); byte 5 is the
    percentage used, which goes past 100; bytes 160 to 175 count what could not be read."""
    return {
        "life_used": log[5] / 100,
        "is_failing": bool(log[0] & 0b1101),
        "errors": int.from_bytes(log[160:176], "little"),
    }
