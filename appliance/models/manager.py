"""Which models are in memory: leases, keep-alive, room for new ones.

The one owner of workers. Knows nothing of prompts, dialects or what is generated.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from appliance.access.shares import BOX, Path
from appliance.config import Settings
from appliance.errors import ApplianceError, MemoryFitError, OverloadedError, UnsupportedError
from appliance.hardware import Memory, read_memory
from appliance.library.names import ModelName
from appliance.library.stored import StoredModel
from appliance.models.choice import Choice, Machine, choose_engine, read_machine, wishes_of
from appliance.models.loaded import Demand, InUse, LoadedModel, describe
from appliance.models.planner import MIB, Need, Occupant, Plan, make_room, shrink_kv
from appliance.models.resident import Lease, Resident
from appliance.models.spec import load_spec, memory_need, with_budget
from engine.api import LoadSpec
from engine.errors import EngineError, ModelFormatError
from engine.process.client import EngineClient

log = logging.getLogger("hearth.models")

SAFE_RETRY_S = 300
STUCK_S = 60.0  # for workers that end and for the decision, beyond the time to load


class Models:
    """All residents. Start `expire_forever` as a task; call `close` at the end.

    Raises ConfigError when `model_engines` names something that no model can be called.
    """

    def __init__(self, settings: Settings, machine: Machine | None = None) -> None:
        """machine  what engines may be chosen from; None: looked up once, when first needed"""
        wishes_of(settings)
        self._settings = settings
        self._machine = machine
        self._residents: dict[ModelName, Resident] = {}
        self._admission = asyncio.Lock()  # one decision about memory, and its load, at a time
        self._changed = asyncio.Event()
        self._leaving: set[EngineClient] = set()  # told to stop; their memory is not free yet
        self._is_closed = False
        self._in_use = InUse()
        self.on_format_error: Callable[[StoredModel], None] = lambda _: None
        self.on_change: Callable[[], None] = lambda: None  # a queue moved, a worker came or went
        self.on_worker_end: Callable[[ModelName, EngineError], None] = lambda *_: None
        self._max_slots: int | None = None
        self.safe_mode = ""  # why no model may be used; empty: they may
        self._admitting_since: float | None = None  # time.monotonic()

    @property
    def makes_progress(self) -> bool:
        """False when one load takes so much longer than it may that nobody will end it."""
        limit_s = 2 * self._settings.load_timeout_s + STUCK_S
        return self._admitting_since is None or (time.monotonic() - self._admitting_since < limit_s)

    @property
    def is_generating(self) -> bool:
        """Whether any request holds a model just now."""
        return self._in_use.count > 0

    async def wait_quiet(self) -> None:
        """Return as soon as no request holds a model."""
        await self._in_use.none.wait()

    async def wait_generating(self) -> None:
        """Return as soon as a request holds a model."""
        await self._in_use.some.wait()

    @asynccontextmanager
    async def lease(
        self,
        stored: StoredModel,
        options: Mapping[str, Any],
        *,
        keep_alive: float | None = None,
        share: Path = BOX,
        place: ModelName | None = None,
    ) -> AsyncGenerator[Lease, None]:
        """Hold a slot of the loaded model; it stays loaded for `keep_alive` seconds afterwards.

        `place` is the name that it is loaded and unloaded under, if not its own: a second model of
        one name must not take the first one's worker.

        `share` is whose turn it is in the queue.

        Raises OverloadedError (queue full, no room beside busy models, or closed), RateLimitedError
        (too many wait of this share), MemoryFitError (never fits), UnsupportedError (not by the
        engine that the settings ask for) and EngineError (cannot be loaded). A file that may be
        damaged is told to `on_format_error`.
        """
        if self.safe_mode:
            raise OverloadedError(
                f"this box is in safe mode and loads no model: {self.safe_mode}",
                retry_after_s=SAFE_RETRY_S,
                hint="see `hearth doctor`; models are loaded again in half an hour, or at once"
                " after `systemctl restart hearth`",
            )
        choice, spec, need = await asyncio.to_thread(self._prepare, stored, options)
        if refusal := _refusal(stored.name, choice):
            raise refusal
        place = place or stored.name
        resident = self._residents.get(place)
        if resident is None:
            resident = self._residents[place] = Resident(place, self._settings.max_queue)
            resident.limit_slots(self._max_slots)

        async def load() -> EngineClient:
            try:
                return await self._load(resident, spec, need)
            except ModelFormatError:
                self.on_format_error(stored)
                raise

        seconds = self._settings.keep_alive if keep_alive is None else keep_alive
        self.on_change()
        try:
            async with resident.lease(spec, stored, share, load) as lease:
                resident.keep_alive_s = seconds
                with self._in_use.held():
                    self.on_change()
                    yield lease
        finally:
            self._changed.set()
            self.on_change()

    def loaded(self) -> list[LoadedModel]:
        """Models with a living worker, those that stay longest first."""
        found = [
            describe(resident, resident.client, resident.stored)
            for resident in self._residents.values()
            if resident.client is not None and resident.stored is not None
        ]
        far = datetime.max.replace(tzinfo=UTC)
        return sorted(found, key=lambda m: m.expires_at or far, reverse=True)

    def demand(self) -> list[Demand]:
        """The models that somebody runs or waits for."""
        return [
            Demand(r.name, queue.running, queue.waiting, queue.slots, r.client is not None)
            for r in self._residents.values()
            if (queue := r.queue).running or queue.waiting
        ]

    async def plan(self, stored: StoredModel, options: Mapping[str, Any]) -> Plan:
        """What a lease would do now, and why; nothing is loaded. Raises as `header` does."""
        choice, spec, need = await asyncio.to_thread(self._prepare, stored, options)
        memory = await asyncio.to_thread(read_memory)
        own = self._residents.get(stored.name)
        if is_loaded := own is not None and own.client is not None:
            memory = replace(memory, available=memory.available + own.need.host_bytes)
        leaving: list[str] = []
        refusal: ApplianceError | None = _refusal(stored.name, choice)
        others = [occupant for occupant, _ in self._occupants(stored.name)]
        if not refusal:
            try:
                need, leaving = self._fit(stored.name, need, memory, others)
            except (MemoryFitError, OverloadedError) as error:
                refusal = error
        return Plan(
            engine=choice.engine,
            reasons=choice.reasons,
            context_length=spec.context_length,
            need=need,
            memory=memory,
            reserve_bytes=self._reserve_bytes,
            leaving=tuple(leaving),
            is_loaded=is_loaded,
            refusal=str(refusal) if refusal else "",
        )

    def served_as(self, stored: StoredModel, options: Mapping[str, Any]) -> tuple[str, int]:
        """The engine that would run the model, and its context length in tokens. Reads the disk, so
        it runs in a thread; raises as `header` does."""
        choice, spec, _ = self._prepare(stored, options)
        return choice.engine, spec.context_length

    async def unload(self, name: ModelName) -> None:
        """Free the model's memory: at once if idle, else when its running requests have ended."""
        resident = self._residents.get(name)
        if resident is None:
            return
        if resident.is_evictable:
            await self._evict([resident], "asked to")
        else:
            resident.leave_when_idle()

    async def unload_idle(self, why: str) -> list[str]:
        """Unload every model that nobody uses just now; the names."""
        idle = [resident for resident in self._residents.values() if resident.is_evictable]
        await self._evict(idle, why)
        return [resident.name.short for resident in idle]

    def limit_slots(self, most: int | None) -> None:
        """Let each model serve at most so many requests at once, None: as many as it can. What
        runs is not touched."""
        self._max_slots = most
        for resident in self._residents.values():
            resident.limit_slots(most)

    def queues(self) -> dict[str, tuple[int, int]]:
        """Requests that run and that wait, by model, those that wait for loading included."""
        return {
            resident.name.short: (resident.queue.running, resident.queue.waiting)
            for resident in self._residents.values()
        }

    async def engine_stats(self, engine: str, timeout_s: float) -> dict[str, dict[str, Any]]:
        """Counters of the loaded engines of that kind, by model; of those that answer in time."""
        found: dict[str, dict[str, Any]] = {}
        for resident in list(self._residents.values()):
            client = resident.client
            if client is not None and client.info.engine == engine:
                with suppress(EngineError, TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        found[resident.name.short] = await client.stats()
        return found

    async def expire_forever(self) -> None:
        """Unload models whose keep-alive has passed; sleeps until the next one is due."""
        while True:
            self._changed.clear()
            now = time.monotonic()
            due = [r for r in self._residents.values() if r.is_evictable and r.expires_at <= now]
            if due:
                await self._evict(due, "keep-alive passed")
                continue
            waits = [
                r.expires_at - now
                for r in self._residents.values()
                if r.is_evictable and r.expires_at != float("inf")
            ]
            try:
                async with asyncio.timeout(max(0.0, min(waits)) if waits else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """End all workers, also busy ones: their requests fail with one error, later ones too."""
        self._is_closed = True
        clients = [client for r in self._residents.values() if (client := r.detach())]
        await asyncio.gather(*(client.close("the service is stopping") for client in clients))

    async def _load(self, resident: Resident, spec: LoadSpec, need: Need) -> EngineClient:
        async with self._admission:
            self._refuse_when_closed()
            self._admitting_since = time.monotonic()
            try:
                need = await self._make_room(resident.name, need)
                orders = with_budget(spec, need)
                client = await EngineClient.start(
                    orders,
                    timeout_s=self._settings.load_timeout_s,
                    private=(self._settings.state, self._settings.models_dir),
                )
            except EngineError as error:
                log.warning("load failed model=%s error=%s", resident.name.short, error)
                raise
            finally:
                self._admitting_since = None
        if self._is_closed:
            await client.close()
            self._refuse_when_closed()
        client.when_ended(lambda error: self.on_worker_end(resident.name, error))
        info = client.info
        resident.need = need
        log.info(
            "loaded model=%s engine=%s context=%d threads=%d load_ms=%d estimate=%r %s",
            *(resident.name.short, info.engine, info.context_length, info.threads),
            *(info.load_ns // 1_000_000, str(need), info.description),
        )
        return client

    def _refuse_when_closed(self) -> None:
        if self._is_closed:
            raise OverloadedError("the service is stopping, please try again")

    def _prepare(
        self, stored: StoredModel, options: Mapping[str, Any]
    ) -> tuple[Choice, LoadSpec, Need]:
        """Engine, orders and need; reads the disk."""
        header = stored.header()
        if self._machine is None:
            self._machine = read_machine()
        adapted = bool(stored.adapter_paths)
        choice = choose_engine(
            stored.name,
            header,
            self._settings,
            self._machine,
            has_adapters=adapted,
            sees=(eye := stored.eye_header()) is not None,
        )
        spec = load_spec(stored, header, options, self._settings, choice.engine)
        return choice, spec, memory_need(spec, header, choice.gpu, eye)

    async def _make_room(self, name: ModelName, need: Need) -> Need:
        """Unload what must go; returns the need that there is room for now."""
        await asyncio.gather(*(client.wait_ended() for client in self._leaving))
        memory = await asyncio.to_thread(read_memory)
        others = {o.name: (o, resident) for o, resident in self._occupants(name)}
        need, leaving = self._fit(name, need, memory, [o for o, _ in others.values()])
        await self._evict([others[short][1] for short in leaving], f"making room for {name.short}")
        return need

    def _occupants(self, newcomer: ModelName) -> list[tuple[Occupant, Resident]]:
        """Everybody else in memory."""
        return [
            (Occupant(r.name.short, r.need.host_bytes, r.is_evictable, r.idle_since), r)
            for r in self._residents.values()
            if r.client is not None and r.name != newcomer
        ]

    def _fit(
        self, name: ModelName, need: Need, memory: Memory, others: Sequence[Occupant]
    ) -> tuple[Need, list[str]]:
        reserve = self._reserve_bytes
        need = shrink_kv(need, memory, reserve, others)
        limit = self._settings.max_loaded_models
        return need, make_room(name.short, need, memory, reserve, others, limit)

    @property
    def _reserve_bytes(self) -> int:
        return self._settings.memory_reserve_mib * MIB

    async def _evict(self, residents: Sequence[Resident], why: str) -> None:
        """Unload idle models. All are detached first: none can be leased while another one ends."""
        clients = set()
        for resident in residents:
            if (client := resident.detach()) is not None:
                log.info("unloading model=%s why=%r", resident.name.short, why)
                clients.add(client)
        self._leaving |= clients
        self.on_change()
        try:
            await asyncio.gather(*(client.close() for client in clients))
        finally:
            self._leaving -= clients


def _refusal(name: ModelName, choice: Choice) -> UnsupportedError | None:
    if not choice.obstacle:
        return None
    return UnsupportedError(
        f"{name.short} cannot run on the {choice.engine} engine: {choice.obstacle}",
        hint="let it run on another with the setting model_engines, e.g."
        f" '{name.short}=llama'; `hearth show --why {name.short}` tells more",
    )
