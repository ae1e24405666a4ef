"""Registries as the publisher's tool reaches them: one session, one sign-in for each repository."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from appliance.transfer.contents import Connect
from appliance.transfer.identity import Identity
from appliance.transfer.patience import Patience
from appliance.transfer.registry import Registry, open_session
from appliance.transfer.sources import Source

PARTS = 4  # requests at once for one large blob

_PATIENCE = Patience()


def default_identity() -> Path:
    """The publisher's own key for registries that ask for one; made when it is first needed."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "hearth" / "id_ed25519"


@asynccontextmanager
async def connecting(
    identity: Path | None = None, patience: Patience = _PATIENCE
) -> AsyncIterator[Connect]:
    """Yields what makes a `Registry` of a source, the same one for the same source."""
    known = Identity(identity or default_identity())
    registries: dict[Source, Registry] = {}
    async with open_session(patience) as session:

        def connect(source: Source) -> Registry:
            if source not in registries:
                registries[source] = Registry(source, session, known, patience)
            return registries[source]

        yield connect
