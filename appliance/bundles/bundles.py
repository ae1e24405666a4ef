"""The signed models of this box: what the rest of the appliance asks for.

Owns the states and the running installs. Which names are signed, and by whom, the enrolled
repositories say; where bytes come from is an `Origin`: the repository's own addresses, or a medium.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from weakref import WeakValueDictionary

from msgspec.structs import replace

from appliance.bundles.activate import Activator, go_back, pin, resume
from appliance.bundles.facts import read_facts
from appliance.bundles.install import Installer, what_to_remove
from appliance.bundles.listings import Listings
from appliance.bundles.parts import Wish
from appliance.bundles.release import Release
from appliance.bundles.resolve import Origin
from appliance.bundles.spare import drop_spare
from appliance.bundles.state import BundleState, States, empty_state
from appliance.bundles.switches import Switches
from appliance.chat.job import ChatService
from appliance.config import Settings
from appliance.errors import ApplianceError, DiskFullError, LibraryError
from appliance.library.library import Library
from appliance.library.names import ModelName
from appliance.models.manager import Models
from appliance.transfer.jobs import SharedJobs, Title
from appliance.transfer.progress import Progress, Tell
from appliance.transfer.transfers import GIB, Transfers
from appliance.trust.gate import Signed
from appliance.trust.policy import require_fresh
from appliance.trust.repositories import Repositories, Repository

__all__ = ["Bundles", "Origin"]

log = logging.getLogger("hearth.bundles")

FOLDER = "bundles"  # of the states, in the state folder


class Bundles:
    """Installs, and what they left. Start with `reconcile`, end with `close`."""

    def __init__(
        self,
        settings: Settings,
        library: Library,
        models: Models,
        chat: ChatService,
        transfers: Transfers,
        repositories: Repositories,
    ) -> None:
        self._settings = settings
        self._library = library
        self._listings = Listings(library, repositories, transfers)
        self._states = States(settings.state / FOLDER)
        self.jobs = SharedJobs()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by name
        self._activator = Activator(self._states, library)
        self._installer = Installer(
            library,
            models,
            chat,
            transfers.gatherer,
            self._activator,
            partial(read_facts, settings),
            max_blob_bytes=settings.max_blob_gib * GIB,
            fetch_timeout_s=settings.transfer_timeout_s,
        )
        self._switches = Switches(self._activator, self._installer.leave, settings.revoked)
        library.add_roots(self._states.roots)

    # -- reading; these block ---------------------------------------------------------------

    def owner(self, name: ModelName) -> Repository | None:
        """The repository that must have signed `name`; None: the name is nobody's."""
        return self._listings.repositories.owner(name)

    def states(self) -> list[BundleState]:
        """Of all signed models that can be read, in order of names."""
        found, _ = self._scan()
        return found

    def problems(self) -> list[str]:
        """What `states` had to leave out."""
        _, problems = self._scan()
        return problems

    def state(self, name: ModelName) -> BundleState:
        """Raises NotFoundError, or LibraryError for a damaged one."""
        return self._states.get(name)

    async def document(self, repository: Repository, target: str, max_bytes: int) -> bytes:
        """A signed document that is no release; see `Listings`."""
        return await self._listings.document(repository, target, max_bytes)

    def fitting(self) -> Callable[[ModelName, Release], str]:
        """What tells, in a thread, which variant of a release would be taken under a name; empty
        if none fits. Make it on the event loop."""
        loaded = self._installer.loaded_bytes()

        def choose(name: ModelName, release: Release) -> str:
            state = self._states.find(name) or empty_state(name, "")
            chosen = self._installer.fitting(release, state, loaded).variant
            return chosen.name if chosen else ""

        return choose

    def vouch(self, name: ModelName) -> Signed | None:
        """What was signed for `name`, as the gate asks; raises LibraryError for a damaged state."""
        return self._states.signed(name)

    def _scan(self) -> tuple[list[BundleState], list[str]]:
        found, problems = [], []
        for name in self._states.names():
            try:
                found.append(self._states.get(name))
            except ApplianceError as error:
                problems.append(f"{error}; {error.hint}")
        return found, problems

    # -- changing ---------------------------------------------------------------------------

    async def install(
        self,
        name: ModelName,
        origin: Origin | None = None,
        *,
        variant: str = "",
        retry: bool = False,
        version: str = "",
        is_kept: bool = False,
    ) -> AsyncGenerator[Progress, None]:
        """Make the release that is signed for `name` the active one; the lines of Ollama's pull.

        `origin` None: the repository's own addresses. `variant`: the only one that may be taken.
        `version`: this release of the model, in place of the one that the name's own tag means.
        `retry`: also one that failed before, and also over a damaged state. Raises TrustError,
        RegistryError, DiskFullError, MemoryFitError, ActivationError; then what was active still
        is. Leaving cancels it unless others follow it or it `is_kept`; what came stays. Who asks
        for the same follows the same work; who asks for another thing under the name waits for
        its turn.
        """
        full = name.full.lower()
        turn = self._turns.setdefault(full, asyncio.Lock())

        async def work(tell: Tell) -> None:
            async with turn:
                await self._install(name, origin, variant, retry, version, tell)

        places = [str(content) for content in origin.contents] if origin else None
        key = f"{full} {version} {variant} {retry} {places}"
        title = Title("install", name.short)
        async with aclosing(self.jobs.follow(key, work, title, is_kept=is_kept)) as lines:
            async for line in lines:
                yield line

    async def check(self, name: ModelName, origin: Origin | None = None) -> BundleState:
        """Ask the repository whether the active release was taken back, and act as the setting
        `revoked` says. Raises NotFoundError, TrustError."""
        state = await asyncio.to_thread(self.state, name)
        repository = await asyncio.to_thread(self._listings.require_owner, name)
        word = await self._listings.ask(repository, origin, name, state)
        return await self._switches.judge(name, state, word)

    async def rollback(self, name: ModelName) -> BundleState:
        """Return to the previous release, at once and without a network; a pin moves along.

        Raises NotFoundError, and ActivationError if none is kept.
        """
        return await self._switches.to(name, lambda state: go_back(state, int(time.time())))

    async def pin(self, name: ModelName, version: str) -> BundleState:
        """From now on only `version` may be active. It becomes so at once if it is kept here, else
        by the next install. Raises NotFoundError, ModelNameError."""
        replaced = ModelName.parse(f"x:{version}")
        return await self._switches.to(name, lambda state: pin(state, replaced.tag))

    async def unpin(self, name: ModelName) -> BundleState:
        """Follow the name again, from the next install on."""
        return await self._switches.to(name, lambda state: replace(state, pinned=""))

    def delete(self, name: ModelName) -> bool:
        """Remove a model, signed or not, also with a damaged state, and the blobs that only it
        kept; whether there was one. Blocking."""
        with self._states.lock:  # or a switch could bring the manifest back in between
            is_here = self._library.has(name)
            if is_here:
                self._library.delete(name)
            return self._forget(name) or is_here

    def _forget(self, name: ModelName) -> bool:
        if name not in set(self._states.names()):
            return False
        try:
            digests = self._states.get(name).digests
        except ApplianceError:
            digests = frozenset()
        self._states.remove(name)
        self._library.remove_unused(digests)
        return True

    def reconcile(self) -> None:
        """At start: count tests that were cut short, and let the library follow the states.

        Blocking. What cannot be repaired is logged; all else is served.
        """
        for name in self._states.names():
            try:
                self._activator.change(name, lambda state: resume(state, int(time.time())))
            except ApplianceError as error:
                log.warning("signed model left as it is model=%s: %s", name.short, error)

    def make_room(self, wanted: int) -> list[str]:
        """Give up releases that nobody uses (spare.py) until `wanted` more bytes are free; a
        sentence for each. Blocking; bundles that are being installed are left alone."""
        busy = {full for full, turn in list(self._turns.items()) if turn.locked()}
        states = [state for state in self._scan()[0] if state.name not in busy]
        return drop_spare(self._activator, states, wanted)

    async def close(self) -> None:
        """End what runs, before models and transfers end. Downloads are kept for the next time."""
        await self.jobs.close()

    # -- one install ------------------------------------------------------------------------

    async def _install(
        self,
        name: ModelName,
        origin: Origin | None,
        variant: str,
        retry: bool,
        version: str,
        tell: Tell,
    ) -> None:
        tell(Progress("pulling manifest"))
        repository = await asyncio.to_thread(self._listings.require_owner, name)
        state = await asyncio.to_thread(self._begin, name, repository, retry)
        wanted = replace(state, pinned=version) if version else state
        word = await self._listings.ask(repository, origin, name, wanted)
        state = replace(await self._switches.judge(name, state, word), repository=repository.name)
        contents = self._listings.contents(repository, origin)
        wish = self._listings.wish(name, wanted, word, contents, variant, retry)
        if await asyncio.to_thread(self._is_active, wish, state):
            tell(Progress(f"release {state.active.version if state.active else ''} is active"))
            tell(Progress("success"))
            return
        signed = await self._installer.release(wish)
        release, _ = signed
        target = await self._listings.version_target(repository, origin, wish, release.version)
        assert word.trusted is not None  # the target was listed
        require_fresh(
            repository.name,
            word.trusted.issued_s,
            word.trusted.clock.now_s,
            repository.freshness_s,
        )
        choice = await self._installer.choose(wish, release, state)
        taken = choice.require()
        await asyncio.to_thread(self._record, name, state)
        await self._stage(wish, self._installer.stage(wish, signed, choice, target, tell))
        active = state.active
        if active is not None and (active.index, active.variant) == (str(wish.index), taken.name):
            tokens_per_s = active.tokens_per_s  # it has proven itself, only parts of it were gone
        else:
            tokens_per_s = await self._installer.prove(wish, tell)
        await self._installer.activate(name, tokens_per_s, tell)
        log.info(
            "installed model=%s version=%s variant=%s repository=%s tokens_per_s=%.1f",
            *(name.short, release.version, taken.name, repository.name, tokens_per_s),
        )
        tell(Progress("success"))

    def _begin(self, name: ModelName, repository: Repository, retry: bool) -> BundleState:
        """What is known of the name; a damaged state is replaced if somebody insists."""
        try:
            state = self._states.find(name)
        except LibraryError:
            if not retry:
                raise
            state = None
            self._states.write(name, empty_state(name, repository.name))
        return replace(state or empty_state(name, repository.name), repository=repository.name)

    def _record(self, name: ModelName, state: BundleState) -> None:
        """Have a state on disk, and who signs: the name may have got another owner. Where it was
        removed meanwhile, what it kept is gone as well."""
        anew = empty_state(name, state.repository)
        self._states.change(name, lambda now: replace(now or anew, repository=state.repository))

    def _is_active(self, wish: Wish, state: BundleState) -> bool:
        """Whether there is nothing to do. Parts that a scrub set aside are something to do."""
        active = state.active
        if active is None or active.index != str(wish.index):
            return False
        if wish.variant not in {"", active.variant} or self._activator.missing(active):
            return False
        self._activator.derive(wish.name, state)
        return True

    async def _stage(self, wish: Wish, attempt: Awaitable[None]) -> None:
        """Fetch; a disk that is too full is told with what could be removed from it."""
        try:
            await attempt
        except DiskFullError as error:
            hint = await asyncio.to_thread(what_to_remove, self._library, wish.name)
            raise DiskFullError(str(error), hint=hint or error.hint) from error
