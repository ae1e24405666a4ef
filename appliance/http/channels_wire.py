"""Bodies of our own routes about channels. Pure: from states to dictionaries."""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from appliance.bundles.channel_state import Followed


class ChannelBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /hearth/v1/channels/follow, unfollow, pause, resume."""

    channel: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class CheckBody(ChannelBody, kw_only=True, forbid_unknown_fields=True):
    """POST /hearth/v1/channels/check; `at_once`: also outside the window."""

    at_once: bool = False
    stream: bool = True


def channel_entry(followed: Followed, *, with_reasons: bool) -> dict[str, Any]:
    """One channel; `trouble` is the first thing that is not as the channel wants it.

    `with_reasons`: in full; else without the words of engines and sources.
    """
    document = followed.document
    return {
        "channel": followed.key,
        "generation": document.generation if document else None,
        "paused": followed.is_paused,
        "held": document.hold if document else False,
        "window": (document.window if document else "") or None,
        "down_kbps": document.down_kbps if document else 0,
        "checked_at": _moment(followed.checked_s),
        "next_at": None if followed.is_paused else _moment(followed.due_s),
        "failures": followed.failures,
        "trouble": _trouble(followed, with_reasons=with_reasons) or None,
        "bundles": [
            {
                "bundle": bundle,
                "version": outcome.version,
                "state": outcome.state,
                "reason": (outcome.reason or None) if with_reasons else None,
            }
            for bundle, outcome in sorted(followed.outcomes.items())
        ],
    }


def _trouble(followed: Followed, *, with_reasons: bool) -> str:
    if followed.problem:
        return followed.problem if with_reasons else "it could not be heard"
    bad = [(bundle, each) for bundle, each in followed.outcomes.items() if each.state == "failed"]
    bad = bad or [
        (bundle, each)
        for bundle, each in followed.outcomes.items()
        if each.state == "waiting" and followed.failures
    ]
    if not bad:
        return ""
    bundle, outcome = bad[0]
    return f"{bundle} {outcome.version}: {outcome.reason if with_reasons else outcome.state}"


def _moment(seconds: float) -> str | None:
    if not seconds:
        return None
    at = datetime.fromtimestamp(int(seconds), UTC)
    return at.isoformat().replace("+00:00", "Z")
