"""A box that trusts one simulated repository, reading it from a stick or over the network."""

import asyncio
import shutil
import time
from contextlib import nullcontext

import aiohttp
import pytest

from appliance.transfer.opener import Opener
from appliance.trust.clock import ClockReading
from appliance.trust.errors import TrustError
from appliance.trust.fetch import Limits, from_folder, from_url
from appliance.trust.repositories import Repositories, Repository, read_root
from tests.fakes.tuf_repository import TufRepository, serving, tree

NAME = "acme/assistant/1.2.0"
ACME = Repository("acme", ("acme/*",))


class Box:
    """`refresh` reads the repository as it is now; `state` is every byte that the box trusts."""

    def __init__(self, folder, repository, server=None, limits=None):
        self.repository = repository
        self.server = server
        self.clock = ClockReading(int(time.time()), is_synced=True)
        self.stick = folder / "stick"
        self.folder = folder / "trust"
        self.limits = limits or Limits(stall_s=20, total_s=60)
        self.repositories = Repositories(self.folder, lambda: self.clock)
        root = repository.files["1.root.json"]
        self.repositories.enrol(ACME, root, read_root(root).fingerprint)
        self.store = self.repositories.store("acme")

    def refresh(self, *wanted):
        if self.server is None:
            shutil.rmtree(self.stick, ignore_errors=True)
            self.repository.write_to(self.stick)
        return self.refresh_again(*wanted)

    def refresh_again(self, *wanted):
        """Like `refresh`, from the stick as it lies there."""
        if self.server is None:
            return self.store.refresh(from_folder(self.stick), wanted)
        return asyncio.run(self._refresh_by_http(wanted))

    def refused(self, *wanted):
        """The code with which a refresh is refused; fails if it is not."""
        with pytest.raises(TrustError) as caught:
            self.refresh(*wanted)
        assert caught.value.hint
        return caught.value.code

    def state(self):
        """Every byte below the trust folder, but for the empty lock."""
        return {name: data for name, data in tree(self.folder).items() if name != "acme/lock"}

    def current(self):
        """Every byte of the state that counts now."""
        return self.store.files()

    def versions(self):
        return dict(self.store.read().versions)

    async def _refresh_by_http(self, wanted):
        url = f"{self.server.url}metadata/"
        async with aiohttp.ClientSession() as session:
            source = from_url(url, Opener(session), asyncio.get_running_loop(), self.limits)
            return await asyncio.to_thread(self.store.refresh, source, wanted)


def opened(form, repository):
    """The server for a form: "network" has one, "stick" none."""
    return serving(repository) if form == "network" else nullcontext()


def published(hashes=True):
    """A repository with a publisher and two published states; the older is in `.old`."""
    repo = TufRepository(hashes)
    repo.delegate("acme", ["acme/*/*"])
    repo.delegate("rival", ["rival/*/*"])
    repo.add(NAME, b"one", "acme")
    repo.publish("targets", "acme", "rival")
    repo.old = repo.saved()
    repo.old_acme = repo.roles["acme"].version
    repo.publish("targets", "acme", "rival")
    return repo
