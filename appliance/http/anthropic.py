"""Anthropic's messages, count_tokens and models: parse, run, write."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import msgspec
from aiohttp import web

from appliance.access.caller import Caller, clean_user
from appliance.chat.events import JobRequest
from appliance.http import anthropic_answers as answers
from appliance.http import anthropic_wire as wire
from appliance.http.access import may_see
from appliance.http.body import read_object, to_struct
from appliance.http.context import CALLER, LIBRARY, SETTINGS
from appliance.http.errors import Dialect
from appliance.http.limits import share_of
from appliance.http.streams import NamedFraming, documents_of, fold, run_job, stream
from appliance.http.thinking import thinking_where_able
from appliance.library.stored import StoredModel

EVENTS = NamedFraming(
    "text/event-stream",
    Dialect.ANTHROPIC,
    before=b"",
    after=b"",
    end=b"",
    ping=b'event: ping\ndata: {"type": "ping"}\n\n',
)


async def messages(request: web.Request) -> web.StreamResponse:
    """POST /v1/messages."""
    fields = await read_object(request)
    wire.refuse_fields(fields)
    body = to_struct(fields, wire.MessagesRequest)
    request[CALLER] = believed(request[CALLER], body.metadata.user_id)
    job = await _able_job(request, body)
    writer = answers.Writer(
        model=body.model,
        stops=frozenset(body.stop_sequences),
        tells_thinking=body.tells_thinking,
        only_one_call=body.tool_choice.disable_parallel_tool_use,
    )
    if body.stream:
        return await stream(request, documents_of(request, job, writer), EVENTS)
    folded = answers.Folded()
    async with aclosing(run_job(request, job)) as events:
        async for event in events:
            for piece in writer.feed(event):
                folded.add(piece)
    return _json(folded.message)


async def count_tokens(request: web.Request) -> web.StreamResponse:
    """POST /v1/messages/count_tokens: the prompt is rendered and tokenized, and not run."""
    fields = await read_object(request)
    wire.refuse_fields(fields)
    body = to_struct(fields, wire.CountRequest)
    job = await _able_job(request, body)
    folded = await fold(run_job(request, job))
    return _json({"input_tokens": folded.rendered_tokens})


async def models(request: web.Request) -> web.StreamResponse:
    """GET /v1/models of a client that sends anthropic-version."""
    library, caller = request.app[LIBRARY], request[CALLER]

    def entries() -> list[dict[str, Any]]:
        return [answers.model_entry(m) for m in library.list() if may_see(caller, m.name)]

    return _json(answers.model_list(await asyncio.to_thread(entries)))


def model(stored: StoredModel) -> web.StreamResponse:
    """GET /v1/models/{model} of such a client."""
    return _json(answers.model_entry(stored))


async def _able_job(request: web.Request, body: wire.CountRequest) -> JobRequest:
    job = body.to_job(share_of(request), request.app[SETTINGS].max_messages)
    return await thinking_where_able(request, job)


def believed(caller: Caller, user_id: str | None) -> Caller:
    """`caller` with the user that the body names, who then has turns of its own.

    Where a client may name somebody: with a key or on this machine. The header, which proxies set,
    goes first.
    """
    if user_id and not caller.user and (caller.key is not None or caller.is_local):
        return replace(caller, user=clean_user(user_id))
    return caller


def _json(body: object) -> web.Response:
    headers = {"Content-Type": "application/json"}
    return web.Response(headers=headers, body=msgspec.json.encode(body))
