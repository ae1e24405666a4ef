"""OpenAI's Responses: parse, run, write."""

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from appliance.http import responses_answers as answers
from appliance.http import responses_wire as wire
from appliance.http.body import read_object, to_struct
from appliance.http.context import SETTINGS
from appliance.http.errors import Dialect, Problem
from appliance.http.limits import share_of
from appliance.http.streams import NamedFraming, documents_of, run_job, stream
from appliance.http.thinking import thinking_where_able


@dataclass(frozen=True, slots=True, kw_only=True)
class _Framing(NamedFraming):
    """Events of one response; what breaks it is told as a state of that response."""

    writer: answers.Writer

    def failure(self, problem: Problem, request_id: str) -> bytes:
        return msgspec.json.encode(self.writer.failure(problem))


async def responses(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses."""
    fields = await read_object(request)
    wire.refuse_fields(fields)
    body = to_struct(fields, wire.ResponsesRequest)
    job = body.to_job(share_of(request), request.app[SETTINGS].max_messages)
    job = await thinking_where_able(request, job)
    writer = answers.Writer(body)
    if body.stream:
        return await stream(request, documents_of(request, job, writer), _framing(writer))
    last: dict[str, Any] = {}
    async with aclosing(run_job(request, job)) as events:
        async for event in events:
            for piece in writer.feed(event):
                last = piece
    headers = {"Content-Type": "application/json"}
    return web.Response(headers=headers, body=msgspec.json.encode(last["response"]))


def _framing(writer: answers.Writer) -> _Framing:
    return _Framing(
        content_type="text/event-stream",
        dialect=Dialect.OPENAI,
        before=b"",
        after=b"",
        end=b"",
        ping=b": ping\n\n",
        writer=writer,
    )
