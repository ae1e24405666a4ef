"""What a channel says: which version of which bundle its followers run, and when they may change.

    {"generation": 3, "bundles": {"acme/assistant": "1.2.0"}, "window": "02:00-05:00",
     "down_kbps": 0, "hold": false}

Signed as the target `channels/<name>.json`. Strict, and pure: no files, no network, no clock.
"""

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Annotated, Self

import msgspec

from appliance.errors import ModelNameError
from appliance.library.names import ModelName
from appliance.trust.errors import TrustCode, TrustError

MAX_DOCUMENT_BYTES = 256 << 10

_BUNDLE = re.compile(r"[a-z0-9_][a-z0-9_-]*/[a-z0-9_][a-z0-9_.-]*")
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """A time of day, on the box's own clock, in which releases may change. It may span midnight."""

    start: timedelta  # since midnight
    end: timedelta  # the same as `start`: the whole day

    @classmethod
    def parse(cls, text: str) -> Self:
        """`HH:MM-HH:MM`, or empty for always; raises ValueError."""
        if not text:
            return cls(timedelta(), timedelta())
        match = _WINDOW.fullmatch(text)
        if match is None:
            raise ValueError("a time of day like 02:00-05:00, or nothing")
        hours, minutes, end_hours, end_minutes = map(int, match.groups())
        return cls(
            timedelta(hours=hours, minutes=minutes),
            timedelta(hours=end_hours, minutes=end_minutes),
        )

    @property
    def is_always(self) -> bool:
        return self.start == self.end

    def opens_in(self, now: datetime) -> timedelta:
        """Zero while it is open."""
        if self.closes_in(now):
            return timedelta()
        return (self.start - _since_midnight(now)) % _DAY

    def closes_in(self, now: datetime) -> timedelta:
        """Zero while it is closed; a day when it never is."""
        if self.is_always:
            return _DAY
        length = (self.end - self.start) % _DAY
        gone = (_since_midnight(now) - self.start) % _DAY
        return max(length - gone, timedelta())


def _since_midnight(now: datetime) -> timedelta:
    return now.replace(tzinfo=None) - datetime.combine(now.date(), time())


class ChannelDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`bundles` is version by `namespace/model`; `hold`: change nothing for now."""

    generation: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    bundles: Annotated[dict[str, str], msgspec.Meta(max_length=1000)]
    window: str = ""
    down_kbps: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0  # kilobits per second; 0: any
    hold: bool = False

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises TrustError (malformed): whoever signed it made a mistake."""
        try:
            document = msgspec.json.decode(data, type=cls)
            Window.parse(document.window)
            for bundle, version in document.bundles.items():
                _check(bundle, version)
        except (msgspec.DecodeError, ValueError, ModelNameError) as error:
            raise TrustError.of(
                TrustCode.MALFORMED,
                f"the channel's document is not usable: {error}",
                hint="its publisher has to sign a right one with the next generation",
            ) from error
        return document


def name_of(bundle: str) -> ModelName:
    """What a bundle is called on the box: `acme/assistant:latest`."""
    return ModelName.parse(f"{bundle}:latest")


def _check(bundle: str, version: str) -> None:
    if not _BUNDLE.fullmatch(bundle):
        raise ValueError(f"{bundle[:100]!r} is not namespace/model in lower case")
    name_of(bundle)
    ModelName.parse(f"x:{version}")
