"""Routes that tell of HTTPS and let an owner renew its certificate (Hearth API)."""

import asyncio
from typing import Any

from aiohttp import web

from appliance.errors import NotFoundError
from appliance.http.body import read_json
from appliance.http.context import DISCOVERY, TLS
from appliance.http.https import Tls
from appliance.http.ollama import json_response
from appliance.http.tls_wire import RenewBody, tls_answer

CERTIFICATE_TYPE = "application/x-x509-ca-cert"


async def ca_crt(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/ca.crt: what a device imports once to trust this box's HTTPS."""
    tls = _require_on(request)
    pem = await asyncio.to_thread(tls.certificate)
    headers = {
        "Content-Type": CERTIFICATE_TYPE,
        "Content-Disposition": 'attachment; filename="hearth-ca.crt"',
        "Cache-Control": "no-cache",
    }
    return web.Response(body=pem, headers=headers)


async def show(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/tls: fingerprints, names, dates, and what to do on each kind of device."""
    return json_response(_answer(request.app[TLS]))


async def renew(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/tls/renew {"authority"?: bool}: another certificate, now."""
    tls = _require_on(request)
    body = await read_json(request, RenewBody)
    await tls.refresh(anew=True, authority=body.authority)
    if tls.problem is not None:
        raise tls.problem
    request.app[
        DISCOVERY
    ].refresh()  # a new authority has a new key, whose fingerprint is announced
    return json_response(_answer(tls))


def _answer(tls: Tls) -> dict[str, Any]:
    return tls_answer(tls.leaf, is_on=tls.is_on, port=tls.port, problem=tls.problem)


def _require_on(request: web.Request) -> Tls:
    tls = request.app[TLS]
    if not tls.is_on:
        raise NotFoundError("this box serves no HTTPS", hint='set tls = "on" and start it again')
    return tls
