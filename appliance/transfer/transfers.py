"""What the rest of the appliance asks for: pull this model, push that one, follow how it goes.

Owns the HTTP session to registries, the key pair and the running jobs. One job per model and
direction, shared by all who ask for it.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing

import aiohttp
from yarl import URL

from appliance.config import Settings
from appliance.errors import RegistryUnreachableError
from appliance.library.library import Library
from appliance.library.scrub import Damage
from appliance.library.space import Space
from appliance.transfer.contents import NetworkContent
from appliance.transfer.gather import Gatherer
from appliance.transfer.identity import Identity
from appliance.transfer.jobs import SharedJobs, Title
from appliance.transfer.opener import Opener
from appliance.transfer.pace import Activity, Pace
from appliance.transfer.patience import Patience
from appliance.transfer.progress import Progress, Tell
from appliance.transfer.proxies import Proxies
from appliance.transfer.pull import Puller
from appliance.transfer.push import push
from appliance.transfer.registry import Registry, open_session
from appliance.transfer.repair import RegistryRepairer, Repairer, Repairs
from appliance.transfer.sources import Reference, Source
from appliance.trust.gate import Gate
from appliance.trust.policy import Verdict

KEY_FILE = "id_ed25519"
GIB = 1024**3


class Transfers:
    """Pulls and pushes of one service. `close` when it stops."""

    def __init__(
        self, settings: Settings, library: Library, gate: Gate, activity: Activity | None = None
    ) -> None:
        """activity  who tells when pulls should rest"""
        self._settings = settings
        self._library = library
        self._gate = gate
        self._patience = Patience.of(settings)
        self._identity = Identity(settings.state / KEY_FILE)
        self.space = Space(library.blobs.root, settings.disk_reserve_mib)
        self.gatherer = Gatherer(library, self.space)
        self._puller = Puller(
            library, settings.transfer_parts, settings.max_blob_gib * GIB, self.gatherer, gate
        )
        self.repairs = Repairs(library, self.gatherer)
        self.repairs.add_finder(self._repairers)
        self.pace = Pace.of(settings, activity, time.monotonic)
        self.jobs = SharedJobs()
        self._session: aiohttp.ClientSession | None = None

    async def pull(
        self, reference: Reference, *, confirmed: bool = False, is_kept: bool = False
    ) -> AsyncGenerator[Progress, None]:
        """Install a model, or update it; the lines of Ollama's /api/pull.

        Raises PolicyRefusedError (before anything is asked, where the registry is not listed or
        a person has to confirm), RegistryError, DiskFullError and LibraryError, and ModelNameError
        for a host that cannot be one. Leaving cancels the pull unless others follow it or somebody
        said `is_kept`; what came is kept.
        """
        sources = await asyncio.to_thread(self._allowed, reference, confirmed)

        async def work(tell: Tell) -> None:
            registries = [self._registry(source) for source in sources]
            pulling = self._puller.pull(reference.name, registries, tell, confirmed=confirmed)
            await self._within_limit(pulling)

        # who did not confirm must not stop who did
        verb = "pull confirmed" if confirmed else "pull"
        key = f"{verb} {reference.name.full.lower()}"
        title = Title("pull", reference.name.short)
        async with aclosing(self.jobs.follow(key, work, title, is_kept=is_kept)) as lines:
            async for line in lines:
                yield line

    async def push(self, reference: Reference) -> AsyncGenerator[Progress, None]:
        """Send a model to the registry that its name means; the lines of Ollama's /api/push.

        Raises as `pull` does, and ModelNotFoundError.
        """
        origin = reference.origin(self._settings)

        async def work(tell: Tell) -> None:
            registry = self._registry(origin)
            await self._within_limit(push(self._library, reference.name, registry, tell))

        key = f"push {reference.name.full.lower()}"
        title = Title("push", reference.name.short)
        async with aclosing(self.jobs.follow(key, work, title)) as lines:
            async for line in lines:
                yield line

    def contents(self, addresses: Sequence[str]) -> tuple[NetworkContent, ...]:
        """The network sources of signed releases at these addresses, in order."""
        parts = self._settings.transfer_parts
        return tuple(NetworkContent(address, self._registry, parts) for address in addresses)

    def opener(self) -> Opener:
        """For small files outside; call it on the event loop."""
        return Opener(self.session, self.proxies)

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session to everything outside; open it on the event loop."""
        if self._session is None:
            self._session = open_session(self._patience)
        return self._session

    @property
    def proxies(self) -> Proxies:
        """Through whom to reach the outside; raises ConfigError for a proxy that is none."""
        return Proxies.of(self._settings.transfer_proxy, os.environ)

    async def close(self) -> None:
        """End what runs; partial downloads stay for the next start."""
        await self.jobs.close()
        if self._session is not None:
            await self._session.close()

    def _allowed(self, reference: Reference, confirmed: bool) -> list[Source]:
        """The registries that may be asked, in order; raises PolicyRefusedError if none may."""
        asked = [
            (source, self._gate.decide_pull(reference.name, source.base))
            for source in reference.sources(self._settings)
        ]
        allowed = [pair for pair in asked if pair[1].verdict is not Verdict.REFUSE]
        _, decision = allowed[0] if allowed else asked[-1]
        decision.require(confirmed=confirmed)
        return [source for source, _ in allowed]

    def _registry(self, source: Source) -> Registry:
        patience, pace = self._patience, self.pace
        return Registry(source, self.session, self._identity, patience, pace, self.proxies)

    async def _repairers(self, damage: Damage, is_asked_for: bool) -> list[Repairer]:
        """Registries that may have a damaged blob: whoever gave it, then those that the models'
        names mean. Of models that were never fetched these are only asked if a person wants it:
        the names of private models are nobody's business."""
        sources: list[Source] = []
        for name in damage.models:
            given = await asyncio.to_thread(self._library.fetched_from, name)
            repository = f"{name.namespace}/{name.model}"
            sources += [Source(URL(address), repository) for address in given]
            if given or is_asked_for:
                sources += Reference(name, "", False).sources(self._settings)
        parts = self._settings.transfer_parts
        return [RegistryRepairer(self._registry(s), parts) for s in dict.fromkeys(sources)]

    async def _within_limit(self, transfer: Awaitable[None]) -> None:
        limit_s = self._patience.total_s
        try:
            async with asyncio.timeout(limit_s):
                await transfer
        except TimeoutError as error:
            raise RegistryUnreachableError(
                f"not done after {limit_s:g} s; what was transferred is kept",
                hint="try again, or raise transfer_timeout_s",
            ) from error
