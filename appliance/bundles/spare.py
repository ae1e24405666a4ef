"""Releases that may be given up when the disk is short, and giving them up, the least useful first.

Never the active release, nor the last that was good: the previous one stays while the active one
is in doubt.
"""

import logging
import shutil
from collections.abc import Iterable
from functools import partial

from msgspec.structs import replace

from appliance.bundles.activate import Activator
from appliance.bundles.state import BundleState, Kept
from appliance.library.manifest import Digest
from appliance.library.names import ModelName

log = logging.getLogger("hearth.bundles")


def spare(state: BundleState) -> tuple[Kept, ...]:
    """One that waits for its tests, and the previous one while the active one is good."""
    if state.staged is not None and state.staged.is_testing:
        return ()
    staged = (state.staged.release,) if state.staged is not None else ()
    is_good = state.active is not None and not state.revoked and not state.is_stopped
    previous = (state.previous,) if is_good and state.previous is not None else ()
    return (*staged, *previous)


def give_up(state: BundleState, release: Kept) -> BundleState:
    """The state without a release that `spare` names; as it is if it is not spare any more."""
    if release not in spare(state):
        return state
    if state.staged is not None and state.staged.release == release:
        return replace(state, staged=None)
    return replace(state, previous=None)


def spare_digests(states: Iterable[BundleState]) -> frozenset[Digest]:
    """The blobs that would be free if all that is spare were given up."""
    gone: set[str] = set()
    stays: set[str] = set()
    for state in states:
        given = spare(state)
        for release in state.kept:
            (gone if release in given else stays).update(release.blobs)
    return frozenset(map(Digest.parse, gone - stays))


def drop_spare(activator: Activator, states: Iterable[BundleState], wanted: int) -> list[str]:
    """Give up releases until `wanted` more bytes are free: those that wait for their tests first,
    then the oldest. A sentence for each. Blocking."""
    order = []
    for state in states:
        staged = state.staged.release if state.staged else None
        order += [(kept != staged, kept.staged_s, state.name, kept) for kept in spare(state)]
    told = []
    for _, _, full, release in sorted(order, key=lambda each: each[:3]):
        if wanted <= 0:
            break
        name, before = ModelName.parse(full), _free(activator)
        activator.change(name, partial(give_up, release=release))
        freed = max(0, _free(activator) - before)
        wanted -= freed
        told.append(f"release {release.version} of {name.short} gave back {freed} bytes")
        log.warning("dropped for room: %s", told[-1])
    return told


def _free(activator: Activator) -> int:
    return shutil.disk_usage(activator.library.blobs.root).free
