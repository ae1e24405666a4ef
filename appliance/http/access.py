"""Which scope each route needs, in one table, and the middleware that asks for it.

After the guard (Host, Origin, ring), before a handler runs or a body is read. A route that is
missing in the table needs the highest scope. Also: which models a key may name.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache

from aiohttp import web

from appliance.access.access import Access
from appliance.access.caller import Caller, Scope
from appliance.errors import (
    ApplianceError,
    BadRequestError,
    ForbiddenError,
    ModelNameError,
    UnauthorizedError,
)
from appliance.http.context import ACCESS, CALLER, FAILURE, FIELDS
from appliance.http.guard import require_json
from appliance.library.names import ModelName

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

USER_HEADER = "X-OpenWebUI-User-Id"
_CHAT, _MANAGE, _ADMIN = Scope.CHAT, Scope.MANAGE, Scope.ADMIN

# (method, route) -> scope; None: anybody whom the guard admits. HEAD needs what GET needs.
NEEDS: Mapping[tuple[str, str], Scope | None] = {
    ("GET", "/"): None,
    ("GET", "/static/{version}/{name}"): None,
    ("GET", "/hearth/v1/qr.svg"): None,  # of an address that the caller has already
    ("GET", "/openapi.json"): None,  # what any release of this version says
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/api/version"): None,
    ("GET", "/hearth/v1/me"): None,
    ("GET", "/hearth/v1/tls"): None,  # a device that cannot verify us yet must get it somewhere
    ("GET", "/hearth/v1/ca.crt"): None,
    ("POST", "/hearth/v1/claim"): None,  # the code is what it needs
    # infer, list, look
    ("GET", "/api/status"): _CHAT,
    ("POST", "/api/me"): _CHAT,
    ("POST", "/api/signout"): _CHAT,
    ("DELETE", "/api/user/keys/{key}"): _CHAT,
    ("POST", "/api/experimental/web_search"): _CHAT,
    ("POST", "/api/experimental/web_fetch"): _CHAT,
    ("GET", "/api/experimental/model-recommendations"): _CHAT,
    ("POST", "/api/generate"): _CHAT,
    ("POST", "/api/chat"): _CHAT,
    ("POST", "/api/embed"): _CHAT,
    ("POST", "/api/embeddings"): _CHAT,
    ("GET", "/api/tags"): _CHAT,
    ("GET", "/api/ps"): _CHAT,
    ("POST", "/api/show"): _CHAT,
    ("POST", "/v1/chat/completions"): _CHAT,
    ("POST", "/v1/completions"): _CHAT,
    ("POST", "/v1/embeddings"): _CHAT,
    ("POST", "/v1/rerank"): _CHAT,
    ("POST", "/v2/rerank"): _CHAT,
    ("POST", "/rerank"): _CHAT,
    ("POST", "/v1/score"): _CHAT,
    ("POST", "/score"): _CHAT,
    ("POST", "/tokenize"): _CHAT,
    ("POST", "/detokenize"): _CHAT,
    ("GET", "/v1/models"): _CHAT,
    ("GET", "/v1/models/{model}"): _CHAT,
    ("GET", "/hearth/v1/status"): _CHAT,
    ("GET", "/hearth/v1/plan"): _CHAT,
    ("GET", "/hearth/v1/neighbours"): _CHAT,
    ("GET", "/hearth/v1/device"): _CHAT,
    ("GET", "/hearth/v1/live"): _CHAT,  # sections that need more are left out, see live.py
    ("GET", "/hearth/v1/bundles"): _CHAT,
    ("GET", "/hearth/v1/bundles/show"): _CHAT,
    ("GET", "/hearth/v1/channels"): _CHAT,
    ("GET", "/v2/"): _CHAT,  # and share_models, see registry.py
    ("GET", "/v2/{namespace}/{model}/manifests/{reference}"): _CHAT,
    ("GET", "/v2/{namespace}/{model}/blobs/{digest}"): _CHAT,
    ("POST", "/v1/responses"): _CHAT,
    ("POST", "/v1/messages"): _CHAT,
    ("POST", "/v1/messages/count_tokens"): _CHAT,
    # answered by "not yet"
    ("POST", "/v1/audio/transcriptions"): _CHAT,
    # change models
    ("POST", "/api/create"): _MANAGE,
    ("POST", "/api/pull"): _MANAGE,
    ("POST", "/api/push"): _MANAGE,
    ("POST", "/hearth/v1/transfers/cancel"): _MANAGE,
    ("POST", "/api/copy"): _MANAGE,
    ("DELETE", "/api/delete"): _MANAGE,
    ("HEAD", "/api/blobs/{digest}"): _MANAGE,
    ("POST", "/api/blobs/{digest}"): _MANAGE,
    ("GET", "/hearth/v1/doctor"): _MANAGE,  # names folders of this box
    ("POST", "/hearth/v1/self-test"): _MANAGE,
    ("POST", "/hearth/v1/scrub"): _MANAGE,
    ("POST", "/hearth/v1/identify"): _MANAGE,
    ("GET", "/hearth/v1/bundles/why"): _MANAGE,
    ("POST", "/hearth/v1/bundles/check"): _MANAGE,
    ("POST", "/hearth/v1/bundles/rollback"): _MANAGE,
    ("POST", "/hearth/v1/bundles/pin"): _MANAGE,
    ("POST", "/hearth/v1/bundles/unpin"): _MANAGE,
    ("POST", "/hearth/v1/channels/follow"): _MANAGE,
    ("POST", "/hearth/v1/channels/unfollow"): _MANAGE,
    ("POST", "/hearth/v1/channels/check"): _MANAGE,
    ("POST", "/hearth/v1/channels/pause"): _MANAGE,
    ("POST", "/hearth/v1/channels/resume"): _MANAGE,
    # say who may do what, and reach folders of the box
    ("GET", "/hearth/v1/pair"): _ADMIN,
    ("GET", "/hearth/v1/keys"): _ADMIN,
    ("POST", "/hearth/v1/keys"): _ADMIN,
    ("DELETE", "/hearth/v1/keys/{id}"): _ADMIN,
    ("GET", "/hearth/v1/audit"): _ADMIN,
    ("POST", "/hearth/v1/tls/renew"): _ADMIN,
    ("POST", "/hearth/v1/clock"): _ADMIN,
    ("GET", "/hearth/v1/support"): _ADMIN,
    ("GET", "/metrics"): _ADMIN,  # tells what others ask, and which models there are
    ("POST", "/hearth/v1/import"): _ADMIN,
    ("POST", "/hearth/v1/export"): _ADMIN,
}


def need_of(method: str, route: str) -> Scope | None:
    """The scope that a route needs."""
    if method == "HEAD" and ("HEAD", route) not in NEEDS:
        method = "GET"
    return NEEDS.get((method, route), Scope.ADMIN)


@web.middleware
async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who the caller is, refuse what it may not do, and note changes of the box."""
    access = request.app[ACCESS]
    headers = request.headers
    caller = access.identify(request[CALLER], token_of(request), headers.get(USER_HEADER, ""))
    request[CALLER] = caller
    if caller.key is not None:
        request[FIELDS]["key"] = caller.key.id
    resource = request.match_info.route.resource
    if resource is None:  # no such route: 404 or 405, whoever asks
        return await handler(request)
    need = need_of(request.method, resource.canonical)
    if need is None:
        require_json(caller, request.method, request.headers)
        return await handler(request)
    if need is Scope.CHAT:
        access.require(caller, need)
        return await handler(request)
    return await _audited(request, handler, access, need)


def token_of(request: web.Request) -> str:
    """What the caller sent as a key: a Bearer token, or Anthropic's x-api-key. Empty if nothing."""
    values = request.headers.getall("Authorization", [])
    if len(values) > 1:
        raise BadRequestError(f"a request has one Authorization header, this has {len(values)}")
    scheme, _, token = (values[0] if values else "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return request.headers.get("x-api-key", "").strip()


def require(request: web.Request, scope: Scope) -> None:
    """For what only the body tells to need more. Raises UnauthorizedError, ForbiddenError."""
    request.app[ACCESS].require(request[CALLER], scope)


def require_model(request: web.Request, typed: str) -> None:
    """Raise ForbiddenError if the caller's key is for other models than `typed`.

    The same answer whether that model exists or not. Says nothing of what cannot be a name.
    """
    caller = request[CALLER]
    if caller.key is None or caller.key.models is None:
        return
    try:
        name = ModelName.parse(typed)
    except ModelNameError:
        return
    if not may_see(caller, name):
        raise ForbiddenError(
            f"the key {caller.key.name!r} may not use the model {typed[:100]!r}",
            hint=f"it may use {', '.join(caller.key.models[:10])}; ask the box's owner for more",
        )


def may_see(caller: Caller, name: ModelName) -> bool:
    """Whether `name` exists for this caller."""
    models = caller.key.models if caller.key else None
    return models is None or name in _names(models)


def may_learn_why(caller: Caller) -> bool:
    """Whether a caller is told, in the words of engines and sources, why something failed: these
    may name paths and prompts of the box."""
    return Scope.MANAGE in caller.scopes


@lru_cache(maxsize=256)
def _names(models: tuple[str, ...]) -> frozenset[ModelName]:
    return frozenset(ModelName.parse(text) for text in models)


async def _audited(
    request: web.Request, handler: Handler, access: Access, need: Scope
) -> web.StreamResponse:
    """Run what needs more than chat; who asked for it is noted, unless it only looks."""
    caller, action = request[CALLER], f"{request.method} {request.path}"
    try:
        access.require(caller, need)
    except (UnauthorizedError, ForbiddenError) as error:
        access.note(caller, action, "", error.code, is_refused=True)
        raise
    require_json(caller, request.method, request.headers)
    if request.method in {"GET", "HEAD"}:
        return await handler(request)
    outcome = "broken off"  # unless something else happens: the client left
    try:
        response = await handler(request)
        failure = request.get(FAILURE)
        outcome = "ok" if failure is None else _word(failure)
    except Exception as error:
        outcome = _word(error)
        raise
    finally:
        fields = request[FIELDS]
        target = fields.get("model") or fields.get("medium") or fields.get("target") or ""
        access.note(caller, action, str(target), outcome)
    return response


def _word(error: Exception) -> str:
    return error.code if isinstance(error, ApplianceError) else type(error).__name__
