"""A process that pulls, and is killed for it. Run with a state folder and a model's name.

Each line on stdin is a delay in seconds: a fork begins a pull and is killed that much later. The
answer is `killed`, or `done` if the pull ended before that. Forks start in a moment, where a whole
service would need a second; they tidy up as the service does at its start.
"""

import asyncio
import os
import signal
import sys
import time
from contextlib import aclosing
from pathlib import Path

from appliance.config import load_settings
from appliance.library.library import Library
from appliance.transfer.sources import Reference
from appliance.transfer.transfers import Transfers
from appliance.trust.gate import Gate
from appliance.trust.repositories import Repositories

POLL_S = 0.0005


async def pull(state, name):
    settings = load_settings({}, {"HEARTH_STATE": str(state), "HEARTH_TRANSFER_TRIES": "1"})
    library = await asyncio.to_thread(Library, settings.models_dir, state / "maps")
    await asyncio.to_thread(library.prune)
    gate = Gate(settings, Repositories(state / "trust"))
    transfers = Transfers(settings, library, gate)
    async with aclosing(transfers.pull(Reference.parse(name), confirmed=True)) as lines:
        async for _ in lines:
            pass
    await transfers.close()


def main(state, name):
    for line in sys.stdin:
        deadline = time.monotonic() + float(line)
        child = os.fork()
        if child == 0:
            asyncio.run(pull(state, name))
            os._exit(0)
        ended = 0
        while not ended and time.monotonic() < deadline:
            time.sleep(POLL_S)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        print("done" if status == 0 else "killed" if status == signal.SIGKILL else status)
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
