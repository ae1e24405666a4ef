"""One line of a transfer's progress, in the words and fields of Ollama's API."""

from collections.abc import Callable
from dataclasses import dataclass

from appliance.library.manifest import Digest

SHORT_DIGEST = 12  # hexadecimal digits that a status line shows


@dataclass(frozen=True, slots=True)
class Progress:
    """`status`, and for a blob its digest and bytes (Ollama API, /api/pull)."""

    status: str
    digest: str = ""
    total: int = 0  # bytes
    completed: int = 0

    @classmethod
    def of_blob(cls, verb: str, digest: Digest, total: int, completed: int) -> "Progress":
        """`pulling 0123456789ab`, with how far it is."""
        return cls(f"{verb} {digest.hex[:SHORT_DIGEST]}", str(digest), total, completed)


Tell = Callable[[Progress], None]
