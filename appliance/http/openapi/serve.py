"""GET /openapi.json. What it takes to make the document is imported by the first who asks."""

import asyncio

from aiohttp import web


async def openapi(_request: web.Request) -> web.StreamResponse:
    """The OpenAPI document of all surfaces."""
    body = await asyncio.to_thread(_document)
    return web.Response(body=body, headers={"Content-Type": "application/json"})


def _document() -> bytes:
    from appliance.http.openapi.document import document_bytes

    return document_bytes()
