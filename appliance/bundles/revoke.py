"""Releases that their publisher took back: how that is seen, and what becomes of one that serves.

    warn      it serves on, and everybody who looks is told
    replace   the previous release takes its place, unless the name offers a newer one anyway
    stop      it does not serve any more, and nothing takes its place by itself

Pure: what the repository says comes in as a `Word`.
"""

import time

from msgspec.structs import replace

from appliance.bundles.activate import roll_back, stop
from appliance.bundles.resolve import Word
from appliance.bundles.state import BundleState, Kept
from appliance.trust.errors import PolicyRefusedError


def revocation(release: Kept, word: Word) -> str:
    """Why a release must be seen as taken back, or empty."""
    if release.target not in word.targets:
        return ""
    listed = word.targets[release.target]
    if listed is None:
        return f"its publisher does not list {release.target} any more"
    if listed.is_revoked:
        return f"its publisher took {release.target} back"
    if f"sha256:{listed.sha256}" != release.index:
        return f"its publisher replaced {release.target} by another release"
    return ""


def take_back(state: BundleState, why: str, word: Word, action: str) -> BundleState:
    """The state after hearing `why`; empty: the active release is fine again.

    Something newer under the name is the install's business, which follows.
    """
    now_s = int(time.time())
    if why and action == "stop":
        return stop(state, why, now_s)
    previous = state.previous
    may_return = previous is not None and not revocation(previous, word)
    if why and action == "replace" and may_return and not _offers_another(state, word):
        return roll_back(state, now_s, why)
    return replace(state, revoked=why)


def taken_back(target: str) -> PolicyRefusedError:
    """The error for a release that must not be installed."""
    return PolicyRefusedError(
        f"the publisher took {target} back",
        rule="revoked",
        hint="ask the publisher for a newer release",
    )


def _offers_another(state: BundleState, word: Word) -> bool:
    """Whether something that was asked for is a release that may still be tried: not here, not bad
    and not taken back."""
    known = {kept.index for kept in state.kept} | {failure.index for failure in state.bad}
    return any(
        listed is not None and not listed.is_revoked and f"sha256:{listed.sha256}" not in known
        for listed in word.targets.values()
    )
