"""What is wrong with the box, for people and monitors (Hearth API)."""

import asyncio
from typing import Any

from aiohttp import web

from appliance.health import Condition, examine, is_well
from appliance.health_facts import read_facts
from appliance.http.context import DISCOVERY, LIBRARY, REPOSITORIES, SETTINGS, TLS
from appliance.http.ollama import json_response


async def doctor(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/doctor: conditions, the worst first; `healthy` if all are mere notes."""
    app = request.app
    parts = app[SETTINGS], app[LIBRARY], app[REPOSITORIES], app[DISCOVERY].status()
    found = examine(await asyncio.to_thread(read_facts, *parts))
    return json_response(answer([*app[TLS].conditions(), *found]))


def answer(conditions: list[Condition]) -> dict[str, Any]:
    """The body; also of `hearth doctor` without a service."""
    return {
        "healthy": is_well(conditions),
        "conditions": [
            {
                "code": condition.code,
                "severity": condition.severity,
                "title": condition.title,
                "text": condition.text,
                "cure": condition.cure,
            }
            for condition in conditions
        ],
    }
