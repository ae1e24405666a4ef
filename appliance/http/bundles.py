"""Our own routes about signed models: which there are, why, and back to the one before."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from appliance.bundles.bundles import Bundles
from appliance.bundles.state import BundleState
from appliance.http import bundles_wire as wire
from appliance.http.access import may_learn_why, may_see, require_model
from appliance.http.body import read_json
from appliance.http.context import BUNDLES, CALLER, FIELDS
from appliance.http.errors import FieldError
from appliance.http.ollama import json_response
from appliance.library.names import ModelName


async def list_all(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/bundles: the signed models, and which of them could not be read."""
    bundles = request.app[BUNDLES]
    states = await asyncio.to_thread(bundles.states)
    problems = await asyncio.to_thread(bundles.problems)
    entries = [
        wire.bundle_entry(_short(state), state)
        for state in states
        if may_see(request[CALLER], ModelName.parse(state.name))
    ]
    return json_response({"bundles": entries, "problems": problems})


async def show(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/bundles/show?model=NAME: all releases that are here, and the bad ones; why
    those are bad is for whoever may administer."""
    state = await _asked_for(request)
    with_reasons = may_learn_why(request[CALLER])
    return json_response(wire.bundle_detail(_short(state), state, with_reasons=with_reasons))


async def why(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/bundles/why?model=NAME: the choice of the variant, and the last failure with
    the end of the worker's log, which may name paths of this box."""
    state = await _asked_for(request)
    return json_response(wire.why_answer(_short(state), state))


async def check(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/bundles/check: ask whether what is active was taken back."""
    return await _change(request, request.app[BUNDLES].check)


async def rollback(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/bundles/rollback: the previous release becomes active, at once."""
    return await _change(request, request.app[BUNDLES].rollback)


async def pin(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/bundles/pin: only this version may be active."""
    body = await read_json(request, wire.PinBody)
    name = _name(request, body.model)
    state = await request.app[BUNDLES].pin(name, body.version)
    return json_response(wire.bundle_detail(_short(state), state, with_reasons=True))


async def unpin(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/bundles/unpin: the name decides again."""
    return await _change(request, request.app[BUNDLES].unpin)


async def _change(
    request: web.Request, change: Callable[[ModelName], Awaitable[BundleState]]
) -> web.Response:
    body = await read_json(request, wire.BundleBody)
    state = await change(_name(request, body.model))
    return json_response(wire.bundle_detail(_short(state), state, with_reasons=True))


async def _asked_for(request: web.Request) -> BundleState:
    typed = request.query.get("model", "")
    if not typed:
        raise FieldError("model", f"model is required: {request.path}?model=NAME")
    require_model(request, typed)
    bundles: Bundles = request.app[BUNDLES]
    return await asyncio.to_thread(bundles.state, _name(request, typed))


def _name(request: web.Request, typed: str) -> ModelName:
    request[FIELDS]["model"] = typed
    return ModelName.parse(typed)


def _short(state: BundleState) -> str:
    return ModelName.parse(state.name).short
