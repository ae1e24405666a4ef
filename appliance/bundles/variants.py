"""Which variant of a release suits a box: a pure function that tells its reasons.

hard requirements   architecture, accelerator, memory, disk, engine: unmet ones rule a variant out
then                the highest rank; of equals the smaller, then the first in the index
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from appliance.bundles.release import Release, Requires, Variant
from appliance.errors import MemoryFitError


@dataclass(frozen=True, slots=True)
class Facts:
    """What a box has. MiB that models may use; `accelerators` is versions by kind, as numbers."""

    arch: str
    ram_mib: int
    disk_mib: int
    vram_mib: int = 0
    accelerators: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    engines: frozenset[str] = frozenset({"llama"})


@dataclass(frozen=True, slots=True)
class VariantChoice:
    """`variant` is None where none fits; `reasons` has one line for each that was looked at."""

    variant: Variant | None
    reasons: tuple[str, ...]

    def require(self) -> Variant:
        """The chosen one; raises MemoryFitError that tells why no variant fits."""
        if self.variant is None:
            raise MemoryFitError(
                "no variant of the release fits this box: " + "; ".join(self.reasons),
                hint="ask the publisher for a smaller variant, or use a larger box",
            )
        return self.variant


def choose_variant(release: Release, facts: Facts, pinned: str = "") -> VariantChoice:
    """The best variant for `facts`; `pinned` names the only one that may be taken.

    A pinned variant still has to fit: a wish does not add memory.
    """
    obstacles = {variant.name: _obstacles(variant, facts) for variant in release.variants}
    candidates = [
        variant
        for variant in release.variants
        if not obstacles[variant.name] and pinned in {"", variant.name}
    ]
    chosen = max(candidates, key=lambda v: (v.rank, -v.requires.disk_mib, -v.size), default=None)
    reasons = [
        _reason(variant, obstacles[variant.name], chosen, pinned) for variant in release.variants
    ]
    if pinned and pinned not in obstacles:
        known = ", ".join(obstacles)
        reasons.append(f"{pinned}: pinned, but the release has only {known}")
    return VariantChoice(chosen, tuple(reasons))


def _obstacles(variant: Variant, facts: Facts) -> list[str]:
    requires = variant.requires
    found = []
    if requires.arch not in {"any", facts.arch}:
        found.append(f"is for {requires.arch}, this box is {facts.arch}")
    if (obstacle := _accelerator_obstacle(requires, facts)) is not None:
        found.append(obstacle)
    sizes = (
        ("memory", requires.ram_mib, facts.ram_mib),
        ("GPU memory", requires.vram_mib, facts.vram_mib),
        ("disk", requires.disk_mib, facts.disk_mib),
    )
    found += [
        f"needs {needed} MiB of {what}, {have} MiB can be had"
        for what, needed, have in sizes
        if needed > have
    ]
    if variant.engine and variant.engine not in facts.engines:
        found.append(
            f"needs the engine {variant.engine}, here are {_listed(sorted(facts.engines))}"
        )
    return found


def _accelerator_obstacle(requires: Requires, facts: Facts) -> str | None:
    kind = requires.accelerator_kind
    if kind == "cpu":
        return None
    version = facts.accelerators.get(kind)
    if version is None:
        return f"needs {requires.accelerator}, this box has {_listed(sorted(facts.accelerators))}"
    if version < requires.accelerator_version:
        return f"needs {requires.accelerator}, this box has {'.'.join(map(str, version))}"
    return None


def _reason(variant: Variant, obstacles: Sequence[str], chosen: Variant | None, pinned: str) -> str:
    if obstacles:
        return f"{variant.name}: {', '.join(obstacles)}"
    if variant is chosen:
        return f"{variant.name}: chosen, {'pinned' if pinned else f'rank {variant.rank}'}"
    if pinned:
        return f"{variant.name}: fits, but {pinned} is pinned"
    return f"{variant.name}: fits, rank {variant.rank} is not the best"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"
