"""What tests of interrupted pulls share: a victim, a registry of versions, and the one check."""

import asyncio
import hashlib
import random
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

from appliance.library.library import Library
from tests.fakes.fault_proxy import fault_proxy
from tests.fakes.gguf_builder import tiny_llama_bytes
from tests.integration import pull_victim
from tests.integration.pulls import digest_of, offer

FOREVER_S = 60


class Pulls:
    """One model whose newest version a victim pulls again and again into `state`."""

    def __init__(self, proxy, victim, state, mib):
        self.state = state
        self.versions = [tiny_llama_bytes(ballast_mib=mib, seed=seed) for seed in range(2)]
        self.digests = [digest_of(data) for data in self.versions]
        self.wanted = 0
        self._proxy = proxy
        self._victim = victim

    async def begin(self, delay_s=FOREVER_S):
        """Pull the wanted version; `killed` after `delay_s` or `done` before."""
        offer(self._proxy, self.versions[self.wanted])
        self._victim.stdin.write(f"{delay_s}\n")
        self._victim.stdin.flush()
        answer = (await asyncio.to_thread(self._victim.stdout.readline)).strip()
        assert answer in {"killed", "done"}, answer
        return answer

    def process(self):
        """The process that pulls; the victim itself when none does."""
        victim = self._victim.pid
        children = Path(f"/proc/{victim}/task/{victim}/children").read_text().split()
        return int(children[0]) if children else victim

    async def took_s(self):
        """How long a whole pull takes; the other version is wanted then."""
        began = time.monotonic()
        assert await self.begin() == "done"
        self.wanted = 1 - self.wanted
        return time.monotonic() - began


@asynccontextmanager
async def pulls(state, mib):
    """Pulls into `state`, which may lie on a file system of its own."""
    async with fault_proxy() as proxy:
        name = f"{proxy.address}/library/m"
        with await asyncio.to_thread(_victim, state, name) as victim:
            yield await asyncio.to_thread(Pulls, proxy, victim, state, mib)
            victim.stdin.close()


def _victim(state, name):
    return subprocess.Popen(
        [sys.executable, pull_victim.__file__, str(state), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def installed(state):
    """The digest of the weights of the one model there, None if there is none.

    Fails unless every manifest can be read and every blob that one names is what its name says.
    """
    library = Library(state / "models")
    problems = library.problems()
    assert problems == [], [str(problem) for problem in problems]
    models = library.list()
    for model in models:
        for digest in model.manifest.digests:
            data = library.blobs.path(digest).read_bytes()
            assert hashlib.sha256(data).hexdigest() == digest.hex
    assert len(models) <= 1
    return str(models[0].manifest.layers[0].digest) if models else None


async def kill_often(state, kills, seed=0):
    """Kill pulls at `kills` random moments; how many of them had changed nothing yet."""
    moments = random.Random(seed)
    async with pulls(state, mib=24) as world:
        whole_s = max(await world.took_s(), await world.took_s())
        old = await asyncio.to_thread(installed, state)
        unchanged = killed = 0
        while killed < kills:
            answer = await world.begin(moments.uniform(0, whole_s))
            now = await asyncio.to_thread(installed, state)
            assert now in {old, world.digests[world.wanted]}
            killed += answer == "killed"
            unchanged += answer == "killed" and now == old
            if now != old:
                old, world.wanted = now, 1 - world.wanted
        assert await world.begin() == "done"
        assert await asyncio.to_thread(installed, state) == world.digests[world.wanted]
    left = sorted(path.name for path in (state / "models/blobs").iterdir())
    assert not [name for name in left if "-part" in name or name.startswith(".")]
    return unchanged
