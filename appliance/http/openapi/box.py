"""Our own routes about the box and who may use it, the probes and the page."""

from typing import Any

from appliance.errors import ConflictError, NotFoundError, UnsupportedError
from appliance.http import clock, leds
from appliance.http import keys_wire as keys
from appliance.http import tls_wire as tls
from appliance.http.openapi.box_answers import (
    Audit,
    Device,
    Doctor,
    Health,
    Identified,
    Keys,
    MadeKey,
    Me,
    Neighbours,
    Nothing,
    Pairing,
    Plan,
    Readiness,
    SelfTestReport,
    Status,
    Tls,
    Told,
)
from appliance.http.openapi.operation import MISSING, SSE, Operation, Query, Table

_Text = dict[str, Any]
TEXT: _Text = {"type": "string"}
FILE: _Text = {}  # bytes as they are

_MODEL = Query("model", "The model's name", required=True)

OPERATIONS: Table = {
    ("GET", "/"): Operation(
        summary="The page for who prefers HTML, else the heartbeat of Ollama's clients",
        answer=TEXT,
        answers="text/plain",
        stream=TEXT,
        streams="text/html",
    ),
    ("GET", "/static/{version}/{name}"): Operation(
        summary="A file of the page", answer=FILE, answers="*/*", errors=MISSING
    ),
    ("GET", "/openapi.json"): Operation(
        summary="This document", answer={"type": "object", "required": ["openapi", "paths"]}
    ),
    ("GET", "/healthz"): Operation(summary="Whether the process is alive", answer=Health),
    ("GET", "/readyz"): Operation(
        summary="Whether requests are taken: 200, else 503", answer=Readiness
    ),
    ("GET", "/metrics"): Operation(
        summary="Figures for Prometheus", answer=TEXT, answers="text/plain"
    ),
    ("GET", "/hearth/v1/status"): Operation(
        summary="What the box is doing and what is wrong with it", answer=Status
    ),
    ("GET", "/hearth/v1/plan"): Operation(
        summary="Which engine would run a model, why, and whether it fits",
        query=(_MODEL,),
        answer=Plan,
        errors=MISSING,
    ),
    ("GET", "/hearth/v1/doctor"): Operation(
        summary="What is wrong with the box, the worst first", answer=Doctor
    ),
    ("POST", "/hearth/v1/self-test"): Operation(
        summary="Try the model, memory, store, clock and announcement of the box now",
        answer=SelfTestReport,
    ),
    ("GET", "/hearth/v1/neighbours"): Operation(
        summary="Other boxes and model servers on the network", answer=Neighbours
    ),
    ("GET", "/hearth/v1/device"): Operation(
        summary="The board's temperatures, power, disks, clock and load", answer=Device
    ),
    ("POST", "/hearth/v1/identify"): Operation(
        summary="Let the LED flicker, so that somebody finds this box among others",
        body=leds.IdentifyBody,
        answer=Identified,
        errors=(UnsupportedError,),
    ),
    ("POST", "/hearth/v1/clock"): Operation(
        summary="Tell the time to a box that nothing else tells it",
        body=clock.ClockBody,
        required="now_s",
        answer=Told,
    ),
    ("GET", "/hearth/v1/support"): Operation(
        summary="What a person who helps needs to see, as one .tar.gz",
        answer=FILE,
        answers="application/gzip",
    ),
    ("GET", "/hearth/v1/live"): Operation(
        summary="The state of the box as a stream of changes",
        description="First `snapshot` with every section, then `change` with those that changed.",
        stream={"type": "object"},
        streams=SSE,
    ),
    ("GET", "/hearth/v1/qr.svg"): Operation(
        summary="An address of this box as a QR code",
        query=(
            Query("host", "ADDRESS[:PORT] of this box; else the address that was asked"),
            Query("claim", "A claim code that is to be in the address"),
        ),
        answer=FILE,
        answers="image/svg+xml",
    ),
    ("GET", "/hearth/v1/me"): Operation(summary="What the box makes of the caller", answer=Me),
    ("POST", "/hearth/v1/claim"): Operation(
        summary="Become the owner of a new box with the code that it shows",
        body=keys.ClaimBody,
        required="code",
        answer=MadeKey,
        status=201,
        errors=(ConflictError,),
    ),
    ("GET", "/hearth/v1/pair"): Operation(
        summary="What a person needs to bring a phone to this box", answer=Pairing
    ),
    ("GET", "/hearth/v1/keys"): Operation(
        summary="All keys, the newest first, and guests that were seen lately", answer=Keys
    ),
    ("POST", "/hearth/v1/keys"): Operation(
        summary="Make a key",
        body=keys.KeyBody,
        required="name scopes",
        example={"name": "Anna's phone", "scopes": ["chat"]},
        answer=MadeKey,
        status=201,
        errors=(ConflictError,),
    ),
    ("DELETE", "/hearth/v1/keys/{id}"): Operation(
        summary="Revoke a key", answer=Nothing, errors=(NotFoundError, ConflictError)
    ),
    ("GET", "/hearth/v1/audit"): Operation(
        summary="Who changed what, the newest first",
        query=(
            Query(
                "limit",
                "How many entries",
                {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 100},
            ),
        ),
        answer=Audit,
    ),
    ("GET", "/hearth/v1/tls"): Operation(
        summary="HTTPS: fingerprints, names, dates, and what to do on each kind of device",
        answer=Tls,
    ),
    ("GET", "/hearth/v1/ca.crt"): Operation(
        summary="The certificate that a device imports to trust this box's HTTPS",
        answer=FILE,
        answers="application/x-x509-ca-cert",
        errors=MISSING,
    ),
    ("POST", "/hearth/v1/tls/renew"): Operation(
        summary="Make another certificate now",
        body=tls.RenewBody,
        answer=Tls,
        errors=MISSING,
    ),
}
