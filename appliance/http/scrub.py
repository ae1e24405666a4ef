"""The check of everything that is stored, as a stream of what it finds (Hearth API)."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from aiohttp import web

from appliance.http.body import read_json
from appliance.http.context import LIBRARY
from appliance.http.middleware import administrative
from appliance.http.streams import NDJSON, stream
from appliance.library.scrub import Checked, Damage
from appliance.library.scrub import scrub as scrub_library
from appliance.threads import in_thread


class ScrubBody(msgspec.Struct, kw_only=True):
    """POST /hearth/v1/scrub."""

    rate: Annotated[int, msgspec.Meta(ge=0)] = 0  # bytes per second, 0: as fast as it goes


@administrative
async def scrub(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/scrub: how far it is, each damaged blob, and at the end how many there were.

    Leaving the stream stops it.
    """
    body = await read_json(request, ScrubBody)
    steps = in_thread(scrub_library(request.app[LIBRARY], body.rate))
    return await stream(request, _documents(steps), NDJSON)


async def _documents(steps: AsyncGenerator[Checked | Damage, None]) -> AsyncGenerator[bytes, None]:
    damaged = 0
    async with aclosing(steps):
        async for step in steps:
            damaged += isinstance(step, Damage)
            yield msgspec.json.encode(_document(step))
    yield msgspec.json.encode({"status": "success", "damaged": damaged})


def _document(step: Checked | Damage) -> dict[str, Any]:
    match step:
        case Checked():
            return {"status": "checking", "completed": step.completed, "total": step.total}
        case Damage():
            return {
                "status": "damaged",
                "digest": str(step.digest),
                "reason": step.reason,
                "models": step.models,
            }
