"""Ollama's routes about models: tags, ps, show, create, copy, delete.

What reads or changes the disk runs in a thread. Blobs have their own file, `blobs.py`.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing

import msgspec
from aiohttp import web

from appliance.errors import BadRequestError, ModelNotFoundError
from appliance.http import ollama_models_wire as wire
from appliance.http.body import read_json
from appliance.http.context import BUNDLES, FIELDS, LIBRARY, MODELS, REPOSITORIES, SETTINGS
from appliance.http.middleware import administrative
from appliance.http.ollama import json_response
from appliance.http.streams import report
from appliance.library.create import Progress
from appliance.library.create import create as create_model
from appliance.library.names import ModelName
from appliance.threads import in_thread


async def tags(request: web.Request) -> web.StreamResponse:
    """GET /api/tags: stored models, newest first."""
    library = request.app[LIBRARY]
    entries = await asyncio.to_thread(lambda: [wire.tag_entry(m) for m in library.list()])
    return json_response({"models": entries})


async def ps(request: web.Request) -> web.StreamResponse:
    """GET /api/ps: loaded models, those that stay longest first."""
    return json_response({"models": [wire.ps_entry(m) for m in request.app[MODELS].loaded()]})


async def show(request: web.Request) -> web.StreamResponse:
    """POST /api/show."""
    body = await read_json(request, wire.ShowBody)
    if not body.typed:
        raise BadRequestError("model is required")
    request[FIELDS]["model"] = body.typed
    name, library = ModelName.parse(body.typed), request.app[LIBRARY]
    return json_response(await asyncio.to_thread(lambda: wire.show_answer(library.get(name), body)))


@administrative
async def copy(request: web.Request) -> web.StreamResponse:
    """POST /api/copy."""
    body = await read_json(request, wire.CopyBody)
    source = wire.parse_name(body.source, "source")
    destination = wire.parse_name(body.destination, "destination")
    request[FIELDS]["model"] = body.source
    await asyncio.to_thread(request.app[REPOSITORIES].require_unsigned, destination)
    try:
        await asyncio.to_thread(request.app[LIBRARY].copy, source, destination)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f'model "{body.source}" not found') from error
    return web.Response()


@administrative
async def delete(request: web.Request) -> web.StreamResponse:
    """DELETE /api/delete: the model leaves memory and disk."""
    body = await read_json(request, wire.NameBody)
    name = wire.parse_name(body.typed, "name")
    request[FIELDS]["model"] = body.typed
    await request.app[MODELS].unload(name)
    if not await asyncio.to_thread(request.app[BUNDLES].delete, name):
        raise ModelNotFoundError(f"model '{body.typed}' not found")
    return web.Response()


@administrative
async def create(request: web.Request) -> web.StreamResponse:
    """POST /api/create: status lines, or with `stream` false only the last of them."""
    body = await read_json(request, wire.CreateBody)
    wanted = body.to_create(request.app[SETTINGS].max_messages)
    request[FIELDS]["model"] = body.typed
    await asyncio.to_thread(request.app[REPOSITORIES].require_unsigned, wanted.name)
    library = request.app[LIBRARY]

    def steps() -> Generator[Progress, None, None]:
        yield from create_model(library, wanted)

    documents = _documents(in_thread(steps()))
    return await report(request, documents, whole=not body.stream)


async def _documents(steps: AsyncGenerator[Progress, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(steps):
        async for step in steps:
            yield msgspec.json.encode({"status": step.status})
