"""What of a medium this box wants, and whether it may have it. Nothing is fetched yet.

whole    everything wanted lies on the medium in full length, as the medium calls it and as it is
         signed: a half-copied one changes nothing
trusted  each repository's metadata is taken from it, all or nothing, never backwards

Blocking.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from appliance.bundles.channel_document import ChannelDocument, name_of
from appliance.bundles.channel_state import split_key
from appliance.bundles.desired import channels_on, read_desired, target_of_channel
from appliance.bundles.layout import Entry, Layout
from appliance.bundles.medium import ref_of, require_whole
from appliance.bundles.release import Release
from appliance.bundles.resolve import target_of
from appliance.errors import ModelNameError, RegistryNotFoundError
from appliance.library.blobs import BlobStore
from appliance.library.manifest import Digest
from appliance.library.names import ModelName
from appliance.trust.errors import PolicyRefusedError, TrustCode, TrustError
from appliance.trust.policy import Offer, TrustPolicy, Way, effective_mode
from appliance.trust.repositories import Repositories

if TYPE_CHECKING:
    from appliance.trust.fetch import Source
    from appliance.trust.metadata import SignedTarget
    from appliance.trust.store import Trusted


@dataclass(frozen=True, slots=True)
class Receiver:
    """What a plan has to know of the box that wants something."""

    repositories: Repositories
    store: BlobStore
    installed: Sequence[ModelName]
    followed: Sequence[str]  # channels
    fitting: Callable[[ModelName, Release], str]  # see Bundles.fitting


@dataclass(frozen=True, slots=True)
class Plan:
    """The models to install from a medium, by repository, and what people should know of it.

    `heads` are the releases' indexes as the medium calls them, by name; `channels` those to look
    for and later what the medium says of them.
    """

    layout: Layout
    wanted: dict[str, list[ModelName]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    heads: dict[str, Digest] = field(default_factory=dict)
    channels: dict[str, bytes] = field(default_factory=dict)

    def pairs(self) -> Iterator[tuple[ModelName, str]]:
        """Each model with its repository."""
        for repository, names in self.wanted.items():
            yield from ((name, repository) for name in names)

    def require_any(self) -> None:
        """Raise PolicyRefusedError, or RegistryNotFoundError, if there is nothing to install."""
        if self.channels or any(self.wanted.values()):
            return
        if not self.remarks:
            raise RegistryNotFoundError(f"{self.layout.root} has no models")
        raise PolicyRefusedError(
            f"nothing in {self.layout.root} is for this box: {'; '.join(self.remarks[:4])}",
            rule="nothing_wanted",
            hint=_how_to_enrol(self.layout),
        )


def make_plan(
    layout: Layout, box: Receiver, names: Sequence[ModelName], follow: Sequence[str]
) -> Plan:
    """What to install: the models `names`, or else all that repositories of this box own, and the
    channels that it follows. `follow` are channels that it shall follow from now on.

    Models go under the name that the medium says, and under each other name of the box that means
    the same to the repository. Raises PolicyRefusedError, NotFoundError, RegistryError, TrustError.
    """
    plan = Plan(layout)
    entries = {entry.ref: entry for entry in layout.entries()}
    for name in names:
        entry = entries.get(ref_of(name))
        if entry is None:
            raise _not_there(name, entries)
        _add(plan, name, _signer(layout, box.repositories, name, entry))
    if not names:
        for entry in entries.values():
            _add_all(plan, box.repositories, entry, box.installed)
    _add_channels(plan, box, () if names else box.followed, follow)
    plan.require_any()
    for wanted in plan.wanted.values():
        for name in wanted:
            digest = plan.heads[ref_of(name)] = entries[ref_of(name)].digest
            require_whole(layout, box.store, ref_of(name), digest, partial(box.fitting, name))
    return plan


def trust_medium(
    plan: Plan, box: Receiver, *, all_must_be_listed: bool, follow: Sequence[str] = ()
) -> Plan:
    """Refresh what the repositories have signed from the medium; the plan without what they do not
    list any more, and without what a channel decides. Raises TrustError, RegistryError; then that
    repository is trusted as before."""
    trusted = Plan(plan.layout, remarks=list(plan.remarks), heads=plan.heads)
    for repository, names in plan.wanted.items():
        targets = [target_of(name) for name in names]
        must, may = (targets, []) if all_must_be_listed else ([], targets)
        keys = [key for key in plan.channels if split_key(key)[0] == repository]
        must += [target_of_channel(key) for key in keys if key in follow]
        may += [target_of_channel(key) for key in keys if key not in follow]

        def accept(found: "Trusted", names: Sequence[ModelName], keys: Sequence[str]) -> None:
            """What was signed counts only when it is here: what index.json says may be older."""
            for name in names:
                _require_signed(plan, box, name, found.targets.get(target_of(name)))
            for key in keys:
                target = found.targets.get(target_of_channel(key))
                _take_channel(trusted, key, target, is_asked_for=key in follow)

        source = metadata_source(plan.layout, repository)
        store = box.repositories.store(repository)
        check = partial(accept, names=names, keys=keys)
        listed = store.refresh(source, must, may, check).targets
        for name in names:
            if target_of(name) in listed:
                _add(trusted, name, repository)
            else:
                trusted.remarks.append(f"skipped {ref_of(name)}: {repository} does not list it")
    if not all_must_be_listed:
        _leave_to_channels(trusted, box.installed)
    trusted.require_any()
    return trusted


def metadata_source(layout: Layout, repository: str) -> "Source":
    """What a repository has signed, from the medium; its folder is reached without a link."""
    from appliance.trust.fetch import from_folder  # imports python-tuf, so only when needed

    return from_folder(layout.root, *layout.metadata_path(repository).split("/"))


def _require_signed(
    plan: Plan, box: Receiver, name: ModelName, signed: "SignedTarget | None"
) -> None:
    if signed is None or (digest := Digest(signed.sha256)) == plan.heads[ref_of(name)]:
        return
    require_whole(plan.layout, box.store, ref_of(name), digest, partial(box.fitting, name))


def _add_channels(
    plan: Plan, box: Receiver, followed: Sequence[str], follow: Sequence[str]
) -> None:
    """The channels to look for; those that are asked for must have a repository there."""
    there = plan.layout.repositories()
    for key in dict.fromkeys((*follow, *followed)):
        repository, _ = split_key(key)
        if key in follow:
            box.repositories.get(repository)
        if repository in there:
            plan.channels[key] = b""
            plan.wanted.setdefault(repository, [])
        elif key in follow:
            raise TrustError.of(
                TrustCode.INCOMPLETE, f"nothing that {repository} has signed is on the medium"
            )
    for key in channels_on(plan.layout):
        if key not in plan.channels:
            plan.remarks.append(f"skipped the channel {key}: this box does not follow it")


def _take_channel(
    plan: Plan, key: str, signed: "SignedTarget | None", *, is_asked_for: bool
) -> None:
    data = None
    if signed is not None and not signed.is_revoked:
        data = read_desired(plan.layout, key, Digest(signed.sha256))
    if data is not None:
        plan.channels[key] = data
    elif is_asked_for:
        raise TrustError.of(
            TrustCode.INCOMPLETE, f"what the channel {key} says now is not on the medium"
        )
    else:
        plan.remarks.append(f"skipped the channel {key}: what it says now is not on the medium")


def _leave_to_channels(plan: Plan, installed: Sequence[ModelName]) -> None:
    """A bundle that a channel speaks of comes in the version that the channel names, and in others
    only under the names of versions that the box has already."""
    for key, data in plan.channels.items():
        try:
            bundles = ChannelDocument.parse(data).bundles
        except TrustError:
            continue  # who takes it tells so
        ours = {name_of(bundle).path.parent for bundle in bundles}
        for repository, names in plan.wanted.items():
            kept = [
                name
                for name in names
                if name.path.parent not in ours or (name.tag != "latest" and name in installed)
            ]
            if len(kept) < len(names):
                plan.wanted[repository] = kept
                plan.remarks.append(f"the channel {key} decides on {', '.join(sorted(bundles))}")


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
