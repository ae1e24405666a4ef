"""The web application: its parts, its routes, what every request passes.

Nothing is kept in module globals, so a test builds as many applications as it likes. Run it with
`handler_cancellation=True`: a client that leaves must cancel its handler, which frees the engine.
"""

import socket
from dataclasses import dataclass

from aiohttp import web

from appliance.access.access import Access
from appliance.access.limits import Limits, Rules
from appliance.access.usage import Usage
from appliance.bundles.bundles import Bundles
from appliance.bundles.channels import Channels
from appliance.bundles.export import Exporter
from appliance.bundles.importing import Importer
from appliance.bundles.sticks import Sticks
from appliance.chat.job import ChatService
from appliance.config import MIB, Settings
from appliance.device.device import Device
from appliance.discovery.discovery import Discovery
from appliance.http import (
    admin,
    anthropic,
    blobs,
    clock,
    device,
    doctor,
    keys,
    leds,
    live,
    media,
    metrics,
    neighbours,
    ollama,
    ollama_models,
    ollama_transfer,
    openai,
    openai_score,
    openai_tokens,
    page,
    registry,
    responses,
    scrub,
    support,
    tls,
)
from appliance.http import (
    bundles as bundle_routes,
)
from appliance.http import (
    channels as channel_routes,
)
from appliance.http.access import admit
from appliance.http.body import BODIES, BODIES_AT_ONCE, Bodies
from appliance.http.context import (
    ACCESS,
    BUNDLES,
    CHANNELS,
    CHAT,
    DEVICE,
    DISCOVERY,
    ENROLLER,
    EXPORTER,
    GATE,
    GUARD,
    IMPORTER,
    INCIDENTS,
    KNOWN_TIME,
    LEDS,
    LIBRARY,
    LIMITS,
    LIVE,
    METER,
    METRICS,
    MODELS,
    RECENT,
    REPOSITORIES,
    SELF_TEST,
    SETTINGS,
    STATE,
    STICKS,
    TLS,
    TRANSFERS,
    USAGE,
    ServiceState,
)
from appliance.http.guard import Guard
from appliance.http.https import Tls
from appliance.http.limits import limit
from appliance.http.live_wire import open_live
from appliance.http.meter import TokenMeter
from appliance.http.middleware import add_headers, drain, guard, observe, welcome, without_welcome
from appliance.http.openapi.serve import openapi
from appliance.incidents import Incidents
from appliance.leds import Leds
from appliance.library.library import Library
from appliance.logs import Recent
from appliance.metrics import Metrics
from appliance.models.manager import Models
from appliance.self_test import SelfTest
from appliance.transfer.transfers import Transfers
from appliance.trust.enrolling import Enroller
from appliance.trust.gate import Gate
from appliance.trust.known_time import KnownTime
from appliance.trust.repositories import Repositories

# Parts of the dialects that later releases bring; a clear refusal beats "404 page not found".
_NOT_YET = ("/v1/audio/transcriptions",)
_CLOUD = (
    ("POST", "/api/me"),
    ("POST", "/api/signout"),
    ("DELETE", "/api/user/keys/{key}"),
    ("POST", "/api/experimental/web_search"),
    ("POST", "/api/experimental/web_fetch"),
    ("GET", "/api/experimental/model-recommendations"),
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the application is made over. It owns none of them: the caller closes them."""

    settings: Settings
    library: Library
    models: Models
    chat: ChatService
    transfers: Transfers
    repositories: Repositories
    enroller: Enroller
    self_test: SelfTest
    gate: Gate
    bundles: Bundles
    channels: Channels
    access: Access
    usage: Usage
    discovery: Discovery
    metrics: Metrics
    device: Device
    incidents: Incidents
    leds: Leds
    known_time: KnownTime
    recent: Recent
    tls: Tls
    state: ServiceState


def build_app(parts: Parts) -> web.Application:
    """The application over these parts."""
    settings, library, bundles = parts.settings, parts.library, parts.bundles
    app = web.Application(
        middlewares=[observe, guard, admit, limit, drain, welcome],
        client_max_size=settings.max_body_mib * MIB,  # blobs are streamed and have their own limit
    )
    app[SETTINGS] = settings
    app[LIBRARY] = library
    app[MODELS] = parts.models
    app[CHAT] = parts.chat
    app[REPOSITORIES] = parts.repositories
    app[ENROLLER] = parts.enroller
    app[SELF_TEST] = parts.self_test
    app[GATE] = parts.gate
    app[BUNDLES] = bundles
    app[IMPORTER] = Importer(library, parts.repositories, bundles, parts.channels)
    app[STICKS] = Sticks(app[IMPORTER])
    app[EXPORTER] = Exporter(library, parts.repositories, bundles, parts.channels, settings.state)
    app[CHANNELS] = parts.channels
    app[TRANSFERS] = parts.transfers
    app[DISCOVERY] = parts.discovery
    app[METRICS] = parts.metrics
    app[DEVICE] = parts.device
    app[INCIDENTS] = parts.incidents
    app[LEDS] = parts.leds
    app[KNOWN_TIME] = parts.known_time
    app[RECENT] = parts.recent
    app[STATE] = parts.state
    app[BODIES] = Bodies(BODIES_AT_ONCE * settings.max_body_mib * MIB)
    app[ACCESS] = parts.access
    app[LIMITS] = Limits(_rules(settings))
    app[USAGE] = parts.usage
    app[TLS] = parts.tls
    app[METER] = TokenMeter()
    app[LIVE] = open_live(app)
    app[GUARD] = Guard.of(
        socket.gethostname(),
        [*settings.allowed_hosts, parts.discovery.box.host_label, parts.discovery.box.host_name],
        settings.allowed_origins,
        parts.access.near,
        parts.discovery.own_hosts,
        settings.trusted_proxies,
    )
    app.on_response_prepare.append(add_headers)
    app.add_routes(map(without_welcome, all_routes()))
    return app


def _rules(settings: Settings) -> Rules:
    return Rules(
        guest_rate_per_minute=settings.guest_rate_per_minute,
        guest_concurrency=settings.guest_concurrency,
        user_rate_per_minute=settings.user_rate_per_minute,
    )


def all_routes() -> list[web.RouteDef]:
    """Every route that there is; `access.py` says what each needs."""
    not_yet = [web.post(path, admin.not_yet) for path in _NOT_YET]
    no_cloud = [web.route(*each, admin.no_cloud) for each in _CLOUD]
    known = [*_own_routes(), *_ollama_routes(), *_openai_routes(), *_anthropic_routes()]
    return [*known, *_registry_routes(), *not_yet, *no_cloud]


def _own_routes() -> list[web.RouteDef]:
    return [
        web.get("/", page.root),
        web.get("/static/{version}/{name}", page.static_file),
        web.get("/hearth/v1/qr.svg", page.qr),
        web.get("/hearth/v1/live", live.live),
        web.post("/hearth/v1/transfers/cancel", ollama_transfer.cancel),
        web.get("/openapi.json", openapi),
        web.get("/healthz", admin.healthz),
        web.get("/readyz", admin.readyz),
        web.get("/hearth/v1/me", keys.me),
        web.post("/hearth/v1/claim", keys.claim),
        web.get("/hearth/v1/pair", keys.pair),
        web.get("/hearth/v1/keys", keys.list_keys),
        web.post("/hearth/v1/keys", keys.create_key),
        web.delete("/hearth/v1/keys/{id}", keys.revoke_key),
        web.get("/hearth/v1/audit", keys.audit),
        web.get("/hearth/v1/tls", tls.show),
        web.get("/hearth/v1/ca.crt", tls.ca_crt),
        web.post("/hearth/v1/tls/renew", tls.renew),
        web.get("/hearth/v1/status", admin.status),
        web.get("/hearth/v1/plan", admin.plan),
        web.get("/hearth/v1/doctor", doctor.doctor),
        web.post("/hearth/v1/self-test", doctor.self_test),
        web.get("/hearth/v1/neighbours", neighbours.neighbours),
        web.get("/hearth/v1/device", device.device),
        web.post("/hearth/v1/identify", leds.identify),
        web.post("/hearth/v1/clock", clock.tell),
        web.get("/hearth/v1/support", support.bundle),
        web.get("/metrics", metrics.metrics),
        web.post("/hearth/v1/scrub", scrub.scrub),
        web.get("/hearth/v1/bundles", bundle_routes.list_all),
        web.get("/hearth/v1/bundles/show", bundle_routes.show),
        web.get("/hearth/v1/bundles/why", bundle_routes.why),
        web.post("/hearth/v1/bundles/check", bundle_routes.check),
        web.post("/hearth/v1/bundles/rollback", bundle_routes.rollback),
        web.post("/hearth/v1/bundles/pin", bundle_routes.pin),
        web.post("/hearth/v1/bundles/unpin", bundle_routes.unpin),
        web.post("/hearth/v1/import", media.bring),
        web.post("/hearth/v1/export", media.export),
        web.get("/hearth/v1/channels", channel_routes.list_all),
        web.post("/hearth/v1/channels/follow", channel_routes.follow),
        web.post("/hearth/v1/channels/unfollow", channel_routes.unfollow),
        web.post("/hearth/v1/channels/check", channel_routes.check),
        web.post("/hearth/v1/channels/pause", channel_routes.pause),
        web.post("/hearth/v1/channels/resume", channel_routes.resume),
    ]


def _ollama_routes() -> list[web.RouteDef]:
    return [
        web.get("/api/version", admin.api_version),
        web.get("/api/status", admin.api_status),
        web.post("/api/generate", ollama.generate),
        web.post("/api/chat", ollama.chat),
        web.post("/api/embed", ollama.embed),
        web.post("/api/embeddings", ollama.embeddings),
        web.get("/api/tags", ollama_models.tags),
        web.get("/api/ps", ollama_models.ps),
        web.post("/api/show", ollama_models.show),
        web.post("/api/create", ollama_models.create),
        web.post("/api/pull", ollama_transfer.pull),
        web.post("/api/push", ollama_transfer.push),
        web.post("/api/copy", ollama_models.copy),
        web.delete("/api/delete", ollama_models.delete),
        web.head("/api/blobs/{digest}", blobs.probe),
        web.post("/api/blobs/{digest}", blobs.upload),
    ]


def _openai_routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/chat/completions", openai.chat_completions),
        web.post("/v1/completions", openai.completions),
        web.post("/v1/embeddings", openai.embeddings),
        web.post("/v1/rerank", openai_score.rerank),
        web.post("/v2/rerank", openai_score.rerank),
        web.post("/rerank", openai_score.rerank),
        web.post("/v1/score", openai_score.score),
        web.post("/score", openai_score.score),
        web.post("/tokenize", openai_tokens.tokenize),
        web.post("/detokenize", openai_tokens.detokenize),
        web.post("/v1/responses", responses.responses),
        web.get("/v1/models", openai.models),
        web.get("/v1/models/{model:.+}", openai.model),
    ]


def _anthropic_routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/messages", anthropic.messages),
        web.post("/v1/messages/count_tokens", anthropic.count_tokens),
    ]


def _registry_routes() -> list[web.RouteDef]:
    return [
        web.get("/v2/", registry.base),
        web.get("/v2/{namespace}/{model}/manifests/{reference}", registry.manifest),
        web.get("/v2/{namespace}/{model}/blobs/{digest}", registry.blob),
    ]
