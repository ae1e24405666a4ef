"""The time of an administrator's browser, for boxes that nobody tells it (Hearth API)."""

import asyncio

import msgspec
from aiohttp import web

from appliance.http.body import read_json
from appliance.http.context import KNOWN_TIME
from appliance.http.errors import FieldError
from appliance.http.ollama import json_response


class ClockBody(msgspec.Struct, kw_only=True):
    """POST /hearth/v1/clock."""

    now_s: float | None = None  # seconds since 1970


async def tell(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/clock: `used` is false where the box knows the time by itself."""
    body = await read_json(request, ClockBody)
    if body.now_s is None:
        raise FieldError("now_s", "now_s is required: seconds since 1970")
    known = request.app[KNOWN_TIME]
    used = await asyncio.to_thread(known.tell, body.now_s)
    return json_response({"used": used})
