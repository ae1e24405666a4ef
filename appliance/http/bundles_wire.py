"""Bodies of our own routes about signed models. Pure: from states to dictionaries."""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from appliance.bundles.state import BundleState, Failure, Kept


class BundleBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /hearth/v1/bundles/check, rollback, unpin."""

    model: Annotated[str, msgspec.Meta(min_length=1)]


class PinBody(BundleBody, kw_only=True, forbid_unknown_fields=True):
    """POST /hearth/v1/bundles/pin."""

    version: Annotated[str, msgspec.Meta(min_length=1)]


def bundle_entry(name: str, state: BundleState) -> dict[str, Any]:
    """One line of the list; `name` as people write it."""
    return {
        "model": name,
        "repository": state.repository,
        "state": state.phase,
        "version": state.active.version if state.active else None,
        "variant": state.active.variant if state.active else None,
        "previous": state.previous.version if state.previous else None,
        "staged": state.staged.release.version if state.staged else None,
        "pinned": state.pinned or None,
        "revoked": state.revoked or None,
    }


def bundle_detail(name: str, state: BundleState, *, with_reasons: bool) -> dict[str, Any]:
    """Everything but the logs of dead workers. `with_reasons`: also why releases failed, in an
    engine's words, which may name paths and prompts of this box."""
    staged = state.staged
    return bundle_entry(name, state) | {
        "active_release": _release(state.active),
        "previous_release": _release(state.previous),
        "staged_release": _release(staged.release) if staged else None,
        "attempts": staged.attempts if staged else 0,
        "bad": [_failure(failure, with_reasons=with_reasons) for failure in state.bad],
    }


def why_answer(name: str, state: BundleState) -> dict[str, Any]:
    """Why it is as it is: the choice of the variant, and what went wrong last."""
    chosen = state.active or (state.staged.release if state.staged else None)
    failure = state.failure
    return bundle_entry(name, state) | {
        "reasons": list(chosen.reasons) if chosen else [],
        "tokens_per_s": chosen.tokens_per_s if chosen else None,
        "failure": (_failure(failure, with_reasons=True) | {"log": failure.log})
        if failure
        else None,
    }


def _release(kept: Kept | None) -> dict[str, Any] | None:
    if kept is None:
        return None
    return {
        "version": kept.version,
        "variant": kept.variant,
        "index": kept.index,
        "manifest": kept.manifest,
        "staged_at": _moment(kept.staged_s),
        "tokens_per_s": round(kept.tokens_per_s, 3),
    }


def _failure(failure: Failure, *, with_reasons: bool) -> dict[str, Any]:
    return {
        "version": failure.version,
        "variant": failure.variant or None,
        "index": failure.index,
        "reason": failure.reason if with_reasons else None,
        "at": _moment(failure.at_s),
        "prompt": (failure.prompt or None) if with_reasons else None,
        "tokens_per_s": round(failure.tokens_per_s, 3),
    }


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
