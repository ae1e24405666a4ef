"""Channels that this box follows: asked from time to time, and their releases brought here.

A turn of a channel is: hear what it says, then bring each bundle in the version that it names
(channel_turn.py). Outside the window, and while the channel holds, nothing is begun; what is in the
middle when the window closes is stopped, and its bytes are kept for the next one. Releases that
were taken back are heard of at any hour. A channel also comes by medium, when a person imports one.
Costs nothing while nothing is followed.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime

from msgspec.structs import replace

from appliance.bundles.bundles import Bundles
from appliance.bundles.channel_document import (
    MAX_DOCUMENT_BYTES,
    ChannelDocument,
    Window,
)
from appliance.bundles.channel_state import (
    ChannelFiles,
    Followed,
    key_of,
    rest,
    split_key,
    take,
    wait_of,
)
from appliance.bundles.channel_turn import Turn
from appliance.bundles.resolve import Origin
from appliance.config import Settings
from appliance.errors import ApplianceError, LibraryError, NotFoundError
from appliance.threads import to_end
from appliance.transfer.jobs import SharedJobs, Title
from appliance.transfer.progress import Progress, Tell
from appliance.trust.repositories import Repositories

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

    def followed(self) -> Sequence[Followed]:
        """Those that can be read, in order of names. Blocking."""
        return self._files.all()[0]

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

    async def take(
        self, key: str, data: bytes, origin: Origin, *, retry: bool = False
    ) -> AsyncGenerator[Progress, None]:
        """Do what a document from a medium says, that its repository has signed for this channel;
        one that was not followed is from now on.

        A person stands there: neither the window nor a pause keeps it from being done, only `hold`
        does. Raises TrustError for what a followed channel may not say, RegistryUnreachableError
        when the medium is gone, and after all bundles had their turn the first error of one.
        """
        repository, channel = split_key(key)

        async def work(tell: Tell) -> None:
            async with self._lock(key):
                try:
                    followed = await asyncio.to_thread(self._files.get, key)
                except NotFoundError:
                    followed = Followed(repository, channel)
                document = await asyncio.to_thread(ChannelDocument.parse, data)
                followed = take(followed, document, data, self._now())
                turn = Turn(
                    self._bundles, followed, document, tell, lambda: None, origin, retry=retry
                )
                await to_end(self._files.put, await self._bring_all(turn))
            if turn.errors:
                raise turn.errors[0]

        job = f"{key} {origin.contents} {retry}"
        async with aclosing(self._jobs.follow(job, work, Title("import", key))) as lines:
            async for line in lines:
                yield line
        self._changed.set()

    async def poll_forever(self) -> None:
        """Take each channel's turn when it is due; sleeps until then, or until one is changed."""
        while True:
            self._changed.clear()
            channels = await asyncio.to_thread(self._polled)
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

    def _polled(self) -> Sequence[Followed]:
        """Those of repositories that have an address; the others come by media."""
        addresses: dict[str, str] = {}
        with contextlib.suppress(LibraryError):  # a damaged repository: then the turn tells
            addresses = {each.name: each.metadata_url for each in self._repositories.all()}
        channels, _ = self._files.all()
        return [each for each in channels if addresses.get(each.repository, "-")]

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

            def closes_in_s() -> float | None:
                return None if at_once else window.closes_in(self._local()).total_seconds()

            turn = Turn(self._bundles, followed, document, tell, closes_in_s)
            followed = await self._bring_all(turn)
        opens_in_s = window.opens_in(self._local()).total_seconds()
        followed = rest(followed, self._now(), self._poll_s, opens_in_s, self._chance())
        await to_end(self._files.put, followed)
        if problem is not None:
            raise problem

    async def _bring_all(self, turn: Turn) -> Followed:
        """The channel with what became of each bundle. What it says is noted before it is done."""
        await to_end(self._files.put, turn.followed)
        key = turn.followed.key
        turn.tell(Progress(f"{key} is at generation {turn.document.generation}"))
        outcomes = {}
        for bundle, version in sorted(turn.document.bundles.items()):
            outcome = await turn.bring(bundle, version)
            outcomes[bundle] = outcome
            turn.tell(Progress(f"{bundle} {version}: {outcome.state} {outcome.reason}".rstrip()))
        return replace(turn.followed, outcomes=outcomes)

    async def _heard(self, followed: Followed) -> Followed:
        """The channel with what its repository says now; raises TrustError, RegistryError."""
        repository = await asyncio.to_thread(self._repositories.get, followed.repository)
        data = await self._bundles.document(repository, followed.target, MAX_DOCUMENT_BYTES)
        document = await asyncio.to_thread(ChannelDocument.parse, data)
        return take(followed, document, data, self._now())

    def _key(self, text: str) -> str:
        enrolled = self._repositories.all()
        known = {one.name: (*one.addresses, one.metadata_url) for one in enrolled}
        addresses = {key: tuple(filter(None, several)) for key, several in known.items()}
        return key_of(text, addresses)

    def _lock(self, key: str) -> asyncio.Lock:
        return self._turning.setdefault(key, asyncio.Lock())

    def _local(self) -> datetime:
        return datetime.fromtimestamp(self._now()).astimezone()
