"""What the rest of the appliance asks for: pull this model, push that one, follow how it goes.

Owns the HTTP session to registries, the key pair and the running jobs. One job per model and
direction, shared by all who ask for it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import aiohttp

from appliance.config import Settings
from appliance.errors import RegistryUnreachableError
from appliance.library.library import Library
from appliance.transfer.identity import Identity
from appliance.transfer.jobs import SharedJobs
from appliance.transfer.partial import sweep_partials
from appliance.transfer.patience import Patience
from appliance.transfer.progress import Progress, Tell
from appliance.transfer.pull import Puller
from appliance.transfer.push import push
from appliance.transfer.registry import Registry, open_session
from appliance.transfer.sources import Reference, Source

KEY_FILE = "id_ed25519"
KEEP_PARTIALS_S = 30 * 86_400  # a download that nobody went on with for so long is given up
GIB = 1024**3


class Transfers:
    """Pulls and pushes of one service. `close` when it stops."""

    def __init__(self, settings: Settings, library: Library) -> None:
        self._settings = settings
        self._library = library
        self._patience = Patience.of(settings)
        self._identity = Identity(settings.state / KEY_FILE)
        self._puller = Puller(library, settings.transfer_parts, settings.max_blob_gib * GIB)
        self._jobs = SharedJobs()
        self._session: aiohttp.ClientSession | None = None

    def sweep(self) -> None:
        """Remove downloads that were given up long ago. Blocking; at start."""
        sweep_partials(self._library.blobs, KEEP_PARTIALS_S)

    async def pull(self, reference: Reference) -> AsyncGenerator[Progress, None]:
        """Install a model, or update it; the lines of Ollama's /api/pull.

        Raises RegistryError, DiskFullError and LibraryError, and ModelNameError for a host that
        cannot be one. Leaving cancels the pull unless others follow it; what came is kept.
        """
        sources = reference.sources(self._settings)

        async def work(tell: Tell) -> None:
            registries = [self._registry(source) for source in sources]
            async with self._deadline():
                await self._puller.pull(reference.name, registries, tell)

        key = f"pull {reference.name.full.lower()}"
        async with aclosing(self._jobs.follow(key, work)) as lines:
            async for line in lines:
                yield line

    async def push(self, reference: Reference) -> AsyncGenerator[Progress, None]:
        """Send a model to the registry that its name means; the lines of Ollama's /api/push.

        Raises as `pull` does, and ModelNotFoundError.
        """
        origin = reference.origin(self._settings)

        async def work(tell: Tell) -> None:
            async with self._deadline():
                await push(self._library, reference.name, self._registry(origin), tell)

        key = f"push {reference.name.full.lower()}"
        async with aclosing(self._jobs.follow(key, work)) as lines:
            async for line in lines:
                yield line

    async def close(self) -> None:
        """End what runs; partial downloads stay for the next start."""
        await self._jobs.close()
        if self._session is not None:
            await self._session.close()

    def _registry(self, source: Source) -> Registry:
        if self._session is None:
            self._session = open_session(self._patience)
        return Registry(source, self._session, self._identity, self._patience)

    def _deadline(self) -> "_Deadline":
        return _Deadline(self._patience.total_s)


class _Deadline:
    """`asyncio.timeout` whose end is a RegistryUnreachableError."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._timeout = asyncio.timeout(limit_s)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *raised: object) -> None:
        try:
            await self._timeout.__aexit__(*raised)  # type: ignore[arg-type]
        except TimeoutError as error:
            raise RegistryUnreachableError(
                f"not done after {self._limit_s:g} s; what was transferred is kept",
                hint="try again, or raise transfer_timeout_s",
            ) from error
