"""Channels that this box follows: asked from time to time, and their releases brought here.

A turn of a channel is: hear what it says, then install each bundle in the version that it names,
as `<namespace>/<model>:latest`, with the smoke tests and the way back of every install. Outside the
window, and while the channel holds, nothing is begun; what is in the middle when the window closes
is stopped, and its bytes are kept for the next one. Releases that were taken back are heard of at
any hour. Costs nothing while nothing is followed.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace as replace_line
from datetime import datetime

from msgspec.structs import replace

from appliance.bundles.bundles import Bundles
from appliance.bundles.channel_document import (
    MAX_DOCUMENT_BYTES,
    ChannelDocument,
    Window,
    name_of,
)
from appliance.bundles.channel_state import (
    ChannelFiles,
    Followed,
    Outcome,
    key_of,
    rest,
    split_key,
    take,
    wait_of,
)
from appliance.bundles.state import BundleState
from appliance.config import Settings
from appliance.errors import ActivationError, ApplianceError, NotFoundError
from appliance.library.names import ModelName
from appliance.threads import to_end
from appliance.transfer.jobs import SharedJobs, Title
from appliance.transfer.pace import limited
from appliance.transfer.progress import Progress, Tell
from appliance.trust.repositories import Repositories
from engine.errors import EngineError

log = logging.getLogger("hearth.channels")

FOLDER = "channels"  # in the state folder


class Channels:
    """Start `poll_forever` as a task; call `close` at the end."""

    def __init__(
        self,
        settings: Settings,
        bundles: Bundles,
        repositories: Repositories,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._poll_s = settings.channel_poll
        self._own_window = settings.channel_window
        self._bundles = bundles
        self._repositories = repositories
        self._now = now
        self._chance = chance
        self._files = ChannelFiles(settings.state / FOLDER)
        self._jobs = SharedJobs()
        self._turning: dict[str, asyncio.Lock] = {}
        self._changed = asyncio.Event()

    # -- what people ask for ----------------------------------------------------------------

    async def list(self) -> tuple["list[Followed]", "list[str]"]:
        """What is followed, and what is damaged."""
        return await asyncio.to_thread(self._files.all)

    async def follow(self, text: str) -> Followed:
        """Follow `REPOSITORY/CHANNEL`, or an address of it, from now on; not twice.

        Raises BadRequestError, NotFoundError for a repository that is not enrolled, and what the
        repository's answer is refused with: only a channel that exists can be followed.
        """
        key = await asyncio.to_thread(self._key, text)
        repository, channel = split_key(key)
        async with self._lock(key):
            try:
                return await asyncio.to_thread(self._files.get, key)
            except NotFoundError:
                followed = await self._heard(Followed(repository, channel))
            await to_end(self._files.put, followed)
        log.info("following channel=%s", key)
        self._changed.set()
        return followed

    async def unfollow(self, text: str) -> None:
        """What it installed stays. Raises BadRequestError, NotFoundError."""
        key = await asyncio.to_thread(self._key, text)
        async with self._lock(key):
            await to_end(self._files.remove, key)
        self._changed.set()

    async def pause(self, text: str, *, is_paused: bool) -> Followed:
        """Ask and install nothing until it goes on. Raises BadRequestError, NotFoundError."""
        key = await asyncio.to_thread(self._key, text)
        async with self._lock(key):
            followed = await asyncio.to_thread(self._files.get, key)
            followed = replace(followed, is_paused=is_paused, due_s=0.0)
            await to_end(self._files.put, followed)
        self._changed.set()
        return followed

    async def check(self, text: str, *, at_once: bool = False) -> AsyncGenerator[Progress, None]:
        """Take a turn now, also of a paused channel; `at_once` also outside the window.

        The lines of each install, with its bundle in front. Raises what kept the channel from
        being heard; how each bundle fared is told by `list`.
        """
        key = await asyncio.to_thread(self._key, text)
        await asyncio.to_thread(self._files.get, key)

        async def work(tell: Tell) -> None:
            async with self._lock(key):
                await self._turn(key, tell, at_once=at_once)
            tell(Progress("success"))

        title = Title("check", key)
        async with aclosing(self._jobs.follow(f"{key} {at_once}", work, title)) as lines:
            async for line in lines:
                yield line
        self._changed.set()

    async def poll_forever(self) -> None:
        """Take each channel's turn when it is due; sleeps until then, or until one is changed."""
        while True:
            self._changed.clear()
            channels, _ = await self.list()
            waits = {each.key: wait_of(each, self._now(), self._poll_s) for each in channels}
            due = [key for key, wait_s in waits.items() if wait_s == 0]
            for key in due:
                await self._poll(key)
            if due:
                continue
            wait_s = min(waits.values(), default=float("inf"))
            try:
                async with asyncio.timeout(None if wait_s == float("inf") else wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """End what runs; it goes on at the next start."""
        await self._jobs.close()

    # -- one turn ---------------------------------------------------------------------------

    async def _poll(self, key: str) -> None:
        try:
            async with aclosing(self.check(key)) as lines:
                async for _ in lines:
                    pass
        except ApplianceError as error:
            log.warning("channel not heard channel=%s code=%s: %s", key, error.code, error)

    async def _turn(self, key: str, tell: Tell, *, at_once: bool) -> None:
        followed = await asyncio.to_thread(self._files.get, key)
        problem: ApplianceError | None = None
        try:
            followed = await self._heard(followed)
        except ApplianceError as error:
            problem, followed = error, replace(followed, problem=str(error))
        document = followed.document
        window = Window.parse(self._own_window or (document.window if document else ""))
        if problem is None and document is not None:
            await to_end(self._files.put, followed)
            tell(Progress(f"{key} is at generation {document.generation}"))
            outcomes = {}
            for bundle, version in sorted(document.bundles.items()):
                outcome = await self._bring(followed, bundle, version, window, tell, at_once)
                outcomes[bundle] = outcome
                tell(Progress(f"{bundle} {version}: {outcome.state} {outcome.reason}".rstrip()))
            followed = replace(followed, outcomes=outcomes)
        opens_in_s = window.opens_in(self._local()).total_seconds()
        followed = rest(followed, self._now(), self._poll_s, opens_in_s, self._chance())
        await to_end(self._files.put, followed)
        if problem is not None:
            raise problem

    async def _heard(self, followed: Followed) -> Followed:
        """The channel with what its repository says now; raises TrustError, RegistryError."""
        repository = await asyncio.to_thread(self._repositories.get, followed.repository)
        data = await self._bundles.document(repository, followed.target, MAX_DOCUMENT_BYTES)
        document = await asyncio.to_thread(ChannelDocument.parse, data)
        return take(followed, document, data, self._now())

    async def _bring(
        self,
        followed: Followed,
        bundle: str,
        version: str,
        window: Window,
        tell: Tell,
        at_once: bool,
    ) -> Outcome:
        """Have one bundle in the version that the channel names, if it may be now."""
        name, document = name_of(bundle), followed.document
        assert document is not None
        try:
            state = await asyncio.to_thread(self._state, name)
            if obstacle := await asyncio.to_thread(self._obstacle, followed, name, version, state):
                return Outcome(version, "failed", obstacle)
            left_s = None if at_once else window.closes_in(self._local()).total_seconds()
            if left_s == 0 or document.hold:
                return await self._look(name, version, state, is_held=document.hold)
            with limited(document.down_kbps):
                async with asyncio.timeout(left_s):
                    await self._install(name, bundle, version, tell)
        except TimeoutError:
            return Outcome(version, "waiting", "the window closed; what came is kept")
        except ActivationError as error:
            return Outcome(version, "failed", str(error))
        except (ApplianceError, EngineError) as error:
            return Outcome(version, "waiting", str(error))
        return await self._reached(name, version)

    async def _install(self, name: ModelName, bundle: str, version: str, tell: Tell) -> None:
        async with aclosing(self._bundles.install(name, version=version)) as lines:
            async for line in lines:
                tell(replace_line(line, status=f"{bundle} {version}: {line.status}"))

    async def _look(
        self, name: ModelName, version: str, state: BundleState | None, *, is_held: bool
    ) -> Outcome:
        """Install nothing, but hear whether what serves was taken back."""
        if state is not None:
            await self._bundles.check(name)
        outcome = await self._reached(name, version)
        if outcome.state == "active":
            return outcome
        return Outcome(version, "waiting", "the channel holds" if is_held else "for its window")

    async def _reached(self, name: ModelName, version: str) -> Outcome:
        """What the box has; another install of the name may have run at the same time."""
        state = await asyncio.to_thread(self._state, name)
        active = state.active if state else None
        if active is not None and active.version == version:
            return Outcome(version, "active")
        return Outcome(version, "waiting", f"{active.version if active else 'nothing'} is active")

    def _obstacle(
        self, followed: Followed, name: ModelName, version: str, state: BundleState | None
    ) -> str:
        """Why the channel has no say in this, or empty."""
        owner = self._bundles.owner(name)
        if owner is None or owner.name != followed.repository:
            signer = owner.name if owner else "nobody"
            return f"{name.short} belongs to {signer}, not to {followed.repository}"
        if state is not None and state.pinned not in {"", version}:
            return f"an administrator pinned it to {state.pinned}"
        return ""

    def _state(self, name: ModelName) -> BundleState | None:
        try:
            return self._bundles.state(name)
        except NotFoundError:
            return None

    def _key(self, text: str) -> str:
        enrolled = self._repositories.all()
        known = {one.name: (*one.addresses, one.metadata_url) for one in enrolled}
        addresses = {key: tuple(filter(None, several)) for key, several in known.items()}
        return key_of(text, addresses)

    def _lock(self, key: str) -> asyncio.Lock:
        return self._turning.setdefault(key, asyncio.Lock())

    def _local(self) -> datetime:
        return datetime.fromtimestamp(self._now()).astimezone()
