"""GET /metrics: everything that is counted, and what is looked at now, as Prometheus text.

Under our own names, and under those of vLLM (docs.vllm.ai, "Metrics") where we measure the same
thing: routers and dashboards that were made for it then work. What vLLM would say and we cannot
measure is left out, not invented: `kv_cache_usage_perc` and preemptions exist only for models on
the paged engine.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from aiohttp import web

from appliance.bundles.state import BundleState
from appliance.device.reading import DeviceReading
from appliance.http.context import (
    BUNDLES,
    DEVICE,
    METRICS,
    MODELS,
    STATE,
    TRANSFERS,
    ServiceState,
    version,
)
from appliance.library.names import ModelName
from appliance.metrics import CONTENT_TYPE, Family, Metrics, counter, gauge
from appliance.models.manager import Models

STATS_TIMEOUT_S = 1.0  # a worker in a long step answers after it
THROTTLE_REASONS = ("undervoltage", "freq_cap", "thermal", "soft_temp_limit", "over_current")

Stats = dict[str, dict[str, Any]]
Reserve = Callable[[int], int]  # what of a disk of so many bytes stays free


async def metrics(request: web.Request) -> web.StreamResponse:
    """GET /metrics, for the box itself and administrators: it tells what others ask."""
    app = request.app
    reading = await asyncio.to_thread(app[DEVICE].read)
    bundles = await asyncio.to_thread(app[BUNDLES].states)
    stats = await app[MODELS].engine_stats("paged", STATS_TIMEOUT_S)
    counted = app[METRICS]
    lines = [line for family in counted.all() for line in family.lines()]
    sampled = (
        *_service(app[STATE]),
        *_models(counted, app[MODELS], stats),
        *_bundles(counted, bundles),
        *_device(reading, app[TRANSFERS].space.reserve),
    )
    lines += [line for family in sampled for line in family.lines()]
    lines += vllm_lines(counted, app[MODELS], stats)
    body = "\n".join([*lines, ""]).encode()
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


def _service(state: ServiceState) -> Iterator[Family]:
    build = gauge("hearth_build_info", "The release that runs.", ("version",))
    build.set(1, version())
    yield build
    uptime = gauge("hearth_uptime_seconds", "Since the service started.")
    uptime.set(time.monotonic() - state.started_at)
    yield uptime
    active = gauge("hearth_http_requests_active", "Requests that are being handled.")
    active.set(state.active)
    yield active


def _models(counted: Metrics, models: Models, stats: Stats) -> Iterator[Family]:
    size = gauge("hearth_model_bytes", "Memory that a loaded model may take.", ("model", "engine"))
    slots = gauge("hearth_model_slots", "Requests that a model can serve at once.", ("model",))
    context = gauge("hearth_model_context_tokens", "Context length of a sequence.", ("model",))
    loaded = models.loaded()
    for model in loaded:
        label = _label(counted, model.name)
        size.add(model.size_bytes, label, model.engine)
        slots.add(model.slots, label)
        context.set(model.context_length, label)
    count = gauge("hearth_models_loaded", "Models in memory.")
    count.set(len(loaded))
    running = gauge("hearth_requests_running", "Requests that hold a slot.", ("model",))
    waiting = gauge("hearth_requests_waiting", "Requests in the model's queue.", ("model",))
    for name, (now, later) in models.queues().items():
        label = counted.model(name.lower())
        running.add(now, label)
        waiting.add(later, label)
    yield from (size, slots, context, count, running, waiting)
    used = gauge("hearth_kv_blocks_used", "Blocks of KV cache in use (paged engine).", ("model",))
    total = gauge("hearth_kv_blocks", "Blocks of KV cache (paged engine).", ("model",))
    for name, told in stats.items():
        label = counted.model(name.lower())
        used.add(told["blocks_total"] - told["blocks_free"], label)
        total.add(told["blocks_total"], label)
    yield from (used, total)


def _bundles(counted: Metrics, states: Iterable[BundleState]) -> Iterator[Family]:
    info = gauge(
        "hearth_bundle_active_info",
        "Active releases of signed models.",
        ("model", "version", "variant"),
    )
    for state in states:
        if state.active is not None:
            label = _label(counted, ModelName.parse(state.name))
            info.set(1, label, state.active.version, state.active.variant)
    yield info


def _device(reading: DeviceReading, reserve: Reserve) -> Iterator[Family]:
    celsius = gauge("hearth_temperature_celsius", "Temperature sensors.", ("zone",))
    for zone in reading.zones:
        celsius.set(zone.celsius, zone.name)
    throttled = gauge("hearth_throttled", "Why the board is slowed down now: 1.", ("reason",))
    past = gauge("hearth_throttled_since_boot", "The same, at any time since boot.", ("reason",))
    for reason in THROTTLE_REASONS:
        throttled.set(reason in reading.throttling.now, reason)
        past.set(reason in reading.throttling.since_boot, reason)
    watts = gauge("hearth_power_watts", "Power of each measured rail.", ("rail",))
    for rail in reading.rails:
        watts.set(rail.watts, rail.name)
    yield from (celsius, throttled, past, watts)
    yield from _disks(reading, reserve)
    synced = gauge("hearth_clock_synced", "Whether somebody vouches for the clock.")
    synced.set(reading.clock.is_synced)
    stalled = gauge(
        "hearth_pressure_some_percent",
        "Share of the last ten seconds in which a task waited for the resource.",
        ("resource",),
    )
    for resource, stall in reading.stalls.items():
        stalled.set(stall.some10, resource)
    available = gauge("hearth_memory_available_bytes", "Memory that can be taken.")
    available.set(reading.memory.available)
    total = gauge("hearth_memory_bytes", "Memory of the machine, or that it lets us have.")
    total.set(reading.memory.total)
    yield from (synced, stalled, available, total)
    if reading.oom_kills is not None:
        kills = counter("hearth_machine_oom_kills_total", "Processes that the kernel took.")
        kills.set(reading.oom_kills)
        yield kills


def _disks(reading: DeviceReading, reserve: Reserve) -> Iterator[Family]:
    mount = ("mount",)
    free = gauge("hearth_disk_free_bytes", "Free on the disks of our folders.", mount)
    size = gauge("hearth_disk_bytes", "Size of these disks.", mount)
    kept = gauge("hearth_disk_reserve_bytes", "What models leave free.", mount)
    life = gauge("hearth_storage_life_used_ratio", "Used share of a disk's guaranteed life.", mount)
    written = counter("hearth_storage_written_bytes_total", "Written since boot.", mount)
    for disk in reading.disks:
        label = str(disk.mount)
        free.set(disk.free_bytes, label)
        size.set(disk.total_bytes, label)
        kept.set(reserve(disk.total_bytes), label)
        if disk.life_used is not None:
            life.set(disk.life_used, label)
        if disk.written_bytes is not None:
            written.set(disk.written_bytes, label)
    yield from (free, size, kept, life, written)


def vllm_lines(counted: Metrics, models: Models, stats: Stats) -> Iterator[str]:
    """vLLM's names for what we measure too; `model_name` is the name that clients ask for."""
    label = ("model_name",)
    yield from counted.first_token_s.lines("vllm:time_to_first_token_seconds", label)
    yield from counted.between_tokens_s.lines("vllm:inter_token_latency_seconds", label)
    yield from counted.job_s.lines("vllm:e2e_request_latency_seconds", label)
    yield from counted.queue_s.lines("vllm:request_queue_time_seconds", label)
    yield from counted.prompt_tokens.lines("vllm:prompt_tokens_total", label)
    yield from counted.output_tokens.lines("vllm:generation_tokens_total", label)
    ended = ("model_name", "finished_reason")
    yield from counted.jobs.lines("vllm:request_success_total", ended)
    running = gauge("vllm:num_requests_running", "Requests that are computed.", label)
    waiting = gauge("vllm:num_requests_waiting", "Requests that wait.", label)
    usage = gauge("vllm:kv_cache_usage_perc", "Used share of the KV cache; 1 is all.", label)
    preempted = counter("vllm:num_preemptions_total", "Requests that gave back blocks.", label)
    served = {model.name.short: model for model in models.loaded()}
    for name, (holding, queued) in models.queues().items():
        model, told = counted.model(name.lower()), stats.get(name)
        now, later = holding, queued
        if told is not None:  # the engine has a queue of its own behind ours
            now, later = told["running"], queued + told["waiting"]
            usage.set(1 - told["blocks_free"] / max(1, told["blocks_total"]), model)
            preempted.add(told["preemptions"], model)
        if name in served or later:
            running.add(now, model)
            waiting.add(later, model)
    for family in (running, waiting, usage, preempted):
        yield from family.lines()


def _label(counted: Metrics, name: ModelName) -> str:
    return counted.model(name.short.lower())
