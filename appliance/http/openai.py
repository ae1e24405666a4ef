"""OpenAI's chat/completions, completions, embeddings and models: parse, run, write."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from appliance.chat.events import Done, Event, JobRequest, Started
from appliance.http import anthropic
from appliance.http import openai_answers as answers
from appliance.http import openai_wire as wire
from appliance.http.access import may_see, require_model
from appliance.http.body import read_object, to_struct
from appliance.http.choices import Item, run_choices
from appliance.http.context import CALLER, LIBRARY, MODELS, SETTINGS
from appliance.http.errors import Dialect
from appliance.http.limits import share_of
from appliance.http.ollama import embeddings_of
from appliance.http.openai_models import Entries
from appliance.http.openai_refused import REFUSED_IN_CHAT, REFUSED_IN_COMPLETIONS, refuse_fields
from appliance.http.streams import SSE, Folded, fold, model_named, run_job, stream
from appliance.library.names import ModelName


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    fields = await read_object(request)
    refuse_fields(fields, REFUSED_IN_CHAT)
    body = to_struct(fields, wire.ChatRequest)
    jobs = body.to_jobs(share_of(request), request.app[SETTINGS].max_messages)
    shape = answers.ChatShape(top=body.top_logprobs or 0)
    if body.render_only:
        folded = await fold(run_job(request, jobs[0]))
        writer = answers.Writer(shape, body.model, usage_in_chunks=False)
        return json_response(
            writer.rendered(shape.choice(0, folded, has_logprobs=False), folded.rendered or "")
        )
    keep = None if body.parallel_tool_calls else answers.without_further_calls
    return await _answer(request, body, jobs, shape, keep)


async def completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/completions."""
    fields = await read_object(request)
    refuse_fields(fields, REFUSED_IN_COMPLETIONS)
    body = to_struct(fields, wire.CompletionRequest)
    jobs = body.to_jobs(share_of(request))
    shape = answers.TextShape(top=body.logprobs or 0)
    return await _answer(request, body, jobs, shape)


async def embeddings(request: web.Request) -> web.StreamResponse:
    """POST /v1/embeddings."""
    body = to_struct(await read_object(request), wire.EmbeddingsRequest)
    found = await embeddings_of(request, body.to_embed(share_of(request)))
    as_base64 = body.encoding_format == "base64"
    return json_response(answers.embeddings_answer(found, body.model, as_base64=as_base64))


async def models(request: web.Request) -> web.StreamResponse:
    """GET /v1/models, also for Anthropic's clients, which send a header of their own."""
    if _is_anthropic(request):
        return await anthropic.models(request)
    library, caller, describe = request.app[LIBRARY], request[CALLER], Entries(request.app[MODELS])

    def entries() -> list[dict[str, Any]]:
        return [describe.entry(m) for m in library.list() if may_see(caller, m.name)]

    return json_response({"object": "list", "data": await asyncio.to_thread(entries)})


async def model(request: web.Request) -> web.StreamResponse:
    """GET /v1/models/{model}."""
    typed = request.match_info["model"]
    require_model(request, typed)
    with model_named(typed):
        name = ModelName.parse(typed)
        stored = await asyncio.to_thread(request.app[LIBRARY].get, name)
    if _is_anthropic(request):
        return anthropic.model(stored)
    return json_response(await asyncio.to_thread(Entries(request.app[MODELS]).entry, stored))


async def _answer(
    request: web.Request,
    body: wire.ChatRequest | wire.CompletionRequest,
    jobs: Sequence[JobRequest],
    shape: answers.Shape,
    keep: Callable[[Event], Event | None] | None = None,
) -> web.StreamResponse:
    writer = answers.Writer(shape, body.model, usage_in_chunks=body.wants_usage())
    items = _kept(run_choices(request, jobs), keep)
    if body.stream:
        return await stream(request, _documents(items, body, jobs, shape, writer), SSE)
    folded = [Folded() for _ in jobs]
    async with aclosing(items):
        async for index, event in items:
            folded[index].add(event)
    usage = answers.Usage()
    choices = []
    for index, (job, found) in enumerate(zip(jobs, folded, strict=True)):
        assert found.done is not None
        usage.add(found.done, is_new_prompt=index % body.n == 0)
        choice = shape.choice(index, found, has_logprobs=job.logprobs is not None)
        choices.append(choice | {"finish_reason": answers.finish_of(found.done)})
    return json_response(writer.whole(choices, usage))


async def _kept(
    items: AsyncGenerator[Item, None], keep: Callable[[Event], Event | None] | None
) -> AsyncGenerator[Item, None]:
    """The events as `keep` lets them through."""
    async with aclosing(items):
        async for index, event in items:
            kept = event if keep is None else keep(event)
            if kept is not None:
                yield index, kept


async def _documents(
    items: AsyncGenerator[Item, None],
    body: wire.ChatRequest | wire.CompletionRequest,
    jobs: Sequence[JobRequest],
    shape: answers.Shape,
    writer: answers.Writer,
) -> AsyncGenerator[bytes, None]:
    """The chunks of a stream, each with its choice's index, then the usage if it was asked for."""
    usage = answers.Usage()
    async with aclosing(items):
        async for index, event in items:
            finish = None
            match event:
                case Started():
                    choice = shape.opening(index)
                case Done():
                    usage.add(event, is_new_prompt=index % body.n == 0)
                    choice, finish = shape.closing(index), answers.finish_of(event)
                case _:
                    has_logprobs = jobs[index].logprobs is not None
                    choice = shape.delta(index, event, has_logprobs=has_logprobs)
            if choice is not None:
                yield msgspec.json.encode(writer.chunk(choice, finish))
    if body.wants_usage():
        yield msgspec.json.encode(writer.usage_chunk(usage))


def _is_anthropic(request: web.Request) -> bool:
    return Dialect.of(request.path, request.headers) is Dialect.ANTHROPIC


def json_response(body: object) -> web.Response:
    """A whole answer of this dialect."""
    headers = {"Content-Type": "application/json"}
    return web.Response(headers=headers, body=msgspec.json.encode(body))
