"""GET /hearth/v1/device: the board's temperatures, power, disks, clock and load (Hearth API)."""

import asyncio
from typing import Any

from aiohttp import web

from appliance.device.reading import DeviceReading, Disk
from appliance.http.context import DEVICE
from appliance.http.ollama import json_response


async def device(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/device."""
    return json_response(device_answer(await asyncio.to_thread(request.app[DEVICE].read)))


def device_answer(reading: DeviceReading) -> dict[str, Any]:
    """The body. Degrees Celsius, watts, bytes, shares from 0 to 1; percent of stalled time."""
    swap, board = reading.swap, reading.board
    return {
        "board": {
            "model": board.model,
            "page_bytes": board.page_bytes,
            "governor": board.governor,
            "watchdog": board.watchdog,
        },
        "temperatures": [
            {"zone": zone.name, "celsius": zone.celsius, "slows_at": zone.passive}
            for zone in reading.zones
        ],
        "throttled": list(reading.throttling.now),
        "throttled_since_boot": list(reading.throttling.since_boot),
        "power_watts": reading.power_watts,
        "rails": [{"name": rail.name, "watts": rail.watts} for rail in reading.rails],
        "disks": [_disk(disk) for disk in reading.disks],
        "clock": {"synced": reading.clock.is_synced, "state": str(reading.clock.state)},
        "memory": {"total": reading.memory.total, "available": reading.memory.available},
        "swap": None
        if swap is None
        else {"total": swap.total, "used": swap.used, "pages_per_s": swap.pages_per_s},
        "pressure": {
            name: {"some_avg10": s.some10, "some_avg60": s.some60, "full_avg10": s.full10}
            for name, s in reading.stalls.items()
        },
        "oom_kills": reading.oom_kills,
    }


def _disk(disk: Disk) -> dict[str, Any]:
    return {
        "mount": str(disk.mount),
        "device": disk.device,
        "kind": disk.kind,
        "free_bytes": disk.free_bytes,
        "total_bytes": disk.total_bytes,
        "life_used": disk.life_used,
        "written_bytes": disk.written_bytes,
        "read_only": disk.is_read_only,
        "errors": disk.errors,
        "failing": disk.is_failing,
    }
