"""What every request passes: the log line with the error boundary, the guard, the drain.

In this order, so that a refusal is logged and has the dialect's shape like any other error. The
question for the scope (access.py) comes between guard and drain.
"""

import secrets
import time
from collections.abc import Awaitable, Callable

from aiohttp import HttpVersion11, web

from appliance.access.caller import OriginKind
from appliance.errors import OverloadedError
from appliance.http.context import (
    CALLER,
    FAILURE,
    FIELDS,
    GUARD,
    IS_GONE,
    METRICS,
    REQUEST_ID,
    SETTINGS,
    STATE,
)
from appliance.http.counting import note_failure, note_request
from appliance.http.errors import Dialect, ExpectationError, Problem, problem_of
from appliance.http.logline import write_failure, write_line
from appliance.http.malformed import require_plain_request

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

QUEUE_HEADER = "X-Hearth-Queue-Position"  # requests that had their turn before this one
ID_HEADER = "request-id"  # Anthropic's, for whoever asks what became of a request
CLIENT_GONE = 499  # nginx's number; nobody reads it but the log
# Answered also while the service stops, so that probes and people can see what it does.
_ALWAYS = frozenset({"/", "/healthz", "/readyz", "/api/version", "/hearth/v1/status"})
PAGE_FILES = "/static/"
_API = ("/api/", "/v1/", "/v2/", "/hearth/")
_EXPOSED = f"Retry-After, {QUEUE_HEADER}, {ID_HEADER}"
_PREFLIGHT_S = 600
# Ollama's list (server/routes.go); the x-stainless headers are those of OpenAI's packages.
_ALLOWED_HEADERS = ", ".join(
    [
        *("Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With"),
        *("x-api-key", "anthropic-version", "anthropic-beta"),
        "anthropic-dangerous-direct-browser-access",  # which its package sends from every page
        *(
            "OpenAI-Beta",
            "x-stainless-arch",
            "x-stainless-async",
            "x-stainless-custom-poll-interval",
        ),
        *("x-stainless-helper-method", "x-stainless-lang", "x-stainless-os"),
        *("x-stainless-package-version", "x-stainless-poll-helper", "x-stainless-retry-count"),
        *("x-stainless-runtime", "x-stainless-runtime-version", "x-stainless-timeout"),
    ]
)


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log every request once and turn whatever it raised into an answer (error boundary)."""
    started = time.monotonic()
    fields = request[FIELDS] = {}
    if Dialect.of(request.path, request.headers) is Dialect.ANTHROPIC:
        fields["id"] = request[REQUEST_ID] = f"req_{secrets.token_hex(12)}"
    status = CLIENT_GONE  # unless something else happens: cancelled, or the connection broke
    failure: Exception | None = None
    try:
        with request.app[STATE].handling():
            response = await handler(request)
        failure = request.get(FAILURE)
        if IS_GONE not in request:
            status = response.status
    except Exception as error:
        if request.transport is None or request.transport.is_closing():
            return web.Response(status=CLIENT_GONE)  # never sent
        failure = error
        response = _answer(request, error)
        status = response.status
    finally:
        if failure is not None:
            _note_failure(request, failure)
        elapsed_s = time.monotonic() - started
        note_request(request, status, elapsed_s)
        write_line(request.method, request.path, status, fields, elapsed_s)
    return response


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse strange hosts and origins before a handler runs or a body is read."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    require_plain_request(request)
    info = transport.get_extra_info
    caller = request.app[GUARD].admit(request.headers, info("peername"), info("sockname"))
    request[CALLER] = caller
    if request.method == "OPTIONS":
        return web.Response(status=204, headers=_preflight(request))
    return await handler(request)


@web.middleware
async def drain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """While the service stops, send new work away; what runs may finish."""
    is_page = request.path.startswith(PAGE_FILES)
    if request.app[STATE].draining and request.path not in _ALWAYS and not is_page:
        wait_s = max(1, round(request.app[SETTINGS].drain_timeout_s))
        raise OverloadedError("the service is stopping, please try again", retry_after_s=wait_s)
    return await handler(request)


def without_welcome(route: web.RouteDef) -> web.RouteDef:
    """The route, but an `Expect` header waits for `welcome`. aiohttp would answer it before the
    guard, and invite the body of a request that is going to be refused (RFC 9110 §10.1.1)."""
    options = {**route.kwargs, "expect_handler": _wait}
    return web.RouteDef(route.method, route.path, route.handler, options)


@web.middleware
async def welcome(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Behind all that may refuse: let a client send the body that it holds back."""
    expected = request.headers.get("Expect", "").lower()
    if expected not in {"", "100-continue"}:
        raise ExpectationError(f"Expect: {expected[:40]!r} cannot be met; 100-continue can")
    if expected and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # as aiohttp does: the answer itself has not begun
    return await handler(request)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal on_response_prepare: headers that every answer carries, streams included."""
    response.headers["Server"] = "hearth"
    response.headers["X-Content-Type-Options"] = "nosniff"
    position = request.get(FIELDS, {}).get("queue_pos")
    if position is not None:
        response.headers[QUEUE_HEADER] = str(position)
    if (request_id := request.get(REQUEST_ID)) is not None:
        response.headers[ID_HEADER] = request_id
    caller = request.get(CALLER)
    if caller is not None and caller.origin is not OriginKind.NONE:
        response.headers["Access-Control-Allow-Origin"] = caller.origin_text
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        own = response.headers.get("Vary")
        response.headers["Vary"] = f"{own}, Origin" if own else "Origin"


async def _wait(_request: web.Request) -> None:
    """Says nothing yet."""


def _answer(request: web.Request, error: Exception) -> web.Response:
    """The error as an answer in the dialect of the path; an unknown page outside is plain text."""
    if isinstance(error, web.HTTPNotFound) and not request.path.startswith(_API):
        return web.Response(status=404, text="404 page not found")
    dialect = Dialect.of(request.path, request.headers)
    return problem_of(error, dialect).response(dialect, request.get(REQUEST_ID, ""))


def _note_failure(request: web.Request, error: Exception) -> None:
    problem: Problem = problem_of(error, Dialect.of(request.path, request.headers))
    request[FIELDS]["error"] = problem.code
    note_failure(request.app[METRICS], error)
    if problem.needs_traceback:
        write_failure(request.path, error)


def _preflight(request: web.Request) -> dict[str, str]:
    """Answer to a browser that asks what it may send (Fetch standard, CORS preflight)."""
    if request[CALLER].origin is OriginKind.NONE:
        return {}
    return {
        "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS",
        "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
        "Access-Control-Max-Age": str(_PREFLIGHT_S),
    }
