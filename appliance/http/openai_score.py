"""Rerank and score, as vLLM's server has them: parse, run, write."""

from aiohttp import web

from appliance.chat.events import ScoreRequest, Scores
from appliance.http import openai_score_wire as wire
from appliance.http.access import require_model
from appliance.http.body import read_object, to_struct
from appliance.http.context import CHAT, FIELDS, METRICS
from appliance.http.counting import note_embeddings
from appliance.http.limits import check_options, share_of
from appliance.http.openai import json_response
from appliance.http.openai_refused import refuse_fields
from appliance.http.streams import model_named


async def rerank(request: web.Request) -> web.StreamResponse:
    """POST /v1/rerank, /rerank and /v2/rerank."""
    fields = await read_object(request)
    refuse_fields(fields, wire.REFUSED)
    body = to_struct(fields, wire.RerankBody)
    wanted = body.to_score(share_of(request))
    found = await _scores_of(request, wanted)
    return json_response(wire.rerank_answer(body, wanted.documents, found))


async def score(request: web.Request) -> web.StreamResponse:
    """POST /v1/score and /score."""
    fields = await read_object(request)
    refuse_fields(fields, wire.REFUSED)
    body = to_struct(fields, wire.ScoreBody)
    return json_response(
        wire.score_answer(body, await _scores_of(request, body.to_score(share_of(request))))
    )


async def _scores_of(request: web.Request, wanted: ScoreRequest) -> Scores:
    """Run a scoring job, with its line in the log."""
    fields = request[FIELDS]
    fields["model"] = wanted.model
    require_model(request, wanted.model)
    check_options(request, wanted.options)
    with model_named(wanted.model):
        found = await request.app[CHAT].score(wanted)
    fields |= {"prompt": found.prompt_tokens, "out": len(found.values)}
    note_embeddings(request.app[METRICS], wanted.model, found.prompt_tokens)
    return found
