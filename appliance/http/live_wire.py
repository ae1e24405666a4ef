"""The sections of the live stream: each is one function from the application to JSON.

Sizes are bytes, times RFC 3339 in UTC. Everything here may be read by whoever may chat: it names
models and states of the box, and no keys, addresses of guests or prompts.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiohttp import web

from appliance.chat.options import merge
from appliance.discovery.discovery import Word
from appliance.discovery.records import API
from appliance.errors import ApplianceError
from appliance.hardware import read_memory
from appliance.http import doctor
from appliance.http.bundles_wire import bundle_entry
from appliance.http.channels_wire import channel_entry
from appliance.http.context import (
    BUNDLES,
    CHANNELS,
    DEVICE,
    DISCOVERY,
    GATE,
    LIBRARY,
    METER,
    MODELS,
    SETTINGS,
    STATE,
    TRANSFERS,
    version,
)
from appliance.http.device import device_answer
from appliance.http.keys import box_urls, is_loopback
from appliance.http.live_room import Live, Section
from appliance.http.neighbours import answer as neighbours_answer
from appliance.library.names import ModelName
from appliance.library.stored import StoredModel
from appliance.models.loaded import LoadedModel
from appliance.transfer.jobs import JobReport
from engine.errors import EngineError

ReadApp = Callable[[web.Application], Awaitable[Any]]
PLANS_S = 20.0  # how long a model's fit is believed: it reads the model's header


def sections(app: web.Application) -> dict[str, Section]:
    """All that this application can tell of, in the order in which it is read."""
    fits = _Fits(app)
    table: dict[str, tuple[ReadApp, float]] = {
        "box": (box, 5.0),
        "queue": (queue, 2.0),
        "transfers": (transfers, 5.0),
        "device": (device, 5.0),
        "models": (partial(models, fits), 4.0),
        "neighbours": (neighbours, 60.0),
        "updates": (updates, 10.0),
        "conditions": (conditions, 30.0),
    }
    return {name: Section(partial(read, app), every_s) for name, (read, every_s) in table.items()}


def open_live(app: web.Application) -> Live:
    """The stream of this application, told by the parts that know of their changes."""
    room = Live(sections(app))
    app[MODELS].on_change = partial(room.poke, "queue", "models")
    for jobs in (app[TRANSFERS].jobs, app[BUNDLES].jobs):
        jobs.on_change = partial(room.poke, "transfers", "models", "updates")
    app[DISCOVERY].on_change.append(partial(room.poke, "neighbours", "box"))
    return room


async def box(app: web.Application) -> dict[str, Any]:
    """What it is called, and whether it is alive."""
    own, state, settings = app[DISCOVERY].box, app[STATE], app[SETTINGS]
    memory = await asyncio.to_thread(read_memory)
    started = datetime.now(UTC).timestamp() - (time.monotonic() - state.started_at)
    return {
        "id": own.id,
        "name": own.instance_name,
        "addresses": box_urls(app),
        "loopback": is_loopback(settings.address[0]),
        "dialects": list(API),
        "version": version(),
        "engine": settings.engine,
        "state": "draining" if state.draining else "ready",
        "started_at": _moment(round(started)),
        "memory": {"total": memory.total, "available": _rounded(memory.available)},
        "trust": await asyncio.to_thread(_trust_mode, app),
    }


async def queue(app: web.Application) -> dict[str, Any]:
    """Who is served, who waits, how fast tokens come."""
    demand = app[MODELS].demand()
    rate = app[METER].per_second(time.monotonic()) if demand else 0.0
    return {
        "running": sum(each.running for each in demand),
        "waiting": sum(each.waiting for each in demand),
        "tokens_per_s": round(rate, 1),
        "models": [
            {
                "name": each.name.short,
                "running": each.running,
                "waiting": each.waiting,
                "slots": each.slots,
                "loading": not each.is_loaded,
            }
            for each in demand
        ],
    }


async def transfers(app: web.Application) -> list[dict[str, Any]]:
    """What comes and goes now, and what failed while nobody looked."""
    reports = [*app[TRANSFERS].jobs.reports(), *app[BUNDLES].jobs.reports()]
    return [_transfer(report) for report in reports]


async def models(fits: "_Fits", app: web.Application) -> list[dict[str, Any]]:
    """What is installed, what of it is loaded, and what would fit."""
    library, gate = app[LIBRARY], app[GATE]
    stored = await asyncio.to_thread(library.list)
    labels = await asyncio.to_thread(gate.labels, stored)
    loaded = {model.name: model for model in app[MODELS].loaded()}
    return [
        {
            "name": model.name.short,
            "size": model.size,
            "modified_at": _moment(round(model.modified_at.timestamp())),
            "family": model.details["family"],
            "parameters": model.details["parameter_size"],
            "quantization": model.details["quantization_level"],
            "trust": label,
            "loaded": _loaded(loaded.get(model.name)),
            **await fits.of(model, is_loaded=model.name in loaded),
        }
        for model, label in zip(stored, labels, strict=True)
    ]


async def neighbours(app: web.Application) -> dict[str, Any] | None:
    """Who else was heard of; None where nobody listens for them."""
    discovery = app[DISCOVERY]
    status = discovery.status()
    if status.word in {Word.OFF, Word.LOOPBACK}:
        return None
    return neighbours_answer(status, discovery.neighbours())


async def device(app: web.Application) -> dict[str, Any]:
    """What a page shows of /hearth/v1/device, so coarse that it is told of real changes only."""
    answer = device_answer(await asyncio.to_thread(app[DEVICE].read))
    watts = answer["power_watts"]
    return {
        "temperatures": [
            {"zone": zone["zone"], "celsius": round(zone["celsius"])}
            for zone in answer["temperatures"]
        ],
        "throttled": answer["throttled"],
        "throttled_since_boot": answer["throttled_since_boot"],
        "power_watts": None if watts is None else round(watts, 1),
        "disks": [
            {
                "mount": disk["mount"],
                "free_bytes": _rounded(disk["free_bytes"]),
                "total_bytes": disk["total_bytes"],
                "life_used": disk["life_used"],
            }
            for disk in answer["disks"]
        ],
        "clock": answer["clock"],
    }


async def updates(app: web.Application) -> dict[str, Any]:
    """Signed models with their releases, and the channels that bring new ones."""
    states = await asyncio.to_thread(app[BUNDLES].states)
    channels, _ = await app[CHANNELS].list()
    return {
        "bundles": [bundle_entry(ModelName.parse(each.name).short, each) for each in states],
        "channels": [channel_entry(each, with_reasons=False) for each in channels],
    }


async def conditions(app: web.Application) -> dict[str, Any]:
    """What is wrong with the box, as `/hearth/v1/doctor` says it."""
    return doctor.answer(await doctor.conditions_of(app))


def seen_with(may_see: Callable[[ModelName], bool], section: str, value: Any) -> Any:
    """What of a section somebody may know who may use some models only."""
    if value is None or section in {"box", "device", "neighbours"}:
        return value

    def kept(entries: list[dict[str, Any]], field: str) -> list[dict[str, Any]]:
        return [each for each in entries if may_see(ModelName.parse(each[field]))]

    match section:
        case "models":
            return kept(value, "name")
        case "queue":
            return value | {"models": kept(value["models"], "name")}
        case "updates":
            return {"bundles": kept(value["bundles"], "model"), "channels": []}
        case _:
            return None


class _Fits:
    """Whether models fit into memory: kept for a while, as it means reading their headers."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._known: dict[tuple[str, bool], tuple[float, dict[str, Any]]] = {}

    async def of(self, model: StoredModel, *, is_loaded: bool) -> dict[str, Any]:
        """`fit` and `capabilities` of a model."""
        key, now = (model.digest, is_loaded), time.monotonic()
        until, known = self._known.get(key, (0.0, {}))
        if now < until:
            return known
        try:
            found = await self._plan(model)
        except (ApplianceError, EngineError) as error:  # damaged or refused: the list still comes
            found = {"fit": {"fits": False, "need": 0, "why": str(error)}, "capabilities": []}
        if len(self._known) > 1000:
            self._known.clear()
        self._known[key] = (now + PLANS_S, found)
        return found

    async def _plan(self, model: StoredModel) -> dict[str, Any]:
        own = await asyncio.to_thread(lambda: model.parameters)
        plan = await self._app[MODELS].plan(model, merge({}, own, {}).values)
        return {
            "fit": {
                "fits": not plan.refusal,
                "need": plan.need.total_bytes,
                "why": plan.refusal or None,
            },
            "capabilities": await asyncio.to_thread(model.capabilities),
        }


def _loaded(model: LoadedModel | None) -> dict[str, Any] | None:
    if model is None:
        return None
    # While a model is used its end moves on all the time; told is when it last came to rest.
    at = None if model.running or model.waiting else model.expires_at
    return {
        "engine": model.engine,
        "slots": model.slots,
        "context_length": model.context_length,
        "size": model.size_bytes,
        "expires_at": None if at is None else _moment(round(at.timestamp())),
    }


def _transfer(report: JobReport) -> dict[str, Any]:
    blobs = [line for line in report.lines if line.total]
    return {
        "model": report.title.subject,
        "verb": report.title.verb,
        "state": "failed" if report.failure else "running",
        "status": report.lines[-1].status if report.lines else "",
        "total": sum(line.total for line in blobs),
        "completed": sum(line.completed for line in blobs),
        "error": report.failure or None,
    }


def _trust_mode(app: web.Application) -> str | None:
    try:
        return str(app[GATE].mode())
    except ApplianceError:
        return None  # damaged: the conditions say so


def _rounded(count: int) -> int:
    """To 16 MiB, so that a page is not told of every allocation."""
    return count >> 24 << 24


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
