"""What is wrong with the box, for people and monitors (Hearth API)."""

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from appliance.conditions import Condition, Severity
from appliance.health import examine, is_well
from appliance.health_facts import Live, read_facts
from appliance.http.context import (
    DEVICE,
    DISCOVERY,
    ENROLLER,
    INCIDENTS,
    LEDS,
    LIBRARY,
    REPOSITORIES,
    SELF_TEST,
    SETTINGS,
    STICKS,
    TLS,
)
from appliance.http.ollama import json_response
from appliance.leds import Show
from appliance.self_test import Report


async def doctor(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/doctor: conditions, the worst first; `healthy` if all are mere notes."""
    return json_response(answer(await conditions_of(request.app)))


async def conditions_of(app: web.Application) -> list[Condition]:
    """What is wrong just now, the worst first."""
    own = app[SETTINGS], app[LIBRARY], app[REPOSITORIES]
    parts = *own, app[DISCOVERY].status(), app[DEVICE], Live.of(app[INCIDENTS])
    found = examine(await asyncio.to_thread(read_facts, *parts))
    tellers = app[TLS], app[STICKS], app[ENROLLER], app[SELF_TEST]
    told = [condition for each in tellers for condition in each.conditions()]
    conditions = [*told, *found]
    app[LEDS].set(Show.ATTENTION, any(each.severity is Severity.ERROR for each in conditions))
    return conditions


async def self_test(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/self-test: run it now; what each check said. Takes some seconds."""
    report = await request.app[SELF_TEST].run()
    return json_response({**self_test_entry(report), "checks": msgspec.to_builtins(report.checks)})


def self_test_entry(report: Report) -> dict[str, Any]:
    """A self-test as a fact; also of /hearth/v1/status."""
    return {"version": report.version, "at": round(report.at), "passed": report.has_passed}


def answer(conditions: list[Condition]) -> dict[str, Any]:
    """The body; also of `hearth doctor` without a service."""
    return {
        "healthy": is_well(conditions),
        "conditions": [entry(condition) for condition in conditions],
    }


def entry(condition: Condition, *, whole: bool = True) -> dict[str, str]:
    """A condition; also of /hearth/v1/status, for guests without what names things of this box."""
    return {
        "code": condition.code,
        "severity": condition.severity,
        "title": condition.title,
        **({"text": condition.text, "cure": condition.cure} if whole else {}),
    }
