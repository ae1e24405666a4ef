"""Model names: `[host/][namespace/]model[:tag]`, parsed once, safe as a path, equal in any case.

Grammar and defaults are Ollama's (types/model/name.go). Knows nothing of what is installed.
"""

import re
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath
from typing import Self

from appliance.errors import ModelNameError

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

# every part starts with a letter, digit or underscore, so none can be "." or ".." or hidden
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL = _TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")

_GRAMMAR = (
    "a name is [host/][namespace/]model[:tag]; each part starts with a letter, digit or '_' and "
    "has at most 80 letters, digits, '_', '-' or '.'"
)


@dataclass(frozen=True, slots=True, eq=False)
class ModelName:
    """One model, fully named. Keeps the case it was written in; compares without it."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """`text` with defaults filled in; raises ModelNameError."""
        rest, tag = _cut_tag(text)
        rest, slash, model = rest.rpartition("/")
        namespace = host = None
        if slash:
            rest, slash, namespace = rest.rpartition("/")
        if slash:
            host = rest.removeprefix("https://").removeprefix("http://")
        return cls._checked(
            text,
            DEFAULT_HOST if host is None else host,
            DEFAULT_NAMESPACE if namespace is None else namespace,
            model,
            DEFAULT_TAG if tag is None else tag,
        )

    @classmethod
    def from_path(cls, path: PurePath) -> Self:
        """The name that a manifest's path below `manifests/` stands for; raises ModelNameError."""
        if path.is_absolute() or len(path.parts) != 4:
            raise ModelNameError("invalid model name", hint="a manifest lies exactly 4 levels deep")
        return cls._checked(str(path), *path.parts)

    @classmethod
    def _checked(cls, text: str, host: str, namespace: str, model: str, tag: str) -> Self:
        patterns = ((_HOST, host), (_NAMESPACE, namespace), (_MODEL, model), (_TAG, tag))
        if not all(pattern.fullmatch(part) for pattern, part in patterns):
            raise ModelNameError("invalid model name", hint=f"got {text[:100]!r}; {_GRAMMAR}")
        return cls(host, namespace, model, tag)

    @property
    def short(self) -> str:
        """The shortest text that parses to this name, always with the tag: `llama3:8b`."""
        local = f"{self.model}:{self.tag}"
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{local}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{local}"
        return local

    @property
    def full(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def path(self) -> PurePosixPath:
        """Where the manifest lies below `manifests/`."""
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    def __str__(self) -> str:
        return self.short

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelName) and self.full.lower() == other.full.lower()

    def __lt__(self, other: Self) -> bool:
        return self.full.lower() < other.full.lower()

    def __hash__(self) -> int:
        return hash(self.full.lower())


def _cut_tag(text: str) -> tuple[str, str | None]:
    """Split at the last colon, unless that one belongs to the host's port or a scheme."""
    colon = text.rfind(":")
    if colon > text.rfind("/"):
        return text[:colon], text[colon + 1 :]
    return text, None
