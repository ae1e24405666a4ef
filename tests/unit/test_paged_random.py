"""The paged scheduler against random clients: the promises that `fakes/paged_world.py` judges.

`python tests/bench/soak_paged_scheduler.py` plays the same game for 100,000 operations.
"""

from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from tests.fakes.paged_world import END, World, limits, play, random_sizes


class Client(RuleBasedStateMachine):
    """Adds, aborts, plans and commits in an order that Hypothesis chooses and shrinks."""

    depth = 0

    @initialize(
        num_blocks=st.integers(3, 12),
        block_size=st.integers(1, 4),
        max_running=st.integers(1, 4),
        spare=st.integers(0, 6),
        prefix_cache=st.booleans(),
    )
    def start(self, num_blocks, block_size, max_running, spare, prefix_cache):
        sizes = limits(
            num_blocks=num_blocks,
            block_size=block_size,
            max_running=max_running,
            step_tokens=max_running + spare,
            context_length=24,
        )
        self.world = World(sizes, prefix_cache=prefix_cache)

    @rule(
        alike=st.integers(0, 9),
        rest=st.lists(st.integers(0, 3), max_size=4),
        max_tokens=st.integers(-1, 9),
        priority=st.integers(0, 1),
        salt=st.sampled_from([b"", b"other"]),
        end_tokens=st.sampled_from([frozenset(), END]),
    )
    def add(self, alike, rest, **options):
        prompt = ([0] * alike + rest)[: self.world.limits.max_context] or [0]
        self.world.add(prompt, **options)

    @precondition(lambda self: self.world.live)
    @rule(which=st.integers(0, 99))
    def abort(self, which):
        living = list(self.world.live.values())
        self.world.abort(living[which % len(living)])
        self.world.check()

    @precondition(lambda self: len(self.world.launched) <= self.depth)
    @rule()
    def launch(self):
        self.world.launch()

    @precondition(lambda self: self.world.launched)
    @rule()
    def commit(self):
        self.world.commit()

    @rule(steps=st.integers(1, 5))
    def run(self, steps):
        for _ in range(steps):
            self.world.step(self.depth)

    def teardown(self):
        if hasattr(self, "world"):
            self.world.check_keys()
            self.world.drain(self.depth)


class OverlappingClient(Client):
    depth = 1


@pytest.mark.parametrize("client", [Client, OverlappingClient])
def test_any_order_of_events_keeps_every_promise(client):
    profile = settings(
        max_examples=15,
        stateful_step_count=25,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_machine(client, settings=profile)


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_a_busy_world_keeps_every_promise(seed, depth):
    random = Random(seed)
    world = World(random_sizes(random), prefix_cache=seed % 4 > 0)
    play(world, random, operations=300, depth=depth)
