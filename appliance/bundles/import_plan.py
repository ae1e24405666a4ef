"""What of a medium this box wants, and whether it may have it. Nothing is fetched yet.

whole    everything wanted lies on the medium in full length: a half-copied one changes nothing
trusted  each repository's metadata is taken from it, all or nothing, never backwards

Blocking.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.bundles.layout import Entry, Layout
from appliance.bundles.medium import ref_of, require_whole
from appliance.bundles.resolve import target_of
from appliance.errors import ModelNameError, RegistryNotFoundError
from appliance.library.blobs import BlobStore
from appliance.library.names import ModelName
from appliance.trust.errors import PolicyRefusedError, TrustCode, TrustError
from appliance.trust.policy import Offer, TrustPolicy, Way, effective_mode
from appliance.trust.repositories import Repositories

if TYPE_CHECKING:
    from appliance.trust.fetch import Source


@dataclass(frozen=True, slots=True)
class Plan:
    """The models to install from a medium, by repository, and what people should know of it."""

    layout: Layout
    wanted: dict[str, list[ModelName]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def pairs(self) -> Iterator[tuple[ModelName, str]]:
        """Each model with its repository."""
        for repository, names in self.wanted.items():
            yield from ((name, repository) for name in names)

    def require_any(self) -> None:
        """Raise PolicyRefusedError, or RegistryNotFoundError, if there is nothing to install."""
        if any(self.wanted.values()):
            return
        if not self.remarks:
            raise RegistryNotFoundError(f"{self.layout.root} has no models")
        raise PolicyRefusedError(
            f"nothing in {self.layout.root} is for this box: {'; '.join(self.remarks[:4])}",
            rule="nothing_wanted",
            hint=_how_to_enrol(self.layout),
        )


def make_plan(
    layout: Layout,
    repositories: Repositories,
    store: BlobStore,
    names: Sequence[ModelName],
    installed: Iterable[ModelName],
) -> Plan:
    """What to install: the models `names`, or else all that repositories of this box own.

    Those go under the name that the medium says, and under each other name of `installed` that
    means the same to the repository. Raises PolicyRefusedError, RegistryError, TrustError.
    """
    plan = Plan(layout)
    entries = {entry.ref: entry for entry in layout.entries()}
    for name in names:
        entry = entries.get(ref_of(name))
        if entry is None:
            raise _not_there(name, entries)
        _add(plan, name, _signer(layout, repositories, name, entry))
    if not names:
        here = list(installed)
        for entry in entries.values():
            _add_all(plan, repositories, entry, here)
    plan.require_any()
    for wanted in plan.wanted.values():
        for ref in sorted({ref_of(name) for name in wanted}):
            require_whole(layout, store, ref, entries[ref].digest)
    return plan


def trust_medium(plan: Plan, repositories: Repositories, *, all_must_be_listed: bool) -> Plan:
    """Refresh what the repositories have signed from the medium; the plan without what they do not
    list any more. Raises TrustError; then that repository is trusted as before."""
    trusted = Plan(plan.layout, remarks=list(plan.remarks))
    for repository, names in plan.wanted.items():
        targets = [target_of(name) for name in names]
        must, may = (targets, []) if all_must_be_listed else ([], targets)
        source = metadata_source(plan.layout, repository)
        listed = repositories.store(repository).refresh(source, must, may).targets
        for name in names:
            if target_of(name) in listed:
                _add(trusted, name, repository)
            else:
                trusted.remarks.append(f"skipped {ref_of(name)}: {repository} does not list it")
    trusted.require_any()
    return trusted


def metadata_source(layout: Layout, repository: str) -> "Source":
    """What a repository has signed, from the medium; its folder is reached without a link."""
    from appliance.trust.fetch import from_folder  # imports python-tuf, so only when needed

    return from_folder(layout.root, *layout.metadata_path(repository).split("/"))


def _add(plan: Plan, name: ModelName, repository: str) -> None:
    plan.wanted.setdefault(repository, []).append(name)


def _add_all(
    plan: Plan, repositories: Repositories, entry: Entry, installed: Sequence[ModelName]
) -> None:
    name = _named(entry)
    if name is None:
        plan.remarks.append(f"skipped {entry.ref[:80]!r}: it is no model's name")
        return
    names = {name, *(other for other in installed if ref_of(other) == entry.ref)}
    for each in sorted(names):
        try:
            _add(plan, each, _signer(plan.layout, repositories, each, entry))
        except (PolicyRefusedError, TrustError) as error:
            plan.remarks.append(f"skipped {entry.ref}: {error}")


def _named(entry: Entry) -> ModelName | None:
    """The model that an entry is called after; None unless it is `ref_of` that name: a host, or
    another case, would be a second way to write a name that another entry may have."""
    try:
        name = ModelName.parse(entry.ref)
    except ModelNameError:
        return None
    return name if ref_of(name) == entry.ref else None


def _signer(layout: Layout, repositories: Repositories, name: ModelName, entry: Entry) -> str:
    """The repository that has to have signed the entry; raises PolicyRefusedError or TrustError
    if there is none, or the medium says nothing of it."""
    owned = repositories.owned()
    policy = TrustPolicy(effective_mode(None, repositories.has_site_root()), owned=owned)
    decision = policy.decide(Offer(name, host="", way=Way.REMOVABLE))
    if decision.repository is None and entry.is_release:
        raise PolicyRefusedError(
            f"no enrolled repository signs {entry.ref}", rule="unowned", hint=_how_to_enrol(layout)
        )
    decision.require(confirmed=False)  # refuses what is unsigned, in every mode
    repository = decision.repository
    assert repository is not None
    if not entry.is_release:
        raise PolicyRefusedError(
            f"{entry.ref} is unsigned on the medium, and {repository} owns the name: it comes"
            " signed or not at all",
            rule="owned",
        )
    if repository not in layout.repositories():
        raise TrustError.of(
            TrustCode.INCOMPLETE,
            f"{entry.ref} belongs to the repository {repository}, and nothing that it signed is"
            " on the medium",
        )
    return repository


def _how_to_enrol(layout: Layout) -> str:
    known: Mapping[str, str] = {name: f"hearth trust add {name}" for name in layout.repositories()}
    if not known:
        return "media bring in only what a repository has signed, and this one has no signatures"
    first = next(iter(known.values()))
    return (
        f"the medium was signed by {', '.join(known)}: compare the fingerprint with the publisher's"
        f" and enrol it, with `{first} {layout.root} --names …`"
    )


def _not_there(name: ModelName, entries: Mapping[str, Entry]) -> RegistryNotFoundError:
    some = ", ".join([ref for ref, entry in sorted(entries.items()) if _named(entry)][:8])
    return RegistryNotFoundError(
        f"{name.short} is not on the medium", hint=f"it has {some}" if some else ""
    )
