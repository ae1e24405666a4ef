"""Models on media: `/hearth/v1/import` and `/hearth/v1/export`, as streams of what happens.

Only the box itself may ask: its administrator says which folder is meant. From there only a layout
is read, by confined steps, and only what enrolled repositories have signed comes in; see
bundles/medium.py and bundles/confined.py.
"""

from pathlib import Path
from typing import Annotated

import msgspec
from aiohttp import web

from appliance.http.body import read_json
from appliance.http.context import EXPORTER, FIELDS, IMPORTER
from appliance.http.ollama_transfer import documents
from appliance.http.streams import NDJSON, stream
from appliance.library.names import ModelName
from appliance.threads import in_thread

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
_MAX_MODELS = 1000


class ImportBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /hearth/v1/import. No models: all that are for this box, and what channels say."""

    path: _Text
    models: Annotated[list[_Text], msgspec.Meta(max_length=_MAX_MODELS)] = []
    retry: bool = False  # also releases that failed here before
    follow: Annotated[list[_Text], msgspec.Meta(max_length=_MAX_MODELS)] = []  # channels


class ExportBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /hearth/v1/export."""

    path: _Text
    models: Annotated[list[_Text], msgspec.Meta(min_length=1, max_length=_MAX_MODELS)]
    unsigned: bool = False  # also models that nobody signed, for other programs


async def bring(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/import: install from a medium. Leaving the stream stops it."""
    body = await read_json(request, ImportBody)
    request[FIELDS]["medium"] = body.path
    names = [ModelName.parse(text) for text in body.models]
    path, importer = Path(body.path), request.app[IMPORTER]
    lines = importer.bring(path, names, retry=body.retry, follow=body.follow)
    return await stream(request, documents(lines), NDJSON)


async def export(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/export: copy models onto a medium. Leaving the stream stops it."""
    body = await read_json(request, ExportBody)
    request[FIELDS]["medium"] = body.path
    names = [ModelName.parse(text) for text in body.models]
    lines = request.app[EXPORTER].export(names, Path(body.path), unsigned=body.unsigned)
    return await stream(request, documents(in_thread(lines)), NDJSON)
