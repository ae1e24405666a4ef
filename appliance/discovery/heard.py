"""One record as it was heard on a link, and what may be taken from it. Pure.

mDNS is unauthenticated: every text in it may come from an attacker.
"""

from dataclasses import dataclass
from enum import Enum

MAX_TXT_BYTES = 1300  # RFC 6763, 6.2: more is never needed; longer ones are not read
MAX_KEYS = 32


class Kind(Enum):
    """The record types that matter to us."""

    POINTER = 12
    TEXT = 16
    SERVICE = 33
    ADDRESS = 1  # A and AAAA


@dataclass(frozen=True, slots=True)
class Heard:
    """A record; names have a final dot. Only the fields of its kind are set."""

    kind: Kind
    name: str
    ttl_s: int  # 0: a goodbye
    target: str = ""  # pointer: the instance; service: the host
    port: int = 0
    address: str = ""  # without a zone
    text: bytes = b""


def clean(text: str, limit: int) -> str:
    """`text` as one printable line of at most `limit` characters."""
    return "".join(c if c.isprintable() else " " for c in text[: 4 * limit]).strip()[:limit]


def parse_text(data: bytes) -> dict[str, str]:
    """The keys of a TXT record, lower case, the first of each (RFC 6763, 6.4), values cleaned."""
    found: dict[str, str] = {}
    if len(data) > MAX_TXT_BYTES:
        return found
    start = 0
    while start < len(data) and len(found) < MAX_KEYS:
        length = data[start]
        item = data[start + 1 : start + 1 + length].decode(errors="replace")
        start += 1 + length
        key, _, value = item.partition("=")
        if key and key.isascii() and key.isprintable():
            found.setdefault(key.lower(), clean(value, 255))
    return found
