"""Ollama's routes about models: tags, ps, show, create, copy, delete.

What reads or changes the disk runs in a thread. Blobs have their own file, `blobs.py`.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from appliance.errors import ApplianceError, BadRequestError, ModelNotFoundError
from appliance.http import ollama_models_wire as wire
from appliance.http.access import may_see, require_model
from appliance.http.body import read_json
from appliance.http.context import (
    BUNDLES,
    CALLER,
    FIELDS,
    GATE,
    LIBRARY,
    LIVE,
    MODELS,
    SETTINGS,
    TRANSFERS,
)
from appliance.http.ollama import json_response
from appliance.http.streams import report
from appliance.library.create import Progress
from appliance.library.create import create as create_model
from appliance.library.names import ModelName
from appliance.threads import in_thread
from appliance.trust.gate import Gate


async def tags(request: web.Request) -> web.StreamResponse:
    """GET /api/tags: stored models, newest first."""
    library, gate, caller = request.app[LIBRARY], request.app[GATE], request[CALLER]

    def entries() -> list[dict[str, Any]]:
        models = [model for model in library.list() if may_see(caller, model.name)]
        return [wire.tag_entry(*pair) for pair in zip(models, gate.labels(models), strict=True)]

    return json_response({"models": await asyncio.to_thread(entries)})


async def ps(request: web.Request) -> web.StreamResponse:
    """GET /api/ps: loaded models, those that stay longest first."""
    loaded, caller = request.app[MODELS].loaded(), request[CALLER]
    entries = [wire.ps_entry(model) for model in loaded if may_see(caller, model.name)]
    return json_response({"models": entries})


async def show(request: web.Request) -> web.StreamResponse:
    """POST /api/show."""
    body = await read_json(request, wire.ShowBody)
    if not body.typed:
        raise BadRequestError("model is required")
    request[FIELDS]["model"] = body.typed
    require_model(request, body.typed)
    name, library, gate = ModelName.parse(body.typed), request.app[LIBRARY], request.app[GATE]

    def answer() -> dict[str, Any]:
        model = library.get(name)
        (label,) = gate.labels([model])
        return wire.show_answer(model, body, label)

    return json_response(await asyncio.to_thread(answer))


async def copy(request: web.Request) -> web.StreamResponse:
    """POST /api/copy."""
    body = await read_json(request, wire.CopyBody)
    source = wire.parse_name(body.source, "source")
    destination = wire.parse_name(body.destination, "destination")
    request[FIELDS]["model"] = body.source
    gate = request.app[GATE]
    await asyncio.to_thread(gate.require_create, destination)
    try:
        await asyncio.to_thread(request.app[LIBRARY].copy, source, destination)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f'model "{body.source}" not found') from error
    await asyncio.to_thread(_forget_pull, gate, destination)
    request.app[LIVE].poke("models")
    return web.Response()


async def delete(request: web.Request) -> web.StreamResponse:
    """DELETE /api/delete: the model leaves memory and disk."""
    body = await read_json(request, wire.NameBody)
    name = wire.parse_name(body.typed, "name")
    request[FIELDS]["model"] = body.typed
    await request.app[MODELS].unload(name)
    if not await asyncio.to_thread(request.app[BUNDLES].delete, name):
        raise ModelNotFoundError(f"model '{body.typed}' not found")
    await asyncio.to_thread(_forget_pull, request.app[GATE], name)
    request.app[LIVE].poke("models", "updates")
    return web.Response()


async def create(request: web.Request) -> web.StreamResponse:
    """POST /api/create: status lines, or with `stream` false only the last of them."""
    body = await read_json(request, wire.CreateBody)
    wanted = body.to_create(request.app[SETTINGS].max_messages)
    request[FIELDS]["model"] = body.typed
    gate, library = request.app[GATE], request.app[LIBRARY]
    space = request.app[TRANSFERS].space
    await asyncio.to_thread(gate.require_create, wanted.name)
    await asyncio.to_thread(space.require, 0, "the new model")

    def steps() -> Generator[Progress, None, None]:
        yield from create_model(library, wanted)
        _forget_pull(gate, wanted.name)

    documents = _documents(in_thread(steps()))
    response = await report(request, documents, whole=not body.stream)
    request.app[LIVE].poke("models")
    return response


def _forget_pull(gate: Gate, name: ModelName) -> None:
    """What is under the name now is not what was pulled. A lock that cannot be dropped only makes a
    later pull ask."""
    with contextlib.suppress(ApplianceError):
        gate.unlock(name)


async def _documents(steps: AsyncGenerator[Progress, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(steps):
        async for step in steps:
            yield msgspec.json.encode({"status": step.status})
