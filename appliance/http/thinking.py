"""Thinking for clients that ask every model for it: where the model cannot, they do without."""

import asyncio
from dataclasses import replace

from aiohttp import web

from appliance.chat.events import JobRequest
from appliance.http.access import require_model
from appliance.http.context import LIBRARY
from appliance.http.streams import model_named
from appliance.library.names import ModelName


async def thinking_where_able(request: web.Request, job: JobRequest) -> JobRequest:
    """`job`, without thinking for a model that has none.

    Coding agents ask for as much of it as they are set to, whatever the model.
    """
    if not job.think:
        return job
    require_model(request, job.model)
    with model_named(job.model):
        name = ModelName.parse(job.model)
        stored = await asyncio.to_thread(request.app[LIBRARY].get, name)
    if "thinking" in await asyncio.to_thread(stored.capabilities):
        return job
    return replace(job, think=None, thinking_budget=None)
