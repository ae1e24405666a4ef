"""Upload of blobs (Ollama API, /api/blobs/{digest}): streamed to disk, checked, then visible.

Nothing stays behind when the digest is wrong, the disk is full or the client leaves.
"""

import asyncio

from aiohttp import web

from appliance.errors import NotFoundError, RequestTooLargeError
from appliance.http.body import next_piece, refuse_compressed
from appliance.http.context import GATE, LIBRARY, SETTINGS, TRANSFERS
from appliance.library.blobs import BlobWriter
from appliance.library.manifest import Digest
from appliance.threads import to_end

CHUNK_BYTES = 1024 * 1024  # handed to the writing thread at once
GIB = 1024**3


async def probe(request: web.Request) -> web.StreamResponse:
    """HEAD /api/blobs/{digest}: 200 if it is here, 404 if not."""
    digest = Digest.parse(request.match_info["digest"])
    if not await asyncio.to_thread(request.app[LIBRARY].blobs.has, digest):
        raise NotFoundError(f"blob {digest} not found")
    return web.Response()


async def upload(request: web.Request) -> web.StreamResponse:
    """POST /api/blobs/{digest}: 201 when stored, 200 when it was here already."""
    digest = Digest.parse(request.match_info["digest"])
    refuse_compressed(request)
    await asyncio.to_thread(request.app[GATE].require_upload)
    blobs = request.app[LIBRARY].blobs
    if await asyncio.to_thread(blobs.has, digest):
        return web.Response()
    limit = request.app[SETTINGS].max_blob_gib * GIB
    _check_size(request.content_length or 0, limit)
    space = request.app[TRANSFERS].space
    await asyncio.to_thread(space.require, request.content_length or 0, "the upload")
    writer = blobs.writer(digest, request.content_length)
    try:
        await to_end(writer.__enter__)
        await _receive(request, writer, limit)
        await to_end(writer.commit)
    finally:
        await to_end(writer.__exit__, None, None, None)
    return web.Response(status=201)


async def _receive(request: web.Request, writer: BlobWriter, limit: int) -> None:
    """Write the body to the end of it."""
    stall_s = request.app[SETTINGS].write_timeout_s
    pending = bytearray()
    while True:
        piece = await next_piece(request, stall_s)
        pending += piece
        _check_size(writer.written + len(pending), limit)
        if len(pending) >= CHUNK_BYTES or not piece:
            await to_end(writer.write, bytes(pending))
            pending.clear()
        if not piece:
            return


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise RequestTooLargeError(
            f"the blob is larger than the {limit // GIB} GiB allowed", hint="see max_blob_gib"
        )
