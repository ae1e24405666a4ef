"""What enrolled repositories list under the names that they own, and where its bytes may be had.

A name belongs to one repository. Whoever wants something of it says where to look: at the
repository's own addresses, or at an `Origin` such as a medium. Asking moves the repository's
trusted metadata forward, never anything else.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.bundles.parts import Wish
from appliance.bundles.resolve import Documents, Origin, Word, ask, target_of
from appliance.bundles.revoke import taken_back
from appliance.bundles.state import BundleState
from appliance.library.library import Library
from appliance.library.manifest import Digest
from appliance.library.names import ModelName
from appliance.transfer.content import Content
from appliance.transfer.transfers import Transfers
from appliance.trust.errors import PolicyRefusedError, TrustCode, TrustError
from appliance.trust.repositories import Repositories, Repository

if TYPE_CHECKING:
    from appliance.trust.fetch import Source


@dataclass(frozen=True, slots=True)
class Listings:
    """Asks repositories. Everything raises TrustError for what cannot be believed."""

    library: Library
    repositories: Repositories
    transfers: Transfers

    def require_owner(self, name: ModelName) -> Repository:
        """Who has to sign `name`; raises PolicyRefusedError if nobody has. Blocking."""
        repository = self.repositories.owner(name)
        if repository is None:
            raise PolicyRefusedError(
                f"no enrolled repository signs {name.short}",
                rule="unowned",
                hint="enrol the publisher's repository with `hearth trust add`",
            )
        return repository

    async def ask(
        self,
        repository: Repository,
        origin: Origin | None,
        name: ModelName,
        state: BundleState,
    ) -> Word:
        """What is listed under the name, and of the releases that are here."""
        kept = [kept.target for kept in (state.active, state.previous) if kept and kept.target]
        return await self.look_up(repository, origin, [target_of(name, state.pinned), *kept])

    async def look_up(
        self, repository: Repository, origin: Origin | None, targets: Sequence[str]
    ) -> Word:
        store = await asyncio.to_thread(self.repositories.store, repository.name)
        source = origin.metadata if origin else await self._network_source(repository)
        return await asyncio.to_thread(ask, store, source, targets)

    async def document(self, repository: Repository, target: str, max_bytes: int) -> bytes:
        """A signed document that is no release, as the repository lists it now. Raises also
        RegistryError."""
        listed = (await self.look_up(repository, None, [target])).targets[target]
        if listed is None or listed.is_revoked:
            raise TrustError.of(TrustCode.NOT_LISTED, f"{repository.name} lists no {target}")
        documents = Documents(self.library, self.contents(repository, None), target)
        return await documents.get(Digest(listed.sha256), min(listed.length, max_bytes))

    def contents(self, repository: Repository, origin: Origin | None) -> tuple[Content, ...]:
        """Where to get what it lists, best first."""
        return origin.contents if origin else self.transfers.contents(repository.addresses)

    def wish(
        self,
        name: ModelName,
        state: BundleState,
        word: Word,
        contents: tuple[Content, ...],
        variant: str,
        retry: bool,
    ) -> Wish:
        """The release that is listed; raises TrustError if there is none that may be installed."""
        target = target_of(name, state.pinned)
        listed = word.targets[target]
        if listed is None:
            raise TrustError.of(
                TrustCode.NOT_LISTED, f"{state.repository} lists no release as {target}"
            )
        if listed.is_revoked:
            raise taken_back(target)
        return Wish(name, Digest(listed.sha256), listed.length, contents, variant, retry)

    async def version_target(
        self, repository: Repository, origin: Origin | None, wish: Wish, version: str
    ) -> str:
        """The target that lists the release for good, where the name was only a pointer to it;
        empty if there is none. Raises PolicyRefusedError if it was taken back there."""
        target = target_of(wish.name, version)
        listed = (await self.look_up(repository, origin, [target])).targets[target]
        if listed is None or listed.sha256 != wish.index.hex:
            return ""
        if listed.is_revoked:
            raise taken_back(target)
        return target

    async def _network_source(self, repository: Repository) -> "Source":
        if not repository.metadata_url:
            raise TrustError.of(
                TrustCode.UNREACHABLE,
                f"the repository {repository.name} has no address; it comes by removable media",
                hint="import a stick with `hearth import`; --follow follows a channel of it",
            )
        opener, loop = self.transfers.opener(), asyncio.get_running_loop()

        def make() -> "Source":
            from appliance.trust.fetch import from_url  # imports python-tuf, so in a thread

            return from_url(repository.metadata_url, opener, loop)

        return await asyncio.to_thread(make)
