"""Which models are in memory: leases, keep-alive, room for new ones.

The one owner of workers. Knows nothing of prompts, dialects or what is generated.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from appliance.config import Settings
from appliance.errors import OverloadedError
from appliance.hardware import read_memory
from appliance.library.names import ModelName
from appliance.library.stored import StoredModel
from appliance.models.planner import Need, Occupant, make_room
from appliance.models.resident import Lease, Resident
from appliance.models.spec import load_spec, memory_need
from engine.api import LoadSpec
from engine.errors import EngineError
from engine.process.client import EngineClient

log = logging.getLogger("hearth.models")

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, as /api/ps shows it."""

    name: ModelName
    stored: StoredModel
    size_bytes: int
    size_vram_bytes: int
    context_length: int  # tokens
    expires_at: datetime | None  # None: kept for ever
    engine: str
    slots: int
    running: int
    waiting: int


class Models:
    """All residents. Start `expire_forever` as a task; call `close` at the end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._residents: dict[ModelName, Resident] = {}
        self._admission = asyncio.Lock()  # one decision about memory, and its load, at a time
        self._changed = asyncio.Event()
        self._leaving: set[EngineClient] = set()  # told to stop; their memory is not free yet
        self._is_closed = False

    @asynccontextmanager
    async def lease(
        self,
        stored: StoredModel,
        options: Mapping[str, Any],
        *,
        keep_alive: float | None = None,
        caller: str = "",
    ) -> AsyncGenerator[Lease, None]:
        """Hold a slot of the loaded model; it stays loaded for `keep_alive` seconds afterwards.

        Raises OverloadedError (queue full, no room beside busy models, or closed), MemoryFitError
        (never fits) and EngineError (cannot be loaded).
        """
        header = await asyncio.to_thread(stored.header)
        spec = load_spec(stored, header, options, self._settings)
        need = memory_need(spec, header)
        resident = self._residents.get(stored.name)
        if resident is None:
            resident = Resident(stored.name, self._settings.max_queue)
            self._residents[stored.name] = resident

        async def load() -> EngineClient:
            return await self._load(resident, spec, need)

        seconds = self._settings.keep_alive if keep_alive is None else keep_alive
        try:
            async with resident.lease(spec, stored, caller, load) as lease:
                resident.keep_alive_s = seconds
                yield lease
        finally:
            self._changed.set()

    def loaded(self) -> list[LoadedModel]:
        """Models with a living worker, those that stay longest first."""
        found = [
            self._describe(resident, resident.client, resident.stored)
            for resident in self._residents.values()
            if resident.client is not None and resident.stored is not None
        ]
        far = datetime.max.replace(tzinfo=UTC)
        return sorted(found, key=lambda m: m.expires_at or far, reverse=True)

    async def unload(self, name: ModelName) -> None:
        """Free the model's memory: at once if idle, else when its running requests have ended."""
        resident = self._residents.get(name)
        if resident is None:
            return
        if resident.is_evictable:
            await self._evict([resident], "asked to")
        else:
            resident.leave_when_idle()

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
            await self._make_room(resident.name, need)
            try:
                client = await EngineClient.start(spec, timeout_s=self._settings.load_timeout_s)
            except EngineError as error:
                log.warning("load failed model=%s error=%s", resident.name.short, error)
                raise
        if self._is_closed:
            await client.close()
            self._refuse_when_closed()
        info = client.info
        resident.need_bytes = need.total_bytes
        log.info(
            "loaded model=%s engine=%s context=%d threads=%d load_ms=%d estimate=%r %s",
            *(resident.name.short, info.engine, info.context_length, info.threads),
            *(info.load_ns // 1_000_000, str(need), info.description),
        )
        return client

    def _refuse_when_closed(self) -> None:
        if self._is_closed:
            raise OverloadedError("the service is stopping, please try again")

    async def _make_room(self, name: ModelName, need: Need) -> None:
        await asyncio.gather(*(client.wait_ended() for client in self._leaving))
        memory = await asyncio.to_thread(read_memory)
        others = {
            r.name.short: r
            for r in self._residents.values()
            if r.client is not None and r.name != name
        }
        occupants = [
            Occupant(short, r.need_bytes, r.is_evictable, r.idle_since)
            for short, r in others.items()
        ]
        reserve = self._settings.memory_reserve_mib * MIB
        limit = self._settings.max_loaded_models
        leaving = make_room(name.short, need, memory, reserve, occupants, limit)
        await self._evict([others[short] for short in leaving], f"making room for {name.short}")

    async def _evict(self, residents: Sequence[Resident], why: str) -> None:
        """Unload idle models. All are detached first: none can be leased while another one ends."""
        clients = set()
        for resident in residents:
            if (client := resident.detach()) is not None:
                log.info("unloading model=%s why=%r", resident.name.short, why)
                clients.add(client)
        self._leaving |= clients
        try:
            await asyncio.gather(*(client.close() for client in clients))
        finally:
            self._leaving -= clients

    def _describe(
        self, resident: Resident, client: EngineClient, stored: StoredModel
    ) -> LoadedModel:
        remaining = resident.expires_in(time.monotonic())
        expires_at = None
        if remaining != float("inf"):
            expires_at = datetime.now(UTC) + timedelta(seconds=remaining)
        return LoadedModel(
            name=resident.name,
            stored=stored,
            size_bytes=resident.need_bytes,
            size_vram_bytes=0,
            context_length=client.info.context_length,
            expires_at=expires_at,
            engine=client.info.engine,
            slots=client.info.slots,
            running=resident.queue.running,
            waiting=resident.queue.waiting,
        )
