"""What a site's enrolment file says, `site-root.json`, and whether its root has signed that.

    {"root":       the root of the site's repository, TUF metadata that signs itself,
     "signed":     {"repository": as in repositories.py, "expires": RFC 3339, "admin_key": ...},
     "signatures": [{"keyid": ..., "sig": ...}, ...]}  by the keys of the root, over "signed" in
                   the canonical form that TUF's own signatures cover

A box believes such a file for how it comes: it lies on the boot partition of a box without an owner
(enrolling.py). The signatures keep anybody on the way from changing what the officers have signed.
`admin_key` holds the hash of a key, so the file itself opens nothing. Pure, but for the import of
python-tuf.
"""

import datetime
import json
from typing import Annotated

import msgspec

from appliance.trust.errors import TrustCode, TrustError
from appliance.trust.repositories import MAX_ROOT_BYTES, Candidate, Repository, read_root

FILE = "site-root.json"
MAX_FILE_BYTES = MAX_ROOT_BYTES + 65_536
_AGAIN = "make a new one with `bundle enrolment new`, and put it on the boot partition"


class AdminKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key of the site's administrators: what `hearth_<id>_<secret>` is kept as on a box."""

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-z]{1,32}$")]
    secret_sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Enrolment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the officers of a site have signed. Without `admin_key` only the box itself manages."""

    repository: Repository
    expires: datetime.datetime
    admin_key: AdminKey | None = None


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: str
    sig: str


class Paper(msgspec.Struct, forbid_unknown_fields=True):
    """The file. `root` and `signed` stay as they came: signatures cover every field."""

    root: dict[str, object]
    signed: dict[str, object]
    signatures: list[Signature] = []

    @property
    def root_bytes(self) -> bytes:
        return json.dumps(self.root).encode()


def read_paper(data: bytes) -> tuple[Paper, Enrolment, Candidate]:
    """The file's parts, whose signatures and date nobody has looked at yet; raises TrustError."""
    if len(data) > MAX_FILE_BYTES:
        raise TrustError.of(
            TrustCode.TOO_LARGE, f"{FILE} has more than {MAX_FILE_BYTES} bytes", hint=_AGAIN
        )
    try:
        # Parsed once, so that nothing can be read in two ways
        paper = msgspec.convert(json.loads(data), Paper)
        enrolment = msgspec.convert(paper.signed, Enrolment)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        said = str(error)[:200]
        raise TrustError.of(
            TrustCode.MALFORMED, f"{FILE} is not an enrolment file: {said}", hint=_AGAIN
        ) from error
    if not enrolment.repository.is_site or enrolment.expires.tzinfo is None:
        raise TrustError.of(
            TrustCode.MALFORMED,
            f"{FILE} must say is_site, and when it expires with a time zone",
            hint=_AGAIN,
        )
    enrolment.repository.check()
    return paper, enrolment, read_root(paper.root_bytes)


def read_enrolment(data: bytes, now_s: int) -> tuple[Enrolment, Candidate]:
    """What the root in `data` has signed, and that root; raises TrustError, and ConfigError for
    values that cannot be."""
    from appliance.trust import metadata

    paper, enrolment, candidate = read_paper(data)
    signatures = {each.keyid: each.sig for each in paper.signatures}
    if not metadata.is_signed_by_root(candidate.root, paper.signed, signatures):
        raise TrustError.of(
            TrustCode.SIGNATURE,
            f"{FILE} is not signed by {candidate.threshold} of the keys of the root in it",
            hint="somebody changed it, or not all officers have signed it"
            " (`bundle enrolment sign`); compare it with what the site keeps",
        )
    if enrolment.expires.timestamp() <= now_s:
        raise TrustError.of(
            TrustCode.EXPIRED,
            f"{FILE} was good until {enrolment.expires:%Y-%m-%d %H:%M %Z}",
            hint=f"{_AGAIN}; or set the clock if it is wrong",
        )
    return enrolment, candidate
