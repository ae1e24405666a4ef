"""The life of the process, from start to stop, in one function.

Owns every task and every resource. A background task that dies ends the process, so that the
service manager starts a whole one again. Knows nothing of requests.
"""

import asyncio
import errno
import faulthandler
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from aiohttp import web

from appliance import last_good, logs, safe_mode
from appliance.access.access import Access
from appliance.access.usage import Usage
from appliance.allocator import give_back_freed_memory
from appliance.box import Box
from appliance.bundles.bundles import FOLDER as BUNDLES_FOLDER
from appliance.bundles.bundles import Bundles
from appliance.bundles.channels import FOLDER as CHANNELS_FOLDER
from appliance.bundles.channels import Channels
from appliance.bundles.repairs import ReleaseFinder
from appliance.bundles.sticks import Sticks
from appliance.care import Care, end_well, ended_badly, young_after_unclean_stop
from appliance.chat.job import ChatService
from appliance.config import Settings
from appliance.db import Database
from appliance.device.device import Device
from appliance.discovery.discovery import Discovery
from appliance.discovery.records import Facts
from appliance.errors import ConfigError
from appliance.http.app import Parts, build_app
from appliance.http.context import LIVE, STICKS, ServiceState, version
from appliance.http.door import Door, Limits
from appliance.http.https import Tls, here
from appliance.http.leds import attend_forever
from appliance.incidents import Incidents
from appliance.leds import Leds
from appliance.library.blobs import sweep_temps, sweep_temps_below
from appliance.library.builtin import install_once
from appliance.library.library import Library
from appliance.library.manifest import Digest
from appliance.metrics import Metrics
from appliance.models.manager import Models
from appliance.network import Network
from appliance.pressure import Pressure
from appliance.self_test import SelfTest
from appliance.systemd import Systemd
from appliance.transfer.partial import sweep_partials
from appliance.transfer.transfers import Transfers
from appliance.trust.enrolling import Enroller
from appliance.trust.gate import Gate
from appliance.trust.known_time import KnownTime
from appliance.trust.repositories import Repositories

log = logging.getLogger("hearth")

MAPS_FOLDER = "maps"
# How long a thread in Python, such as one that parses a model's header, keeps the event loop from
# going on after each of its system calls; Python's own is 5 ms (tests/bench/bench_switch.py)
SWITCH_INTERVAL_S = 0.0005
OPEN_LIMIT_S = 900.0  # to agree with the signed releases after a power cut, on a slow card
CLOSE_TIMEOUT_S = 2.0  # for handlers that are still there when all engines are gone


def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises ConfigError when it cannot listen or use its folders."""
    give_back_freed_memory()
    recent = logs.configure(settings.log_format, settings.log_level)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    unit = Systemd.from_environ(os.environ)
    faulthandler.enable()  # where it hung goes to the log when the watchdog ends it
    try:
        asyncio.run(_serve(_listening_as(unit, settings), recent, unit))
    except ConfigError:
        raise
    except Exception as error:
        safe_mode.note_panic(settings.state, error)
        raise


async def _serve(settings: Settings, recent: logs.Recent, unit: Systemd) -> None:
    if settings.broken_file:
        log.error("the settings of the last good start are in force: %s", settings.broken_file)
    for warning in settings.warnings:
        log.warning("%s", warning)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    leds = Leds(settings.led)
    await leds.open()
    library = Library(
        settings.models_dir, settings.state / MAPS_FOLDER, go_template=settings.go_template
    )
    state = ServiceState()
    models = Models(settings)
    known_time = KnownTime(settings.state)
    repositories = Repositories(settings.state / "trust", known_time.read)
    gate = Gate(settings, repositories)
    transfers = Transfers(settings, library, gate, models)
    chat = ChatService(library, models)
    database = Database(settings.state)
    network = Network()
    access = Access(settings, database, network, known_time.stamp)
    usage = Usage(database, settings.guest_tokens_per_day)
    bundles = Bundles(settings, library, models, chat, transfers, repositories)
    channels = Channels(settings, bundles, repositories)
    gate.vouched_by(bundles.vouch)
    library.guard_with(gate.require_serve)
    unit.extend_start(OPEN_LIMIT_S, "opening the store")
    await asyncio.to_thread(_open_library, settings, library, repositories, bundles)
    await asyncio.to_thread(known_time.load)
    await access.open(await asyncio.to_thread(unit.admin_key))
    enroller = Enroller(settings.state, repositories, access)
    await enroller.open()  # before anybody on the network can claim the box
    await usage.load()
    transfers.repairs.add_finder(ReleaseFinder(library, bundles, transfers))
    box = await asyncio.to_thread(Box.open, settings.state, settings.name)
    discovery = Discovery(settings, box, network, lambda: _facts(access, tls))
    tls = Tls(settings, box, here(network, lambda: discovery.box.host_name))
    network.on_change.append(tls.look_now)
    with suppress(OSError):  # the task that follows changes says it
        await network.read()  # before the first caller: who is near?
    care = Care(settings, library, models, transfers.repairs)
    self_test = SelfTest(settings, library, models, chat, care, repositories, discovery)
    models.on_format_error = lambda stored: care.check_now(stored.manifest.digests)
    library.on_format_error = partial(_check_from_thread, loop, care)
    metrics, incidents, device = Metrics(), Incidents(), Device(settings)
    transfers.pace.on_received = metrics.pull_bytes.add
    library.on_damage = partial(_count_from_thread, loop, metrics)
    pressure = Pressure(models, bundles, transfers.space, device, metrics, incidents)
    models.on_worker_end = pressure.note_worker_end
    transfers.space.make_room = pressure.make_room
    incidents.ended_badly = await asyncio.to_thread(ended_badly, settings.state)
    why_safe = await asyncio.to_thread(
        safe_mode.start,
        settings.state,
        ended_badly=incidents.ended_badly and unit.is_there,
    )
    _set_safe_mode(models, incidents, why_safe)
    if why_safe:
        log.error("safe mode: no model is loaded, as %s", why_safe)
        loop.call_later(safe_mode.LASTS_S, _set_safe_mode, models, incidents, "")
    care.check_now(await asyncio.to_thread(young_after_unclean_stop, settings.state, library))
    app = build_app(
        Parts(
            settings=settings,
            library=library,
            models=models,
            chat=chat,
            transfers=transfers,
            repositories=repositories,
            enroller=enroller,
            self_test=self_test,
            gate=gate,
            bundles=bundles,
            channels=channels,
            access=access,
            usage=usage,
            discovery=discovery,
            metrics=metrics,
            device=device,
            incidents=incidents,
            leds=leds,
            known_time=known_time,
            recent=recent,
            tls=tls,
            state=state,
        )
    )
    async with AsyncExitStack() as stack:
        stack.callback(unit.close)
        stack.push_async_callback(access.close)  # last: notes of the last requests are kept
        stack.push_async_callback(usage.close)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=CLOSE_TIMEOUT_S)
        await runner.setup()
        assert runner.server is not None  # there since setup
        limits = Limits.of(settings)
        door = Door(runner.server, limits)
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(transfers.close)
        stack.push_async_callback(bundles.close)
        stack.push_async_callback(channels.close)
        stack.push_async_callback(models.close)  # first: streams end with a word, not with a cut
        stack.callback(door.close)
        stack.callback(tls.close)
        address, bound = await _listen(door, settings, unit)
        await tls.open(runner.server, limits)
        stack.push_async_callback(discovery.close)
        state.port = bound[0][1]
        state.ready = True
        await asyncio.to_thread(last_good.keep, settings)
        unit.ready(_status(models, state))
        log.info("ready address=%s version=%s state=%s", address, version(), settings.state)
        async with asyncio.TaskGroup() as background:
            run = background.create_task
            visiting = run(door.run_forever())
            discovering = run(discovery.run_forever(bound))
            until_stop = [  # what begins work of its own
                run(network.run_forever()),
                run(care.run_forever()),
                run(self_test.run_forever()),
                run(channels.poll_forever()),
                run(app[LIVE].run_forever()),
                run(pressure.run_forever()),
                run(attend_forever(app)),
                run(_take_sticks(app[STICKS])),
            ]
            until_drained = [  # what the last requests still need
                visiting,
                run(tls.run_forever()),
                run(models.expire_forever()),
                run(access.run_forever()),
                run(usage.run_forever()),
                run(leds.run_forever()),
                run(
                    unit.feed_forever(lambda: _status(models, state), lambda: models.makes_progress)
                ),
            ]
            await stop.wait()
            unit.stopping(f"stopping, {_count(state.active, 'request')} may finish")
            if unit.sockets:
                visiting.cancel()  # who comes now waits in systemd's socket for the next start
            for task in (discovering, *until_stop):
                task.cancel()
            await asyncio.wait([discovering])
            run(discovery.close())  # nobody new is sent to us
            app[LIVE].close()
            await channels.close()
            await bundles.close()
            await transfers.close()  # what came is kept, so nobody waits for the rest
            await _drain(state, settings.drain_timeout_s)
            for task in until_drained:
                task.cancel()
    await asyncio.to_thread(end_well, settings.state)
    await asyncio.to_thread(safe_mode.end_well, settings.state)
    log.info("stopped")


async def _take_sticks(sticks: Sticks) -> None:
    """Where systemd gave us a runtime folder (systemd.exec(5)), its units bring sticks."""
    if folder := os.environ.get("RUNTIME_DIRECTORY"):
        await sticks.run_forever(Path(folder))


def _facts(access: Access, tls: Tls) -> Facts:
    """What strangers on the network are told of the box."""
    return Facts(
        version(),
        auth="open" if access.lan == "open" else "keys",
        state="owned" if access.is_claimed else "new",
        tls_port=tls.port if tls.fingerprint() else None,
        fingerprint=tls.fingerprint(),
    )


def _check_from_thread(loop: asyncio.AbstractEventLoop, care: Care, digest: Digest) -> None:
    loop.call_soon_threadsafe(care.check_now, [digest])


def _count_from_thread(loop: asyncio.AbstractEventLoop, metrics: Metrics, _: Digest) -> None:
    loop.call_soon_threadsafe(metrics.verification_failures.add, 1, "stored")


def _open_library(
    settings: Settings, library: Library, repositories: Repositories, bundles: Bundles
) -> None:
    """Have the model folder agree with the signed releases, swept and pruned; what is wrong with
    it is said, not fatal."""
    try:
        settings.state.mkdir(parents=True, exist_ok=True)
        bundles.reconcile()
        library.prune()
        sweep_partials(library.blobs)
        sweep_temps(settings.state)
        for folder in (BUNDLES_FOLDER, CHANNELS_FOLDER, MAPS_FOLDER):
            sweep_temps_below(settings.state / folder)
        repositories.sweep()
    except OSError as error:
        raise ConfigError(
            f"cannot use the state folder {settings.state}: {error.strerror}",
            hint="choose one that can be written with --state or HEARTH_STATE",
        ) from error
    install_once(library, settings.state)
    for problem in library.problems():
        log.warning("model skipped manifest=%s: %s", problem.path, problem.reason)


def _listening_as(unit: Systemd, settings: Settings) -> Settings:
    """The settings with the address that systemd listens on for us, if it does."""
    if not unit.sockets:
        return settings
    host, port = unit.sockets[0].getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if settings.origins.get("host", "default") != "default" and settings.host != address:
        log.warning(
            "host = %s is not used: hearth.socket listens on %s; to change that:"
            " systemctl edit hearth.socket",
            *(settings.host, address),
        )
    return replace(settings, host=address)


def _set_safe_mode(models: Models, incidents: Incidents, why: str) -> None:
    models.safe_mode = incidents.safe_mode = why


def _status(models: Models, state: ServiceState) -> str:
    """The line of `systemctl status`."""
    if models.safe_mode:
        return "safe mode: no model is loaded; see `hearth doctor`"
    names = ", ".join(model.name.short for model in models.loaded())
    return f"serving, {_count(state.active, 'request')} running, models loaded: {names or 'none'}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


async def _listen(
    door: Door, settings: Settings, unit: Systemd
) -> tuple[str, list[tuple[str, int]]]:
    """Open the port. Returns the address as a URL, with the real port if 0 was asked for, and all
    that is listened on: `[::]` is both families, as for Ollama."""
    host, port = settings.address
    try:
        bound = door.adopt(unit.sockets) if unit.sockets else await door.listen(host, port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise ConfigError(
            f"cannot listen on {settings.host}: {error.strerror}",
            hint="another program (Ollama?) has this port; stop it or choose another with --host"
            if taken
            else "choose an address of this machine with --host",
        ) from error
    bound_host, bound_port = bound[0]
    shown = f"[{bound_host}]" if ":" in bound_host else bound_host
    if host == "::":
        bound.append(("0.0.0.0", bound_port))  # noqa: S104 - what the socket is bound to
    return f"http://{shown}:{bound_port}", bound


async def _drain(state: ServiceState, timeout_s: float) -> None:
    """Refuse new requests and give the running ones `timeout_s` to finish."""
    state.draining = True
    log.info("draining requests=%d timeout_s=%g", state.active, timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            await state.finished()
    except TimeoutError:
        log.warning("stopping with requests=%d still running", state.active)
