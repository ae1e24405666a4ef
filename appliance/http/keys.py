"""Our own routes about who may do what: me, claim, pair, keys, audit."""

from aiohttp import web

from appliance.access.keys import Key
from appliance.http import keys_wire as wire
from appliance.http.body import read_json
from appliance.http.context import ACCESS, CALLER, DISCOVERY, FIELDS, SETTINGS, STATE, USAGE
from appliance.http.errors import FieldError
from appliance.http.ollama import json_response

_DEFAULT_ENTRIES, _MAX_ENTRIES = 100, 10_000


async def me(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/me: what the box makes of the caller."""
    access = request.app[ACCESS]
    body = wire.me_answer(request[CALLER], is_claimed=access.is_claimed, lan=access.lan)
    return json_response(body)


async def claim(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/claim: whoever read the code on the box gets the owner's key."""
    body = await read_json(request, wire.ClaimBody)
    if not body.code.strip():
        raise FieldError("code", "code is required; `hearth pair` on the box shows it")
    name = wire.name_of(body.name) if body.name else ""
    key, token = await request.app[ACCESS].claim_box(request[CALLER], body.code, name)
    request.app[DISCOVERY].refresh()  # it says whether the box is owned
    return _made(key, token)


async def pair(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/pair: what a person needs to bring a phone to this box."""
    access, urls = request.app[ACCESS], box_urls(request.app)
    code = access.code
    return json_response(
        {
            "claimed": access.is_claimed,
            "code": code,
            "urls": urls,
            "claim_url": f"{urls[0]}/#claim={code}" if code and urls else None,
        }
    )


async def list_keys(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/keys: the newest first, revoked ones too, and lately seen guests."""
    usage = request.app[USAGE]
    keys = [
        wire.key_answer(key, usage.tokens_today(key.facts))
        for key in request.app[ACCESS].keys.list()
    ]
    guests = [wire.guest_answer(guest) for guest in usage.guests()]
    return json_response({"keys": keys, "guests": guests})


async def create_key(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/keys: the answer alone holds the secret."""
    body = await read_json(request, wire.KeyBody)
    key, token = await request.app[ACCESS].create_key(body.facts())
    request[FIELDS]["target"] = key.facts.id
    request.app[DISCOVERY].refresh()
    return _made(key, token)


async def revoke_key(request: web.Request) -> web.StreamResponse:
    """DELETE /hearth/v1/keys/{id}."""
    key_id = request.match_info["id"]
    request[FIELDS]["target"] = key_id
    await request.app[ACCESS].revoke_key(key_id)
    return json_response({})


async def audit(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/audit?limit=: the newest first."""
    limit = wire.limit_of(request.query.get("limit", ""), _DEFAULT_ENTRIES, _MAX_ENTRIES)
    entries = await request.app[ACCESS].audit.entries(limit)
    return json_response({"entries": [wire.entry_answer(entry) for entry in entries]})


def _made(key: Key, token: str) -> web.Response:
    response = json_response({"key": wire.key_answer(key), "secret": token}, status=201)
    response.headers["Cache-Control"] = "no-store"
    return response


def box_urls(app: web.Application) -> list[str]:
    """Where the network finds the box, IPv4 first; none on loopback."""
    hosts = [f"[{a}]" if ":" in a else a for a in _addresses(app)]
    return [f"http://{host}:{app[STATE].port}" for host in hosts]


def is_loopback(host: str) -> bool:
    """Whether a listener on `host` hears this machine alone."""
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _addresses(app: web.Application) -> list[str]:
    host, _ = app[SETTINGS].address
    if is_loopback(host):
        return []
    if host not in {"", "0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        return [host]
    announced = app[DISCOVERY].status()
    found = [a for a in app[ACCESS].addresses() if ":" not in a or host == "::"]
    return [*(announced.addresses or found), *filter(None, [announced.host])]
