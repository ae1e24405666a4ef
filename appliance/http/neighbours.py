"""Other boxes and model servers on the network, as they announced themselves (Hearth API)."""

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from appliance.discovery.discovery import DiscoveryStatus
from appliance.discovery.neighbours import Neighbour
from appliance.http.context import DISCOVERY
from appliance.http.ollama import json_response


async def neighbours(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/neighbours: each with whether it answers now. Takes at most four seconds."""
    discovery = request.app[DISCOVERY]
    await discovery.look_again()
    return json_response(answer(discovery.status(), discovery.neighbours()))


def answer(status: DiscoveryStatus, rows: list[Neighbour]) -> dict[str, Any]:
    """The body; also of `hearth discover` without a service."""
    return {"discovery": status_entry(status), "neighbours": [entry(row) for row in rows]}


def status_entry(status: DiscoveryStatus) -> dict[str, Any]:
    """What of this box is announced; also a part of /hearth/v1/status."""
    return {
        "state": status.word,
        "problem": status.problem or None,
        "name": status.instance or None,
        "host": status.host or None,
        "addresses": list(status.addresses),
        "interfaces": list(status.interfaces),
    }


def entry(row: Neighbour) -> dict[str, Any]:
    """One neighbour. Every text comes from it: bounded, without control characters, not HTML."""
    return {
        "name": row.name,
        "kind": row.kind,
        "id": row.id or None,
        "host": row.host,
        "addresses": list(row.addresses),
        "port": row.port,
        "url": row.url or None,
        "version": row.version or None,
        "caps": list(row.caps),
        "auth": row.auth or None,
        "state": row.state or None,
        "is_alive": row.is_alive,
        "seen_at": datetime.fromtimestamp(row.seen_at, UTC).isoformat(timespec="seconds"),
    }
