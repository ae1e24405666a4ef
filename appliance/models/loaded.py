"""What is told of models in memory: each as a value, their demand, and whether any is in use."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from appliance.library.names import ModelName
from appliance.library.stored import StoredModel
from appliance.models.resident import Resident
from engine.process.client import EngineClient


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


@dataclass(frozen=True, slots=True)
class Demand:
    """How many requests a model has, also while it is being loaded."""

    name: ModelName
    running: int
    waiting: int
    slots: int
    is_loaded: bool


class InUse:
    """How many requests hold a model just now; `none` and `some` are set while that is so."""

    def __init__(self) -> None:
        self.count = 0
        self.none = asyncio.Event()
        self.none.set()
        self.some = asyncio.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Count one request for as long as the context is held."""
        self.count += 1
        self.none.clear()
        self.some.set()
        try:
            yield
        finally:
            self.count -= 1
            if not self.count:
                self.none.set()
                self.some.clear()


def describe(resident: Resident, client: EngineClient, stored: StoredModel) -> LoadedModel:
    """A resident with a living worker, as people see it."""
    remaining = resident.expires_in(time.monotonic())
    expires_at = None
    if remaining != float("inf"):
        expires_at = datetime.now(UTC) + timedelta(seconds=remaining)
    return LoadedModel(
        name=resident.name,
        stored=stored,
        size_bytes=resident.need.total_bytes,
        size_vram_bytes=resident.need.total_bytes - resident.need.host_bytes,
        context_length=client.info.context_length,
        expires_at=expires_at,
        engine=client.info.engine,
        slots=client.info.slots,
        running=resident.queue.running,
        waiting=resident.queue.waiting,
    )
