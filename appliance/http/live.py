"""The state of the box as one stream, so that no page has to ask again and again (Hearth API).

`GET /hearth/v1/live` is a stream of server-sent events: first `snapshot` with every section, then
`change` with the sections that changed, a comment every 15 s in between, and `end` before the
service stops. A key that is revoked ends its streams at the next event.
"""

from contextlib import aclosing
from functools import partial
from typing import Any

from aiohttp import web

from appliance.access.caller import Caller, Scope
from appliance.http import keys_wire
from appliance.http.access import USER_HEADER, may_see, token_of
from appliance.http.context import ACCESS, CALLER, LIVE
from appliance.http.errors import Dialect
from appliance.http.live_room import Audience
from appliance.http.live_wire import seen_with
from appliance.http.streams import Framing, stream

_FOR_MANAGERS = frozenset({"conditions"})  # they name folders of the box, as the doctor does


async def live(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/live."""
    room, caller = request.app[LIVE], request[CALLER]
    audience = Audience(
        own={"me": partial(_me, request)},
        hidden=frozenset() if Scope.MANAGE in caller.scopes else _FOR_MANAGERS,
        view=_view_of(caller),
    )
    with room.listening(caller.address) as listener:
        async with aclosing(room.events(listener, audience)) as events:
            return await stream(request, events, _EVENTS)


async def _me(request: web.Request) -> dict[str, Any]:
    """What the box makes of the caller by now. Raises UnauthorizedError for a revoked key."""
    access, user = request.app[ACCESS], request.headers.get(USER_HEADER, "")
    caller = access.identify(request[CALLER], token_of(request), user)
    access.require(caller, Scope.CHAT)
    return keys_wire.me_answer(caller, is_claimed=access.is_claimed, lan=access.lan)


def _view_of(caller: Caller) -> Any:
    """What a key for some models may see of the sections; None: all."""
    if caller.key is None or caller.key.models is None:
        return None
    return partial(seen_with, partial(may_see, caller))


class _Events(Framing):
    """Frames are made where the events are; only an error in mid-stream still needs one."""

    def frame(self, document: bytes) -> bytes:
        if document.startswith((b"event: ", b": ")):
            return document
        return b"event: error\ndata: " + document + b"\n\n"


_EVENTS = _Events("text/event-stream", Dialect.OLLAMA, before=b"", after=b"", end=b"")
