"""Another release serves without an install: a person goes back or pins, or a publisher took the
active one back. The rules are those of `activate.py` and `revoke.py`; here they are carried out.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from appliance.bundles.activate import Activator
from appliance.bundles.resolve import Word
from appliance.bundles.revoke import revocation, take_back
from appliance.bundles.state import BundleState
from appliance.errors import ActivationError
from appliance.library.names import ModelName
from appliance.threads import to_end

log = logging.getLogger("hearth.bundles")

Rule = Callable[[BundleState], BundleState]


@dataclass(frozen=True, slots=True)
class Switches:
    """`leave` lets go of weights, told the state before and after; `revoked` is the setting."""

    activator: Activator
    leave: Callable[[ModelName, BundleState, BundleState], Awaitable[None]]
    revoked: str

    async def to(self, name: ModelName, rule: Rule) -> BundleState:
        """Apply a rule, and let go of weights that are not active any more; the state after it.
        Raises NotFoundError, and what the rule raises."""
        before, after = await to_end(self.activator.change, name, rule)
        if before.active != after.active:
            log.info(
                "switched model=%s from=%s to=%s",
                *(name.short, _version(before), _version(after)),
            )
            await self.leave(name, before, after)
        return after

    async def judge(self, name: ModelName, state: BundleState, word: Word) -> BundleState:
        """Act on a release that was taken back, as `word` says; returns the state afterwards."""
        why = revocation(state.active, word) if state.active is not None else ""
        if state.is_stopped or not (why or state.revoked):
            return state
        if why and why != state.revoked:
            log.warning("release taken back model=%s: %s", name.short, why)
        rule = partial(take_back, why=why, word=word)
        try:
            return await self.to(name, partial(rule, action=self.revoked))
        except ActivationError:  # there is nothing whole to go back to
            return await self.to(name, partial(rule, action="warn"))


def _version(state: BundleState) -> str:
    return state.active.version if state.active else "none"
