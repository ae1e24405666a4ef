"""Our own routes about channels: which are followed, and to follow, leave, check, pause them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from aiohttp import web

from appliance.http import channels_wire as wire
from appliance.http.access import may_learn_why
from appliance.http.body import read_json
from appliance.http.context import CALLER, CHANNELS
from appliance.http.ollama import json_response
from appliance.http.ollama_transfer import progress_fields
from appliance.http.streams import report
from appliance.transfer.progress import Progress


async def list_all(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/channels: those that are followed, and which of them are damaged."""
    channels, problems = await request.app[CHANNELS].list()
    with_reasons = may_learn_why(request[CALLER])
    entries = [wire.channel_entry(each, with_reasons=with_reasons) for each in channels]
    return json_response({"channels": entries, "problems": problems})


async def follow(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/channels/follow: from now on; its releases come in the background."""
    body = await read_json(request, wire.ChannelBody)
    followed = await request.app[CHANNELS].follow(body.channel)
    return json_response(wire.channel_entry(followed, with_reasons=True))


async def unfollow(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/channels/unfollow: what it installed stays."""
    body = await read_json(request, wire.ChannelBody)
    await request.app[CHANNELS].unfollow(body.channel)
    return web.Response()


async def check(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/channels/check: a turn now, with its progress line by line."""
    body = await read_json(request, wire.CheckBody)
    lines = request.app[CHANNELS].check(body.channel, at_once=body.at_once)
    return await report(request, _documents(lines), whole=not body.stream)


async def pause(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/channels/pause: ask and install nothing by itself."""
    return await _pause(request, is_paused=True)


async def resume(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/channels/resume: go on, with a turn at once."""
    return await _pause(request, is_paused=False)


async def _pause(request: web.Request, *, is_paused: bool) -> web.Response:
    body = await read_json(request, wire.ChannelBody)
    followed = await request.app[CHANNELS].pause(body.channel, is_paused=is_paused)
    return json_response(wire.channel_entry(followed, with_reasons=True))


async def _documents(lines: AsyncGenerator[Progress, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(lines):
        async for line in lines:
            yield msgspec.json.encode(progress_fields(line))
