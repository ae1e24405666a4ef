"""Ollama's /api/pull and /api/push: progress of a transfer that others may watch as well.

Leaving the stream cancels the transfer when nobody else follows it (Ollama API, /api/pull).
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import msgspec
from aiohttp import web

from appliance.errors import BadRequestError, NotFoundError
from appliance.http.body import read_json
from appliance.http.context import BUNDLES, FIELDS, TRANSFERS
from appliance.http.errors import FieldError
from appliance.http.ollama import json_response
from appliance.http.ollama_models_wire import NameBody
from appliance.http.streams import report
from appliance.transfer.progress import Progress
from appliance.transfer.sources import Reference


class TransferBody(NameBody, kw_only=True):
    """POST /api/pull and /api/push. Ollama's `username` and `password` mean nothing there too."""

    insecure: bool = False
    stream: bool = True


class PullBody(TransferBody, kw_only=True):
    """POST /api/pull."""

    variant: str = ""  # ours: of a signed release, the only one that may be taken
    retry: bool = False  # ours: also a signed release that failed here before
    confirm: bool = False  # ours: an unsigned model is wanted although it is new here, or changed
    keep: bool = False  # ours: go on when the caller leaves, until it is cancelled


class CancelBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /hearth/v1/transfers/cancel; `model` as the list of transfers names it."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=400)]


async def pull(request: web.Request) -> web.StreamResponse:
    """POST /api/pull: install a model from its registry, or the release that was signed for it."""
    body = await read_json(request, PullBody)
    reference = _reference(request, body)
    name, bundles = reference.name, request.app[BUNDLES]
    if await asyncio.to_thread(bundles.owner, name):
        lines = bundles.install(name, variant=body.variant, retry=body.retry, is_kept=body.keep)
    else:
        _require_unsigned_wishes(body)
        lines = request.app[TRANSFERS].pull(reference, confirmed=body.confirm, is_kept=body.keep)
    return await report(request, documents(lines), whole=not body.stream)


async def push(request: web.Request) -> web.StreamResponse:
    """POST /api/push: send a model to its registry."""
    body = await read_json(request, TransferBody)
    lines = request.app[TRANSFERS].push(_reference(request, body))
    return await report(request, documents(lines), whole=not body.stream)


async def cancel(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/transfers/cancel: end the transfers of a model, whoever follows them."""
    body = await read_json(request, CancelBody)
    request[FIELDS]["model"] = body.model
    jobs = (request.app[TRANSFERS].jobs, request.app[BUNDLES].jobs)
    found = [each.cancel(body.model) for each in jobs]
    if not any(found):
        raise NotFoundError(
            f"nothing is being transferred under the name {body.model!r}",
            hint="GET /hearth/v1/live lists what is",
        )
    return json_response({})


def _reference(request: web.Request, body: TransferBody) -> Reference:
    if not body.typed:
        raise BadRequestError("model is required")
    request[FIELDS]["model"] = body.typed
    return Reference.parse(body.typed, insecure=body.insecure)


def _require_unsigned_wishes(body: PullBody) -> None:
    """What only a signed release can grant is not passed over in silence."""
    for field, is_set in (("variant", body.variant), ("retry", body.retry)):
        if is_set:
            raise FieldError(field, f"{field} is for signed models, and nobody signs {body.typed}")


async def documents(lines: AsyncGenerator[Progress, None]) -> AsyncGenerator[bytes, None]:
    """Status lines as JSON."""
    async with aclosing(lines):
        async for line in lines:
            yield msgspec.json.encode(progress_fields(line))


def progress_fields(line: Progress) -> dict[str, object]:
    """Ollama leaves out what is empty, so a blob that has not begun has no `completed`."""
    fields: dict[str, object] = {
        "digest": line.digest,
        "total": line.total,
        "completed": line.completed,
    }
    return {"status": line.status} | {name: value for name, value in fields.items() if value}
