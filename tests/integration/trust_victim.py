"""Refreshes a trust store from stick after stick in child processes, and kills each at some moment.

One line with the number of the first stick starts a child; one line comes back when it is dead. A
process of its own, because forking is not for a test runner.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from appliance.trust.fetch import from_folder
from appliance.trust.repositories import Repositories

NAME = "acme/assistant/1.2.0"


def refresh_all(folder, first, began):
    """Tell through the pipe `began` when the first refresh, which finds nothing new, is done."""
    store = Repositories(folder / "trust").store("acme")
    number = first
    while (stick := folder / f"stick{number}").is_dir():
        store.refresh(from_folder(stick), [NAME])
        number += 1
        os.write(began, b".")


def kill_after(folder, first, fraction):
    """Kill a child at some fraction of the time that its first refreshes take."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        refresh_all(folder, first, write)
        os._exit(0)
    os.read(read, 1)
    start = time.monotonic()
    os.read(read, 1)
    time.sleep((time.monotonic() - start) * fraction)
    os.kill(child, signal.SIGKILL)
    os.close(read)
    os.close(write)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main():
    folder = Path(sys.argv[1])
    rng = random.Random(4)
    Repositories(folder / "trust").store("acme").read()  # python-tuf is imported before the first
    for line in sys.stdin:
        print("killed" if kill_after(folder, int(line), rng.uniform(0, 2)) else "ended", flush=True)


if __name__ == "__main__":
    main()
