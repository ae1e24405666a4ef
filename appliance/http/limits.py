"""What a request may cost its caller: the middleware before the handlers, and the share of a job.

Knows which routes use a model; how much is allowed is for `access/limits.py` and `access/usage.py`.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from appliance.access.shares import Share
from appliance.errors import ForbiddenError
from appliance.http.context import CALLER, LIMITS, SETTINGS, USAGE

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

COMPUTES = frozenset(
    {
        *("/api/generate", "/api/chat", "/api/embed", "/api/embeddings"),
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"),
        *("/v1/messages", "/v1/messages/count_tokens"),
        *("/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/score"),
        *("/tokenize", "/detokenize"),
    }
)
_FREE = frozenset(
    {"/", "/static/{version}/{name}", "/healthz", "/readyz"}
)  # the page and probes cost nothing


@web.middleware
async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse who asks for too much, before the body is read."""
    resource = request.match_info.route.resource
    path = resource.canonical if resource is not None else ""  # as the router understood it
    if path in _FREE:
        return await handler(request)
    caller, limits = request[CALLER], request.app[LIMITS]
    computes = path in COMPUTES
    ticket = limits.enter(caller, time.monotonic(), computes=computes)
    try:
        if computes:
            request.app[USAGE].count(caller)
        return await handler(request)
    finally:
        limits.leave(ticket)


def share_of(request: web.Request) -> Share:
    """Whose turn it is for the jobs of this request, and who pays."""
    return request.app[USAGE].share_of(request[CALLER])


def check_options(request: web.Request, options: Mapping[str, Any]) -> None:
    """Raise ForbiddenError if a guest asks for more context than guests may have."""
    caller, wanted = request[CALLER], options.get("num_ctx")
    if caller.key is not None or caller.is_local or not wanted:
        return
    most = request.app[SETTINGS].guest_context
    if most and wanted > most:
        raise ForbiddenError(
            f"num_ctx is {wanted}, guests without a key may have {most}",
            hint="ask for less, or ask the owner of the box for a key (guest_context)",
        )
