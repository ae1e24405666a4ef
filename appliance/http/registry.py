"""`/v2/*`: this box as a registry to read from, for neighbours and for Ollama's own command.

OCI distribution, pull only; the models of names without a host. Manifests go out byte for byte.
Blob answers carry `Location`, without which Ollama's client fails (ollama issue 7244), ranges and
digests. A blob is given out only below a model that names it, so nobody can probe for content. The
box itself may always read, the network where `share_models` is on, and then only what policy lets
it have: in the modes `warn` and `signed` nothing unsigned.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from appliance.errors import ForbiddenError, ModelNameError, NotFoundError
from appliance.http.access import may_see
from appliance.http.context import CALLER, FIELDS, GATE, LIBRARY, SETTINGS
from appliance.http.ollama import json_response
from appliance.library.manifest import MANIFEST_TYPE, Digest
from appliance.library.names import DEFAULT_HOST, ModelName
from appliance.library.stored import StoredModel

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def shared(handler: Handler) -> Handler:
    """Let a handler run for the box itself, and for the network where models are shared."""

    async def checked(request: web.Request) -> web.StreamResponse:
        if not request[CALLER].is_local and request.app[SETTINGS].share_models == "off":
            raise ForbiddenError(
                "this box does not share its models", hint="its owner may set share_models to on"
            )
        return await handler(request)

    return checked


@shared
async def base(_request: web.Request) -> web.StreamResponse:
    """GET /v2/: there is a registry here."""
    response = json_response({})
    response.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
    return response


@shared
async def manifest(request: web.Request) -> web.StreamResponse:
    """GET, HEAD /v2/{namespace}/{model}/manifests/{reference}: by tag or digest."""
    data = await asyncio.to_thread(
        _manifest, request, _name(request), request.match_info["reference"]
    )
    headers = {
        "Content-Type": str(json.loads(data).get("mediaType", MANIFEST_TYPE)),
        "Docker-Content-Digest": str(Digest.of(data)),
    }
    return web.Response(body=data, headers=headers)


@shared
async def blob(request: web.Request) -> web.StreamResponse:
    """GET, HEAD /v2/{namespace}/{model}/blobs/{digest}, whole or in ranges."""
    digest, library = Digest.parse(request.match_info["digest"]), request.app[LIBRARY]
    name = _name(request)
    if not await asyncio.to_thread(_names_blob, request, name, digest):
        raise NotFoundError(f"no model {name.namespace}/{name.model} here has the blob {digest}")
    headers = {
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": str(digest),
        "Location": request.path,
    }
    return web.FileResponse(library.blobs.path(digest), headers=headers)


def _name(request: web.Request) -> ModelName:
    """The model that a path means; NotFoundError where it cannot be a name."""
    parts = request.match_info
    try:
        name = ModelName.parse(f"{DEFAULT_HOST}/{parts['namespace']}/{parts['model']}")
    except ModelNameError as error:
        raise NotFoundError("no such model here") from error
    request[FIELDS]["model"] = name.short
    return name


def _tags(request: web.Request, name: ModelName) -> list[StoredModel]:
    """All models that differ from `name` in their tag alone, and that this caller may have."""
    wanted = str(name.path.parent).lower()
    models = request.app[LIBRARY].list()
    caller, gate = request[CALLER], request.app[GATE]
    found = [
        model
        for model in models
        if str(model.name.path.parent).lower() == wanted and may_see(caller, model.name)
    ]
    if caller.is_local:
        return found
    return [model for model in found if gate.may_share(model)]


def _manifest(request: web.Request, name: ModelName, reference: str) -> bytes:
    library = request.app[LIBRARY]
    for model in _tags(request, name):
        if reference.lower() == model.name.tag.lower() or reference == f"sha256:{model.digest}":
            return library.read_manifest(model.name)
    raise NotFoundError(f"no model {name.namespace}/{name.model} of tag or digest {reference[:80]}")


def _names_blob(request: web.Request, name: ModelName, digest: Digest) -> bool:
    is_named = any(digest in model.manifest.digests for model in _tags(request, name))
    return is_named and request.app[LIBRARY].blobs.has(digest)
