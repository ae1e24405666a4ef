"""Play 100,000 random operations against the paged scheduler; nothing may leak, stall or be wrong.

`tests/fakes/paged_world.py` judges every one of them. A failure names the seed that repeats it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fakes.paged_world import World, play, random_sizes

OPERATIONS_PER_WORLD = 500


def main() -> None:
    parser = argparse.ArgumentParser(description="Soak the paged scheduler in random operations")
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first world")
    options = parser.parse_args()
    started = time.perf_counter()
    preemptions = requests = cached = 0
    worlds = -(-options.operations // OPERATIONS_PER_WORLD)
    for seed in range(options.seed, options.seed + worlds):
        dice = random.Random(seed)
        world = World(random_sizes(dice), prefix_cache=seed % 5 > 0)
        try:
            play(world, dice, OPERATIONS_PER_WORLD, depth=seed % 2)
        except Exception as error:  # any failure is told with its seed
            raise SystemExit(f"seed {seed}, {world.limits}: {error!r}") from error
        preemptions += world.scheduler.num_preemptions
        requests += len(world.ended)
        cached += sum(request.cached_tokens for request in world.ended.values())
    print(
        f"{worlds * OPERATIONS_PER_WORLD} operations, {requests} requests, {preemptions}"
        f" preemptions, {cached} cached tokens, {time.perf_counter() - started:.1f} s: all well"
    )


if __name__ == "__main__":
    main()
