"""The state of the box as one stream, so that no page has to ask again and again (Hearth API).

`GET /hearth/v1/live` is a stream of server-sent events: first `snapshot` with every section, then
`change` with the sections that changed, a comment every 15 s in between, and `end` before the
service stops.
"""

from contextlib import aclosing

from aiohttp import web

from appliance.http.context import CALLER, LIVE
from appliance.http.errors import Dialect
from appliance.http.streams import Framing, stream


async def live(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/live."""
    room = request.app[LIVE]
    with room.listening(request[CALLER].address) as listener:
        async with aclosing(room.events(listener, {})) as events:
            return await stream(request, events, _EVENTS)


class _Events(Framing):
    """Frames are made where the events are; only an error in mid-stream still needs one."""

    def frame(self, document: bytes) -> bytes:
        if document.startswith((b"event: ", b": ")):
            return document
        return b"event: error\ndata: " + document + b"\n\n"


_EVENTS = _Events("text/event-stream", Dialect.OLLAMA, before=b"", after=b"", end=b"")
