"""Our own routes and the small ones that every client probes: status, health, version.

None of them loads a model. `/api/version` must answer in milliseconds while a model generates.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from appliance.access.caller import Caller, Scope
from appliance.chat.options import merge
from appliance.hardware import read_memory
from appliance.http.access import may_see, require_model
from appliance.http.admin_wire import plan_answer, trust_answer, update_answer
from appliance.http.channels_wire import channel_entry
from appliance.http.context import (
    ACCESS,
    CALLER,
    CHANNELS,
    DISCOVERY,
    FIELDS,
    GATE,
    LIBRARY,
    MODELS,
    REPOSITORIES,
    SELF_TEST,
    SETTINGS,
    STATE,
    ServiceState,
    version,
)
from appliance.http.doctor import conditions_of, entry, self_test_entry
from appliance.http.errors import FieldError, NoCloudError, NotYetError
from appliance.http.neighbours import status_entry as discovery_entry
from appliance.http.ollama import json_response
from appliance.http.ollama_models_wire import status_entry
from appliance.http.streams import model_named
from appliance.library.names import ModelName

# Clients compare this with the Ollama release that brought what they need (VS Code asks for 0.6.4);
# logprobs, the newest part that our dialect has, came with this one.
OLLAMA_API_LEVEL = "0.12.11"


async def api_version(_request: web.Request) -> web.StreamResponse:
    """GET /api/version (Ollama API): the level of Ollama's API, and beside it our own release."""
    return json_response({"version": OLLAMA_API_LEVEL, "hearth": version()})


async def api_status(_request: web.Request) -> web.StreamResponse:
    """GET /api/status (Ollama API): nothing ever goes to a cloud."""
    return json_response({"cloud": {"disabled": True, "source": "config"}})


async def healthz(_request: web.Request) -> web.StreamResponse:
    """GET /healthz: the event loop turns."""
    return json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.StreamResponse:
    """GET /readyz: 200 when new requests are taken, else 503."""
    word = _word(request.app[STATE])
    return json_response({"status": word}, status=200 if word == "ready" else 503)


async def status(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/status: what the service is doing, for people and monitors. Bytes, seconds."""
    return json_response(await status_answer(request.app, request[CALLER]))


async def status_answer(app: web.Application, caller: Caller) -> dict[str, Any]:
    """The body of /hearth/v1/status. Problems and conditions name folders: not for everybody."""
    is_trusted = Scope.MANAGE in caller.scopes
    state = app[STATE]
    memory = await asyncio.to_thread(read_memory)
    channels, damaged_channels = await app[CHANNELS].list()
    trust = await asyncio.to_thread(trust_answer, app[GATE], app[REPOSITORIES])
    return {
        "version": version(),
        "uptime_s": round(time.monotonic() - state.started_at, 3),
        "state": _word(state),
        "engine": app[SETTINGS].engine,
        "models": [
            status_entry(model) for model in app[MODELS].loaded() if may_see(caller, model.name)
        ],
        "memory": {"total": memory.total, "available": memory.available},
        "access": {"claimed": app[ACCESS].is_claimed, "lan": app[ACCESS].lan},
        "trust": trust,
        "discovery": discovery_entry(app[DISCOVERY].status()),
        "channels": [channel_entry(each, with_reasons=is_trusted) for each in channels],
        "self_test": self_test_entry(last) if (last := app[SELF_TEST].last) else None,
        "update": await asyncio.to_thread(update_answer) if is_trusted else None,
        "problems": await _problems(app, damaged_channels) if is_trusted else [],
        "conditions": [entry(each, whole=is_trusted) for each in await conditions_of(app)],
    }


async def _problems(app: web.Application, of_channels: Sequence[str]) -> list[str]:
    """What is wrong with what is stored, in sentences."""
    damaged = await asyncio.to_thread(app[LIBRARY].problems)
    return [
        *(f"{problem.path}: {problem.reason}" for problem in damaged),
        *await asyncio.to_thread(app[GATE].problems),
        *app[ACCESS].problems,
        *of_channels,
    ]


async def plan(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/plan?model=NAME: which engine would run it, why, and whether it fits."""
    typed = request.query.get("model", "")
    if not typed:
        raise FieldError("model", "model is required: /hearth/v1/plan?model=NAME")
    request[FIELDS]["model"] = typed
    require_model(request, typed)
    with model_named(typed):
        stored = await asyncio.to_thread(request.app[LIBRARY].get, ModelName.parse(typed))
    own = await asyncio.to_thread(lambda: stored.parameters)
    found = await request.app[MODELS].plan(stored, merge({}, own, {}).values)
    template = await asyncio.to_thread(stored.chat_template)
    return json_response(plan_answer(stored.name.short, found, template.why))


async def not_yet(request: web.Request) -> web.StreamResponse:
    """Routes of a dialect that a later release brings."""
    raise NotYetError(f"{request.path} is not part of this release; a later one brings it")


async def no_cloud(request: web.Request) -> web.StreamResponse:
    """Routes of Ollama's that are about an account at ollama.com, or pass a request on to it."""
    raise NoCloudError(
        f"{request.path} asks ollama.com, and this box does not: models run here, with no account"
    )


def _word(state: ServiceState) -> str:
    if state.draining:
        return "draining"
    return "ready" if state.ready else "starting"
