"""One install, from a name to an active release, in steps that each leave a state that can serve.

resolved   the repository's metadata names an index, and a variant of it fits this box
fetching   its parts come, resumable, and are held against garbage collection
staged     all parts are here, durable and checked; written into the state file
smoke      the tests run on the real engine, beside what serves or in its place for a while
active     the state file says so, then the manifest does; `failed` leaves what was active
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from appliance.bundles.activate import (
    Activator,
    begin_smoke,
    fail,
    failure_of,
    promote,
    require_staged,
    stage,
    stop_smoke,
)
from appliance.bundles.parts import Parts, Wish
from appliance.bundles.release import Release, Variant
from appliance.bundles.resolve import Documents, first_of, require_hearth
from appliance.bundles.smoke import (
    BUILT_IN,
    MAX_SMOKE_BYTES,
    SmokePlan,
    SmokeReport,
    run_smoke,
)
from appliance.bundles.spare import spare_digests
from appliance.bundles.state import BundleState, Failure, Kept
from appliance.bundles.variants import Facts, VariantChoice, choose_variant
from appliance.chat.job import ChatService
from appliance.config import MIB
from appliance.errors import (
    ActivationError,
    DiskFullError,
    LibraryError,
    NotFoundError,
    OverloadedError,
    RegistryError,
    RegistryUnreachableError,
)
from appliance.library.library import Library
from appliance.library.manifest import (
    ADAPTER_TYPE,
    MAX_MANIFEST_BYTES,
    MODEL_TYPE,
    PROJECTOR_TYPE,
    Digest,
    Manifest,
)
from appliance.library.names import ModelName
from appliance.models.manager import Models
from appliance.threads import to_end
from appliance.transfer.content import Content
from appliance.transfer.download import Report
from appliance.transfer.gather import Gatherer
from appliance.transfer.progress import Progress, Tell

log = logging.getLogger("hearth.bundles")

BUSY_WAIT_S = 60.0  # for room beside models that answer somebody now
BUSY_PAUSE_S = 1.0
_CANDIDATES = 3  # models that an error about a full disk offers to remove


@dataclass(frozen=True, slots=True)
class Installer:
    """Takes releases from an index to an active model. One install of a name at a time."""

    library: Library
    models: Models
    chat: ChatService
    gatherer: Gatherer
    activator: Activator
    read_facts: Callable[[int, int], Facts]  # blocking; see facts.py for the two counts of bytes
    max_blob_bytes: int
    fetch_timeout_s: float

    async def release(self, wish: Wish) -> tuple[Release, bytes]:
        """The signed index and its bytes; raises TrustError, RegistryError, UnsupportedError."""
        release, data = await self._documents(wish).release(wish.index, wish.length)
        await asyncio.to_thread(require_hearth, release)
        return release, data

    async def choose(self, wish: Wish, release: Release, state: BundleState) -> VariantChoice:
        """Which variant; raises MemoryFitError with the reason of each if none fits, and
        ActivationError if that one is bad."""
        loaded = self.loaded_bytes()
        choice = await asyncio.to_thread(self.fitting, release, state, loaded, wish.variant)
        variant = choice.require()
        bad = state.why_bad(wish.index, variant.name)
        if bad is not None and not wish.retry:
            raise refused(wish.name, bad)
        return choice

    def loaded_bytes(self) -> int:
        """Of models in memory that can make room; on the event loop."""
        return sum(m.size_bytes - m.size_vram_bytes for m in self.models.loaded())

    def fitting(
        self, release: Release, state: BundleState, loaded_bytes: int, pinned: str = ""
    ) -> VariantChoice:
        """Which variant this box would take now, or that none fits. Blocking."""
        facts = self.read_facts(loaded_bytes, self._own_bytes(state))
        return choose_variant(release, facts, pinned)

    async def stage(
        self,
        wish: Wish,
        signed: tuple[Release, bytes],
        choice: VariantChoice,
        target: str,
        tell: Tell,
    ) -> None:
        """Have all parts here and say so in the state. What came before a failure is kept for the
        next try, and is wanted by nobody: garbage collection may take it after a while."""
        try:
            async with asyncio.timeout(self.fetch_timeout_s):
                parts = await self._read(wish, signed, choice.require())
                async with self.gatherer.held(parts.digests):
                    await self._gather_making_room(wish, parts, tell)
                    kept = parts.kept(choice.reasons, target)
                    await to_end(self._change, wish.name, lambda state: stage(state, kept))
        except TimeoutError as error:
            raise RegistryUnreachableError(
                f"not done after {self.fetch_timeout_s:g} s; what was transferred is kept",
                hint="try again, or raise transfer_timeout_s",
            ) from error

    async def prove(self, wish: Wish, tell: Tell) -> float:
        """Run the smoke tests of what is staged; the tokens per second. Raises ActivationError,
        and then the release is bad; or what kept it from being tried, and then nothing changes."""
        tell(Progress("running smoke tests"))
        state = await to_end(self._change, wish.name, begin_smoke)
        release = require_staged(state).release
        try:
            report = await self._smoke(wish.name, release)
        except BaseException:  # also cancelled: nobody waits for the answer, or the service stops
            await to_end(self._change, wish.name, stop_smoke)
            raise
        if report.reason:
            failure = _told(release, report)
            await to_end(self._change, wish.name, lambda state: fail(state, failure))
            log.warning("release failed model=%s %s", wish.name, failure.reason)
            raise refused(wish.name, failure)
        return report.tokens_per_s

    async def activate(self, name: ModelName, tokens_per_s: float, tell: Tell) -> None:
        """Let the staged release serve; what runs on the old one finishes there."""
        tell(Progress("writing manifest"))
        before, after = await to_end(
            self.activator.change, name, lambda state: promote(state, tokens_per_s)
        )
        await self.leave(name, before, after)

    async def leave(self, name: ModelName, before: BundleState, after: BundleState) -> None:
        """Unload the weights of the release that was active, unless they are still in use."""
        if before.active is not None and after.active is not None:
            old, new = await asyncio.to_thread(
                lambda: [self._weights(kept) for kept in (before.active, after.active) if kept]
            )
            if old == new:
                return
        await self.models.unload(name)

    def _own_bytes(self, state: BundleState) -> int:
        """What the bundle has on the disk, and what others would give up for it."""
        blobs, others = self.library.blobs, []
        for name in self.activator.states.names():
            with suppress(LibraryError, NotFoundError):  # damaged, or gone since
                others.append(self.activator.states.get(name))
        digests = state.digests | spare_digests(others)
        return sum(blobs.size(digest) for digest in digests if blobs.has(digest))

    def _change(self, name: ModelName, rule: Callable[[BundleState], BundleState]) -> BundleState:
        return self.activator.change(name, rule)[1]

    def _documents(self, wish: Wish) -> Documents:
        return Documents(self.library, wish.contents, wish.repository)

    async def _read(self, wish: Wish, signed: tuple[Release, bytes], variant: Variant) -> Parts:
        documents = self._documents(wish)
        release, index = signed
        manifest, data = await documents.manifest(variant, self.max_blob_bytes)
        extras, extras_data = None, b""
        if release.extras is not None:
            extras, extras_data = await documents.extras(release.extras, self.max_blob_bytes)
        return Parts(index, release, variant, data, manifest, extras_data, extras)

    async def _gather_making_room(self, wish: Wish, parts: Parts, tell: Tell) -> None:
        """Where the disk is too full, once more after removing what nobody needs. The parts are
        held, so those that an earlier try brought are not among it."""
        try:
            await self._gather(wish, parts, tell)
        except DiskFullError:
            if not await to_end(self.library.prune):
                raise
            await self._gather(wish, parts, tell)

    async def _gather(self, wish: Wish, parts: Parts, tell: Tell) -> None:
        async def fetch(digest: Digest, size: int, report: Report) -> None:
            async def attempt(content: Content) -> None:
                await content.fetch(wish.repository, digest, size, self.library.blobs, report)

            await first_of(wish.contents, attempt)

        await self.gatherer.blobs(parts.sizes, fetch, tell)
        tell(Progress("verifying sha256 digest"))
        try:
            await self.gatherer.check_ggufs(parts.manifest, [])
        except RegistryError as error:
            failure = failure_of(parts.kept((), ""), str(error), int(time.time()))
            await to_end(self._change, wish.name, lambda state: fail(state, failure))
            raise
        for data in parts.documents:
            await to_end(self.library.blobs.put_bytes, data)

    async def _smoke(self, name: ModelName, release: Kept) -> SmokeReport:
        """Waits for a while for busy models to leave room; raises OverloadedError after that."""
        try:
            plan = await asyncio.to_thread(self._plan, release)
            trial = await asyncio.to_thread(
                self.library.trial, name, Digest.parse(release.manifest)
            )
        except LibraryError as error:
            return SmokeReport(0.0, str(error))
        deadline = time.monotonic() + BUSY_WAIT_S
        while True:
            try:
                return await run_smoke(self.chat, self.models, trial, plan)
            except OverloadedError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(BUSY_PAUSE_S)

    def _plan(self, release: Kept) -> SmokePlan:
        if release.smoke is None:
            return BUILT_IN
        data = self.library.blobs.read(Digest.parse(release.smoke), MAX_SMOKE_BYTES)
        return SmokePlan.parse(data)

    def _weights(self, kept: Kept) -> tuple[Digest, ...]:
        """What a worker has opened of a release; nothing if the manifest is damaged."""
        try:
            data = self.library.blobs.read(Digest.parse(kept.manifest), MAX_MANIFEST_BYTES)
            manifest = Manifest.parse(data)
        except LibraryError:
            return ()
        layers = manifest.of_type(MODEL_TYPE, ADAPTER_TYPE, PROJECTOR_TYPE)
        return tuple(layer.digest for layer in layers)


def refused(name: ModelName, failure: Failure) -> ActivationError:
    """The error that tells why a release is not used, and what to do."""
    prompt = f" (prompt {failure.prompt!r})" if failure.prompt else ""
    return ActivationError(
        f"release {failure.version} of {name.short} is not used: {failure.reason}{prompt}",
        hint=f"what was active serves on; `hearth bundle why {name.short}` tells more, and"
        f" `hearth pull --retry {name.short}` tries it again",
    )


def what_to_remove(library: Library, name: ModelName) -> str:
    """The largest models beside `name`, for whoever has a full disk; empty without any."""
    others = [model for model in library.list() if model.name != name]
    largest = sorted(others, key=lambda model: -model.size)[:_CANDIDATES]
    told = ", ".join(f"{model.name.short} ({model.size // MIB} MiB)" for model in largest)
    return f"remove models with `hearth rm`; the largest are {told}" if told else ""


def _told(release: Kept, report: SmokeReport) -> Failure:
    return Failure(
        version=release.version,
        index=release.index,
        reason=report.reason,
        at_s=int(time.time()),
        variant=release.variant,
        prompt=report.prompt,
        tokens_per_s=report.tokens_per_s,
        log=report.log,
    )
