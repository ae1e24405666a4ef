"""Patterns of model names, and which of several repositories owns a name. Pure rules.

A pattern is `[host/]namespace/model`; each part may end in `*`, which stands for any rest. Without
a host it means names of the default registry. Case does not matter, as in names.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from appliance.errors import ConfigError
from appliance.library.names import DEFAULT_HOST, ModelName

_PART = re.compile(r"(?=.)[a-z0-9_.:-]{0,350}\*?")


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A set of model names: host, namespace and model, lower case, each perhaps ending in `*`."""

    parts: tuple[str, str, str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ConfigError for anything but two or three parts of name characters."""
        parts = tuple(text.lower().split("/"))
        if len(parts) == 2:
            parts = (DEFAULT_HOST, *parts)
        if len(parts) != 3 or not all(_PART.fullmatch(part) for part in parts):
            raise ConfigError(
                f"{text[:100]!r} is not a name pattern",
                hint="write [host/]namespace/model, each part perhaps ending in '*': acme/*",
            )
        return cls((parts[0], parts[1], parts[2]))

    def matches(self, name: ModelName) -> bool:
        texts = (name.host.lower(), name.namespace.lower(), name.model.lower())
        return all(map(_contains, self.parts, texts))

    def contains(self, other: Self) -> bool:
        """Whether every name of `other` is also ours."""
        return all(map(_contains, self.parts, other.parts))

    def meets(self, other: Self) -> bool:
        """Whether some name could match both."""
        pairs = zip(self.parts, other.parts, strict=True)
        return all(_contains(a, b) or _contains(b, a) for a, b in pairs)

    @property
    def length(self) -> tuple[int, int]:
        """Order of precision: characters that are fixed, then parts without a star."""
        fixed = sum(len(part.rstrip("*")) for part in self.parts)
        return fixed, sum(not part.endswith("*") for part in self.parts)

    def __str__(self) -> str:
        return "/".join(self.parts[1:] if self.parts[0] == DEFAULT_HOST else self.parts)


def _contains(pattern: str, part: str) -> bool:
    """Whether the part, itself perhaps ending in `*`, is covered by the pattern."""
    if pattern.endswith("*"):
        return part.startswith(pattern[:-1])
    return part == pattern


def owner_of(name: ModelName, owned: Mapping[str, Iterable[NamePattern]]) -> str | None:
    """The repository whose longest pattern matches, or None; `owned` is by repository name."""
    found = [
        (pattern.length, repository)
        for repository, patterns in owned.items()
        for pattern in patterns
        if pattern.matches(name)
    ]
    return max(found)[1] if found else None


def check_owners(owned: Mapping[str, Iterable[NamePattern]]) -> None:
    """Raise ConfigError where a name would have two owners.

    A narrower pattern may lie inside a wider one of another repository: the longer wins. Equal or
    crossing patterns leave the owner to chance, and are refused.
    """
    pairs = [(repo, pattern) for repo, patterns in owned.items() for pattern in patterns]
    for index, (repo, pattern) in enumerate(pairs):
        for other_repo, other in pairs[index + 1 :]:
            if repo != other_repo and pattern.meets(other) and not _is_nested(pattern, other):
                raise ConfigError(
                    f"{pattern} of repository {repo} and {other} of {other_repo} overlap",
                    hint="every name belongs to one repository; narrow one of the patterns",
                )


def _is_nested(a: NamePattern, b: NamePattern) -> bool:
    return a.contains(b) != b.contains(a)
