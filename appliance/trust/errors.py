"""Why something was not trusted: twelve stable codes, each with its one-sentence cure.

The codes are part of the API and of the documentation and never change; `CURES` is the table that
the command line and the docs print. Knows nothing of files, networks or metadata formats.
"""

from enum import StrEnum
from typing import Self

from appliance.errors import ApplianceError


class TrustCode(StrEnum):
    """What was wrong, as programs see it."""

    UNREACHABLE = "unreachable"  # the source did not answer, or with an error of its own
    INCOMPLETE = "incomplete"  # the source answers, but a file that must be there is not
    STALLED = "stalled"  # too slow: no data for a while, or past the total deadline
    TOO_LARGE = "too_large"  # more bytes than the file may have
    MALFORMED = "malformed"  # not metadata, or metadata that makes no sense
    SIGNATURE = "signature"  # not signed by enough of the keys that may sign it
    ROLLBACK = "rollback"  # older than what this box has already seen
    MIX = "mix"  # valid files that do not belong together
    EXPIRED = "expired"  # past the date that its signer gave it, or the clock is wrong
    NOT_LISTED = "not_listed"  # no publisher lists the name
    DIGEST = "digest"  # the bytes are not those that were signed or locked
    POLICY = "policy"  # true and signed perhaps, but this box must not take it


CURES: dict[TrustCode, str] = {
    TrustCode.UNREACHABLE: "check the network and the repository's address, then try again; "
    "installed models go on working",
    TrustCode.INCOMPLETE: "copy the medium again, or ask the publisher to publish the whole "
    "repository; nothing was changed",
    TrustCode.STALLED: "try again later or from a nearer mirror; nothing half-received was kept",
    TrustCode.TOO_LARGE: "the source sends more than a repository may; use another mirror and "
    "tell the publisher",
    TrustCode.MALFORMED: "the file is damaged or not ours; copy or publish it again",
    TrustCode.SIGNATURE: "do not install this; ask the publisher whether keys were rotated, and "
    "compare the fingerprint with `hearth trust show`",
    TrustCode.ROLLBACK: "the source is older than what this box has seen; use a newer medium or "
    "the publisher's own address",
    TrustCode.MIX: "the files come from different releases; copy the medium again or wait until "
    "the publisher has finished publishing",
    TrustCode.EXPIRED: "get newer metadata from the publisher, or set the clock if it is wrong; "
    "installed models go on working",
    TrustCode.NOT_LISTED: "check the name with the publisher; the repository does not list it",
    TrustCode.DIGEST: "the bytes differ from what was signed; get them from another source",
    TrustCode.POLICY: "ask an administrator of this box; `hearth trust list` shows what it accepts",
}


class TrustError(ApplianceError):
    """Something is not trusted; what is installed is unchanged. `code` is one of TrustCode."""

    code: str = TrustCode.MALFORMED.value

    @classmethod
    def of(cls, code: TrustCode, message: str, *, hint: str = "") -> Self:
        """The error with this code, and its cure unless a better hint is given."""
        error = cls(message, hint=hint or CURES[code])
        error.code = code.value
        return error


class PolicyRefusedError(TrustError):
    """This box's policy says no; `rule` names which part of it."""

    code = TrustCode.POLICY.value

    def __init__(self, message: str, *, rule: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint or CURES[TrustCode.POLICY])
        self.rule = rule


class ConfirmationNeededError(PolicyRefusedError):
    """The same wish, confirmed by a person, would be granted."""

    code = "confirmation_needed"
