"""Ollama's generate, chat, embed and embeddings: parse, run, write.

Source: Ollama API, /api/generate, /api/chat, /api/embed, /api/embeddings.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from aiohttp import web

from appliance.access.caller import Scope
from appliance.chat.events import Embeddings, EmbedRequest, Event, JobRequest
from appliance.http import ollama_answers as answers
from appliance.http import ollama_wire as wire
from appliance.http.access import require, require_model
from appliance.http.body import read_json
from appliance.http.context import CHAT, FIELDS, METRICS, SETTINGS
from appliance.http.counting import note_embeddings
from appliance.http.limits import check_options, share_of
from appliance.http.streams import NDJSON, fold, model_named, run_job, stream

JSON_TYPE = "application/json; charset=utf-8"


async def generate(request: web.Request) -> web.StreamResponse:
    """POST /api/generate."""
    body = await read_json(request, wire.GenerateRequest)
    body.check()
    job = body.to_job(share_of(request))
    return await _answer(request, job, answers.generate_answer, streams=body.stream)


async def chat(request: web.Request) -> web.StreamResponse:
    """POST /api/chat."""
    body = await read_json(request, wire.ChatRequest)
    body.check()
    job = body.to_job(share_of(request), request.app[SETTINGS].max_messages)
    return await _answer(request, job, answers.chat_answer, streams=body.stream)


async def embed(request: web.Request) -> web.StreamResponse:
    """POST /api/embed."""
    body = await read_json(request, wire.EmbedBody)
    found = await embeddings_of(request, body.to_embed(share_of(request)))
    return json_response(
        {
            "model": body.model,
            "embeddings": found.vectors,
            "total_duration": found.total_ns,
            "load_duration": found.load_ns,
            "prompt_eval_count": found.prompt_tokens,
        }
    )


async def embeddings(request: web.Request) -> web.StreamResponse:
    """POST /api/embeddings."""
    body = await read_json(request, wire.EmbeddingsBody)
    found = await embeddings_of(request, body.to_embed(share_of(request)))
    return json_response({"embedding": found.vectors[0] if found.vectors else []})


async def embeddings_of(request: web.Request, wanted: EmbedRequest) -> Embeddings:
    """Run an embedding job, with its line in the log; shared with OpenAI's dialect."""
    fields = request[FIELDS]
    fields["model"] = wanted.model
    require_model(request, wanted.model)
    check_options(request, wanted.options)
    with model_named(wanted.model):
        found = await request.app[CHAT].embed(wanted)
    fields |= {"prompt": found.prompt_tokens, "out": len(found.vectors)}
    note_embeddings(request.app[METRICS], wanted.model, found.prompt_tokens)
    return found


def json_response(body: object, status: int = 200) -> web.Response:
    """A whole answer of the Ollama API."""
    headers = {"Content-Type": JSON_TYPE}
    return web.Response(status=status, headers=headers, body=msgspec.json.encode(body))


async def _answer(
    request: web.Request, job: JobRequest, encode: answers.Encode, *, streams: bool
) -> web.StreamResponse:
    if job.work is None and job.keep_alive == 0:
        require(request, Scope.MANAGE)  # it would unload what others use
    if streams and job.work is not None and not job.render_only:
        documents = _documents(run_job(request, job), job, encode)
        return await stream(request, documents, NDJSON)
    folded = await fold(run_job(request, job))
    if folded.rendered is not None:
        info = {"rendered_template": folded.rendered}
        return json_response(encode(job.model, answers.NOTHING, False, {"_debug_info": info}))
    assert folded.done is not None
    said = answers.Said(folded.text, folded.thinking, folded.calls)
    found = [*folded.thinking_logprobs, *folded.logprobs]
    logprobs = answers.logprobs_of(found, job.logprobs or 0)
    extra = {**answers.metrics_of(folded.done), "logprobs": logprobs}
    return json_response(encode(job.model, said, True, extra))


async def _documents(
    events: AsyncGenerator[Event, None], job: JobRequest, encode: answers.Encode
) -> AsyncGenerator[bytes, None]:
    """The lines of a stream."""
    async with aclosing(events):
        async for event in events:
            if (line := answers.line_of(event, job, encode)) is not None:
                yield msgspec.json.encode(line)
