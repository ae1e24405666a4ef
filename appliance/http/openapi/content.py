"""Our own routes about signed models, channels, media and the store; the registry to read from."""

from typing import Any, NotRequired, TypedDict

from appliance.http import bundles_wire as bundles
from appliance.http import channels_wire as channels
from appliance.http import media, ollama_transfer, scrub
from appliance.http.openapi.box_answers import Channel, Nothing
from appliance.http.openapi.ollama import Progress
from appliance.http.openapi.operation import (
    BYTES,
    CHANGES,
    FETCHES,
    MISSING,
    Operation,
    Query,
    Table,
)


class Bundle(TypedDict):
    """A signed model."""

    model: str
    repository: str
    state: str
    version: str | None
    variant: str | None
    previous: str | None
    staged: str | None
    pinned: str | None
    revoked: str | None


class Bundles(TypedDict):
    bundles: list[Bundle]
    problems: list[str]


class Release(TypedDict):
    version: str
    variant: str
    index: str
    manifest: str
    staged_at: str
    tokens_per_s: float


class Failure(TypedDict):
    """A release that failed here; why is for who may manage."""

    version: str
    variant: str | None
    index: str
    reason: str | None
    at: str
    prompt: str | None
    tokens_per_s: float
    log: NotRequired[str]


class BundleDetail(Bundle):
    active_release: Release | None
    previous_release: Release | None
    staged_release: Release | None
    attempts: int
    bad: list[Failure]


class Why(Bundle):
    reasons: list[str]
    tokens_per_s: float | None
    failure: Failure | None


class Channels(TypedDict):
    channels: list[Channel]
    problems: list[str]


class ScrubLine(TypedDict):
    """How far the check is, what was damaged, and what became of it."""

    status: str
    completed: NotRequired[int]
    total: NotRequired[int]
    digest: NotRequired[str]
    reason: NotRequired[str]
    models: NotRequired[list[str]]
    fetched: NotRequired[int]
    source: NotRequired[str]
    problem: NotRequired[str]
    hint: NotRequired[str]
    damaged: NotRequired[int]
    repaired: NotRequired[int]


_MODEL = Query("model", "The model's name", required=True)
_FILE: dict[str, Any] = {}


def _bundle_change(summary: str, body: type = bundles.BundleBody) -> Operation:
    return Operation(summary=summary, body=body, answer=BundleDetail, errors=FETCHES)


def _channel_change(summary: str) -> Operation:
    return Operation(summary=summary, body=channels.ChannelBody, answer=Channel, errors=FETCHES)


OPERATIONS: Table = {
    ("POST", "/hearth/v1/transfers/cancel"): Operation(
        summary="End the transfers of a model, whoever follows them",
        body=ollama_transfer.CancelBody,
        answer=Nothing,
        errors=MISSING,
    ),
    ("POST", "/hearth/v1/scrub"): Operation(
        summary="Check everything that is stored, and repair what came from a registry",
        body=scrub.ScrubBody,
        example={"repair": False},
        stream=ScrubLine,
    ),
    ("GET", "/hearth/v1/bundles"): Operation(
        summary="Signed models, and which of them could not be read", answer=Bundles
    ),
    ("GET", "/hearth/v1/bundles/show"): Operation(
        summary="All releases of a signed model that are here, and the bad ones",
        query=(_MODEL,),
        answer=BundleDetail,
        errors=MISSING,
    ),
    ("GET", "/hearth/v1/bundles/why"): Operation(
        summary="Why a variant was chosen, and the last failure",
        query=(_MODEL,),
        answer=Why,
        errors=MISSING,
    ),
    ("POST", "/hearth/v1/bundles/check"): _bundle_change("Ask whether a release was taken back"),
    ("POST", "/hearth/v1/bundles/rollback"): _bundle_change(
        "Make the previous release active, at once"
    ),
    ("POST", "/hearth/v1/bundles/pin"): _bundle_change(
        "Let one version alone be active", bundles.PinBody
    ),
    ("POST", "/hearth/v1/bundles/unpin"): _bundle_change("Let the name decide again"),
    ("GET", "/hearth/v1/channels"): Operation(
        summary="Channels that are followed, and which are damaged", answer=Channels
    ),
    ("POST", "/hearth/v1/channels/follow"): _channel_change("Follow a channel from now on"),
    ("POST", "/hearth/v1/channels/unfollow"): Operation(
        summary="Leave a channel; what it installed stays",
        body=channels.ChannelBody,
        errors=(*MISSING, *CHANGES),
    ),
    ("POST", "/hearth/v1/channels/check"): Operation(
        summary="Ask a channel now, with progress line by line",
        body=channels.CheckBody,
        answer=Progress,
        stream=Progress,
        errors=FETCHES,
    ),
    ("POST", "/hearth/v1/channels/pause"): _channel_change("Ask and install nothing by itself"),
    ("POST", "/hearth/v1/channels/resume"): _channel_change("Go on, with a turn at once"),
    ("POST", "/hearth/v1/import"): Operation(
        summary="Install signed models from a medium",
        body=media.ImportBody,
        stream=Progress,
        errors=FETCHES,
    ),
    ("POST", "/hearth/v1/export"): Operation(
        summary="Copy models onto a medium",
        body=media.ExportBody,
        stream=Progress,
        errors=FETCHES,
    ),
    ("GET", "/v2/"): Operation(summary="There is a registry here", answer=Nothing),
    ("GET", "/v2/{namespace}/{model}/manifests/{reference}"): Operation(
        summary="A model's manifest by tag or digest, byte for byte",
        answer=_FILE,
        answers="application/vnd.docker.distribution.manifest.v2+json",
        errors=MISSING,
    ),
    ("GET", "/v2/{namespace}/{model}/blobs/{digest}"): Operation(
        summary="A blob that a model names, whole or in ranges",
        answer=_FILE,
        answers=BYTES,
        errors=MISSING,
    ),
}
