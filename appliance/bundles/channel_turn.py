"""One turn of a channel: each bundle that its document names, in that version, on this box.

Every bundle is installed as `<namespace>/<model>:latest`, with the smoke tests and the way back of
every install. Whether the time is right is told from outside: a window, or a person who insists.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from dataclasses import replace as replace_line

from appliance.bundles.bundles import Bundles
from appliance.bundles.channel_document import ChannelDocument, name_of
from appliance.bundles.channel_state import Followed, Outcome
from appliance.bundles.resolve import Origin
from appliance.bundles.state import BundleState
from appliance.errors import (
    ActivationError,
    ApplianceError,
    NotFoundError,
    RegistryNotFoundError,
    RegistryUnreachableError,
)
from appliance.library.names import ModelName
from appliance.transfer.pace import limited
from appliance.transfer.progress import Tell
from engine.errors import EngineError


@dataclass(frozen=True, slots=True)
class Turn:
    """`closes_in_s` tells how long the window stays open; None: any time is right.

    `origin`: a medium, in place of the repository's own addresses; one that is gone ends the turn
    with RegistryUnreachableError. `retry`: also releases that failed here before. What kept a
    bundle away is in `errors` too.
    """

    bundles: Bundles
    followed: Followed
    document: ChannelDocument
    tell: Tell
    closes_in_s: Callable[[], float | None]
    origin: Origin | None = None
    retry: bool = False
    errors: list[ApplianceError | EngineError] = field(default_factory=list)

    async def bring(self, bundle: str, version: str) -> Outcome:
        """Have one bundle in the version that the channel names, if it may be now."""
        name = name_of(bundle)
        try:
            state = await asyncio.to_thread(self._state, name)
            if obstacle := await asyncio.to_thread(self._obstacle, name, version, state):
                return Outcome(version, "failed", obstacle)
            left_s = self.closes_in_s()
            if left_s == 0 or self.document.hold:
                return await self._look(name, version, state)
            with limited(0 if self.origin else self.document.down_kbps):
                async with asyncio.timeout(left_s):
                    await self._install(name, bundle, version)
        except TimeoutError:
            return Outcome(version, "waiting", "the window closed; what came is kept")
        except (ApplianceError, EngineError) as error:
            return self._kept_away(version, error)
        return await self._reached(name, version)

    def _kept_away(self, version: str, error: ApplianceError | EngineError) -> Outcome:
        if self.origin is not None and isinstance(error, RegistryUnreachableError):
            raise error  # the medium is gone, and the next one goes on
        self.errors.append(error)
        reason = str(error)
        if self.origin is not None and isinstance(error, RegistryNotFoundError):
            reason = f"the medium does not have release {version} of it"
        state = "failed" if isinstance(error, ActivationError) else "waiting"
        return Outcome(version, state, reason)

    async def _install(self, name: ModelName, bundle: str, version: str) -> None:
        lines = self.bundles.install(name, self.origin, version=version, retry=self.retry)
        async with aclosing(lines):
            async for line in lines:
                self.tell(replace_line(line, status=f"{bundle} {version}: {line.status}"))

    async def _look(self, name: ModelName, version: str, state: BundleState | None) -> Outcome:
        """Install nothing, but hear whether what serves was taken back."""
        if state is not None:
            await self.bundles.check(name, self.origin)
        outcome = await self._reached(name, version)
        if outcome.state == "active":
            return outcome
        reason = "the channel holds" if self.document.hold else "for its window"
        return Outcome(version, "waiting", reason)

    async def _reached(self, name: ModelName, version: str) -> Outcome:
        """What the box has; another install of the name may have run at the same time."""
        state = await asyncio.to_thread(self._state, name)
        active = state.active if state else None
        if active is not None and active.version == version:
            return Outcome(version, "active")
        return Outcome(version, "waiting", f"{active.version if active else 'nothing'} is active")

    def _obstacle(self, name: ModelName, version: str, state: BundleState | None) -> str:
        """Why the channel has no say in this, or empty."""
        owner = self.bundles.owner(name)
        if owner is None or owner.name != self.followed.repository:
            signer = owner.name if owner else "nobody"
            return f"{name.short} belongs to {signer}, not to {self.followed.repository}"
        if state is not None and state.pinned not in {"", version}:
            return f"an administrator pinned it to {state.pinned}"
        return ""

    def _state(self, name: ModelName) -> BundleState | None:
        try:
            return self.bundles.state(name)
        except NotFoundError:
            return None
