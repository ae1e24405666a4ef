"""Which release of a name serves: the rules of change, and the manifest that follows from them.

    staged ──smoke well──▶ active ──replaced or rolled back──▶ previous ──▶ forgotten
       └────smoke badly, or cut short twice──▶ bad

The rules are pure functions from state to state. What a model's users see, its manifest, is derived
from the state and can be derived again: after a power cut the state wins.
"""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from appliance.bundles.state import (
    MAX_ATTEMPTS,
    MAX_BAD,
    BundleState,
    Failure,
    Kept,
    Staged,
    States,
)
from appliance.errors import ActivationError, LibraryError, ModelNotFoundError
from appliance.library.library import Library
from appliance.library.manifest import MAX_MANIFEST_BYTES, Digest
from appliance.library.names import ModelName

_CUT_SHORT = "its smoke tests were cut short twice by a crash or a power cut, which it may cause"
_LEFT = "an administrator rolled back from it"


def stage(state: BundleState, release: Kept) -> BundleState:
    """A release whose parts are all here waits for its tests; earlier attempts still count."""
    staged = state.staged
    same = staged is not None and _key(staged.release) == _key(release)
    attempts = staged.attempts if staged is not None and same else 0
    return replace(state, staged=Staged(release, attempts))


def begin_smoke(state: BundleState) -> BundleState:
    """The tests begin. If this is the last word of a service, it counts as an attempt."""
    staged = require_staged(state)
    return replace(state, staged=replace(staged, attempts=staged.attempts + 1, is_testing=True))


def stop_smoke(state: BundleState) -> BundleState:
    """They were stopped on purpose, or could not be made: that says nothing about the release."""
    staged = state.staged
    if staged is None or not staged.is_testing:
        return state
    return replace(state, staged=replace(staged, attempts=staged.attempts - 1, is_testing=False))


def resume(state: BundleState, now_s: int) -> BundleState:
    """What a service finds that died in the middle of something."""
    staged = state.staged
    if staged is None or not staged.is_testing:
        return state
    if staged.attempts < MAX_ATTEMPTS:
        return replace(state, staged=replace(staged, is_testing=False))
    return fail(state, failure_of(staged.release, _CUT_SHORT, now_s))


def promote(state: BundleState, tokens_per_s: float) -> BundleState:
    """The staged release becomes active; who was active becomes the previous one."""
    release = replace(require_staged(state).release, tokens_per_s=tokens_per_s)
    is_other = state.active is not None and _key(state.active) != _key(release)
    return replace(
        _forgiven(state, release),
        active=release,
        previous=state.active if is_other else state.previous,
        staged=None,
        failure=None,
        revoked="",
        is_stopped=False,
    )


def fail(state: BundleState, failure: Failure) -> BundleState:
    """A release is bad: it is not tried again. What is active stays so."""
    staged = state.staged
    gone = staged is not None and staged.release.index == failure.index
    others = tuple(bad for bad in state.bad if _key(bad) != _key(failure))
    return replace(
        state,
        staged=None if gone else staged,
        bad=(*others, failure)[-MAX_BAD:],
        failure=failure,
    )


def go_back(state: BundleState, now_s: int) -> BundleState:
    """A person goes back to the previous release. A pin goes along: it says that only people
    choose the version, and a person just did."""
    after = roll_back(state, now_s, _LEFT)
    return replace(after, pinned=after.active.version) if state.pinned and after.active else after


def roll_back(state: BundleState, now_s: int, reason: str) -> BundleState:
    """The previous release becomes active; the one that is left is not installed again by itself.

    Raises ActivationError when there is none.
    """
    if state.previous is None:
        raise ActivationError(
            f"{state.name} has no previous release on this box to go back to",
            hint="`hearth bundle show` tells what is kept",
        )
    left = state.active
    after = replace(
        _forgiven(state, state.previous),
        active=state.previous,
        previous=left,
        revoked="",
        is_stopped=False,
    )
    if left is None:
        return after
    return replace(fail(after, failure_of(left, reason, now_s)), failure=None)  # it was meant so


def pin(state: BundleState, version: str) -> BundleState:
    """Only `version` may become active; if it is the previous one, it does at once."""
    previous, active = state.previous, state.active
    state = replace(state, pinned=version)
    if previous is None or previous.version != version:
        return state
    if active is not None and active.version == version:
        return state
    return replace(
        _forgiven(state, previous), active=previous, previous=active, revoked="", is_stopped=False
    )


def stop(state: BundleState, reason: str, now_s: int) -> BundleState:
    """The active release is taken out of use, and nothing takes its place."""
    if state.active is None:
        return state
    failure = failure_of(state.active, reason, now_s)
    return replace(fail(state, failure), active=None, revoked=reason, is_stopped=True)


def failure_of(release: Kept, reason: str, now_s: int) -> Failure:
    return Failure(release.version, release.index, reason, now_s, variant=release.variant)


def require_staged(state: BundleState) -> Staged:
    """What waits for its tests; raises ActivationError if it was taken away meanwhile."""
    if state.staged is None:
        raise ActivationError(
            f"{state.name} was changed while a release of it was being installed",
            hint="install it again",
        )
    return state.staged


def _key(release: Kept | Failure) -> tuple[str, str]:
    return release.index, release.variant


def _forgiven(state: BundleState, release: Kept) -> BundleState:
    """The state after somebody decided for a release that may have been bad before."""
    return replace(state, bad=tuple(bad for bad in state.bad if _key(bad) != _key(release)))


@dataclass(frozen=True, slots=True)
class Activator:
    """Applies rules to a state, and keeps the library in step. Synchronous: use a thread."""

    states: States
    library: Library

    def change(
        self, name: ModelName, rule: Callable[[BundleState], BundleState]
    ) -> tuple[BundleState, BundleState]:
        """The state before and after, with the manifest derived and what nobody needs removed.

        Raises ActivationError where parts of what is to become active are gone.
        """
        with self.states.lock:
            before = self.states.get(name)
            after = rule(before)
            if after.active is not None and after.active != before.active:
                self._require_whole(name, after.active)
            self.states.change(name, lambda _: after)
            self.derive(name, after)
        self.library.remove_unused(before.digests - after.digests)
        return before, after

    def derive(self, name: ModelName, state: BundleState) -> None:
        """Make the manifest under `name` what the state says; raises LibraryError.

        Nothing active means that nothing was ever installed, so what lies there is not ours; unless
        it was stopped.
        """
        if state.active is None:
            if state.is_stopped and self.library.has(name):
                self.library.delete(name)
            return
        digest = Digest.parse(state.active.manifest)
        data = self.library.blobs.read(digest, MAX_MANIFEST_BYTES)
        if self._manifest(name) != data:
            self.library.write_manifest(name, data)

    def missing(self, release: Kept) -> list[str]:
        """The digests of those of its parts that are not here."""
        has = self.library.blobs.has
        return [text for text in release.blobs if not has(Digest.parse(text))]

    def _require_whole(self, name: ModelName, release: Kept) -> None:
        """Before the state says that it serves: a scrub may have set a damaged part aside."""
        missing = self.missing(release)
        if missing:
            raise ActivationError(
                f"release {release.version} of {name.short} is not whole any more:"
                f" blob {missing[0]} is missing",
                hint=f"what serves now serves on; `hearth pull {name.short}` gets what is signed",
            )

    def _manifest(self, name: ModelName) -> bytes:
        """What lies under `name`; empty if that is nothing, or damaged."""
        try:
            return self.library.read_manifest(name)
        except (ModelNotFoundError, LibraryError):
            return b""
