"""Who may have good bytes of a damaged part of a signed release: its repository's own addresses."""

import asyncio
from collections.abc import Sequence

from appliance.bundles.bundles import Bundles
from appliance.errors import ApplianceError
from appliance.library.names import ModelName
from appliance.library.scrub import Damage
from appliance.transfer.repair import ContentRepairer, Repairer
from appliance.transfer.transfers import Transfers


class ReleaseFinder:
    """A finder for `Repairs.add_finder`. The repository of a name gave its blobs, so it is asked
    without anybody's wish."""

    def __init__(self, bundles: Bundles, transfers: Transfers) -> None:
        self._bundles = bundles
        self._transfers = transfers

    async def __call__(self, damage: Damage, _is_asked_for: bool) -> Sequence[Repairer]:
        found: dict[tuple[str, str], Repairer] = {}
        for name, addresses in await asyncio.to_thread(self._owners, damage):
            repository = f"{name.namespace}/{name.model}"
            for content in self._transfers.contents(addresses):
                key = (str(content), repository)
                found.setdefault(key, ContentRepairer(content, repository))
        return list(found.values())

    def _owners(self, damage: Damage) -> list[tuple[ModelName, Sequence[str]]]:
        """The signed names whose kept releases have the blob, and where these come from."""
        found: list[tuple[ModelName, Sequence[str]]] = []
        for state in self._bundles.states():
            name = ModelName.parse(state.name)
            if damage.digest not in state.digests and name not in damage.models:
                continue
            try:
                owner = self._bundles.owner(name)
            except ApplianceError:
                continue  # its repository's files are damaged: the doctor says so
            if owner is not None:
                found.append((name, owner.addresses))
        return found
