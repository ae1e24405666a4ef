"""engine/paged/scheduler.py: the policy by example, and the traps others fell into."""

import pytest

from engine.api import FinishReason
from engine.errors import ContextLengthError, EngineBusyError, EngineRequestError
from engine.paged.request import IntegrityError, Phase
from tests.fakes.paged_world import World, limits

FOREVER = {"max_tokens": -1, "end_tokens": frozenset()}
both_depths = pytest.mark.parametrize("depth", [0, 1])


def chunks(plan):
    """(request id, start, tokens, is_sampled) of each item."""
    return [(i.request.id, i.start, i.num_tokens, i.is_sampled) for i in plan.items()]


# -- a request's life ------------------------------------------------------------------------------


@both_depths
@pytest.mark.parametrize("max_tokens", [0, 1, 2, 7])
def test_max_tokens_are_given_to_the_token(max_tokens, depth):
    world = World()
    request = world.add([1, 2, 5], max_tokens, end_tokens=frozenset())
    world.drain(depth)
    assert (request.output_length, request.finish) == (max_tokens, FinishReason.LENGTH)


@both_depths
def test_an_end_token_stops_and_the_ghost_behind_it_is_dropped(depth):
    world = World()
    probe = world.add([1, 2, 5], 6, end_tokens=frozenset())
    world.drain()
    last = probe.tokens[5]
    request = world.add([1, 2, 5], 6, end_tokens=frozenset({last}))
    world.drain(depth)
    assert request.finish is FinishReason.STOP
    assert request.tokens == probe.tokens[: probe.tokens.index(last, 3) + 1]


@both_depths
@pytest.mark.parametrize(("num_blocks", "context"), [(100, 10), (4, 100)])
def test_a_full_context_ends_the_request(num_blocks, context, depth):
    world = World(limits(num_blocks=num_blocks, context_length=context))
    request = world.add([1], **FOREVER)
    world.drain(depth)
    assert request.finish is FinishReason.LENGTH
    assert len(request.tokens) == min(context, 12) + 1  # the last token needs no KV


def test_a_prompt_that_fits_no_pool_is_refused_at_once():  # T11
    scheduler = World(limits(num_blocks=4, context_length=100))
    with pytest.raises(ContextLengthError, match="13 tokens, the whole KV cache holds 12"):
        scheduler.add([1] * 13)
    scheduler.add([1] * 12)
    scheduler.drain()


def test_a_prompt_longer_than_the_context_is_refused_at_once():
    with pytest.raises(ContextLengthError, match="prompt has 41 tokens, the context is 40"):
        World().add([1] * 41)


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(EngineRequestError, match="send at least one"):
        World().add([])


def test_a_full_engine_says_so_and_an_id_is_used_once():
    world = World(limits(max_running=1, max_waiting=1))
    first = world.add([1])
    world.add([1])
    with pytest.raises(EngineBusyError, match="2 requests are in the engine"):
        world.add([1])
    world.abort(first)
    with pytest.raises(EngineRequestError, match="in use"):
        world.scheduler.add(next(iter(world.live.values())))


@pytest.mark.parametrize(
    "wrong", [{"num_blocks": 1}, {"block_size": 0}, {"max_running": 0}, {"step_tokens": 3}]
)
def test_limits_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValueError, match=r"too small|needed|must decode"):
        limits(**wrong)


# -- steps -----------------------------------------------------------------------------------------


def test_a_long_prompt_is_computed_in_chunks_beside_decodes():
    world = World(limits(step_tokens=10, num_blocks=30))
    world.add([1, 2], **FOREVER)
    world.add([5] * 25, **FOREVER)
    assert chunks(world.step()) == [(1, 0, 2, True), (2, 0, 8, False)]
    assert chunks(world.step()) == [(1, 2, 1, True), (2, 8, 9, False)]
    assert chunks(world.step()) == [(1, 3, 1, True), (2, 17, 8, True)]
    assert chunks(world.step()) == [(1, 4, 1, True), (2, 25, 1, True)]


@both_depths
def test_decode_never_starves_in_a_storm_of_prompts(depth):
    world = World(limits(num_blocks=200, max_running=6, step_tokens=8, context_length=60))
    first = world.add([1], **FOREVER)
    world.step(depth)
    for _ in range(20):
        world.add([2] * 30, 3)
        plan = world.step(depth)
        assert first.id in plan.ids[: plan.num_decodes]


def test_only_one_step_may_be_ahead():
    world = World()
    world.add([1], **FOREVER)
    world.launch()
    world.launch()
    with pytest.raises(IntegrityError, match="2 are uncommitted"):
        world.scheduler.plan(3)


def test_steps_are_committed_in_order():
    world = World()
    world.add([1], **FOREVER)
    world.launch()
    world.launch()
    with pytest.raises(IntegrityError, match="not the oldest"):
        world.scheduler.commit(2, {})


def test_a_live_request_without_its_token_is_a_bug_of_the_runner():
    world = World()
    request = world.add([1], **FOREVER)
    world.launch()
    with pytest.raises(KeyError, match=str(request.id)):
        world.scheduler.commit(1, {})


def test_cells_tell_every_change_of_a_table_and_stale_ones_become_null():
    world = World(limits(max_running=1))
    first = world.add([1] * 9, **FOREVER)
    assert world.step().cells == ((0, 0, 1), (0, 1, 2), (0, 2, 3))
    world.abort(first)
    world.add([2] * 4, **FOREVER)
    assert world.step().cells == ((0, 0, 3), (0, 1, 0), (0, 2, 0))
    assert world.step().cells == ((0, 1, 4),)
    assert world.step().cells == ()


# -- order, limits and memory ----------------------------------------------------------------------


def test_first_come_first_served_and_the_big_one_is_not_overtaken():
    world = World(limits(num_blocks=11, max_running=4))
    first = world.add([1] * 16, 12, end_tokens=frozenset())
    world.step()
    big = world.add([2] * 38, 1)
    small = [world.add([3], 1) for _ in range(3)]
    while big.phase is Phase.WAITING:
        world.step()
        assert all(request.phase is Phase.WAITING for request in small) or big.finish
    assert first.finish
    world.drain()


def test_priority_goes_first_and_is_preempted_last():
    world = World(limits(max_running=2))
    waiting = [world.add([1], priority=priority) for priority in (0, 2, 1)]
    plan = world.step()
    assert plan.ids == (waiting[1].id, waiting[2].id)
    world.drain()


def test_admission_leaves_the_running_a_watermark():
    world = World(limits(num_blocks=9, max_running=4, step_tokens=100))
    for place in range(4):
        world.add([place] * 8, **FOREVER)  # 2 of the 8 blocks each
    world.launch()
    assert (world.scheduler.stats()["running"], world.scheduler.pool.free) == (3, 2)
    world.drain()


def test_nobody_is_admitted_in_a_step_that_preempts():
    world = World(limits(num_blocks=8, max_running=3, step_tokens=100), prefix_cache=False)
    world.add([1] * 8, priority=2, **FOREVER)
    last = world.add([2] * 13, **FOREVER)
    world.step()
    while world.scheduler.pool.free:
        world.step()
    third = world.add([3] * 4, 2, priority=1)  # would fit as soon as the last one gives way
    while not last.preemptions:
        plan = world.step()
    assert third.id not in plan.ids
    assert third.id in world.step().ids
    world.drain()


def test_what_is_fenced_counts_as_obtained_so_that_only_one_gives_way():  # T3
    world = World(limits(num_blocks=10, max_running=4, step_tokens=100), prefix_cache=False)
    world.add([0] * 12, **FOREVER)
    for place in (1, 2, 3):
        world.add([place] * 5, **FOREVER)
    while not world.scheduler.num_preemptions:
        world.step(depth=1)
    assert world.scheduler.num_preemptions == 1
    world.drain(depth=1)


def test_resuming_mostly_hits_the_cache_but_that_is_not_the_clients_hit():
    world = World(limits(num_blocks=8, max_running=2))
    world.add([1] * 4, 14, end_tokens=frozenset())
    new = world.add([2] * 12, **FOREVER)
    resumed_at = -1
    while world.live:
        for item in world.step().chunks():
            if item.request is new and new.preemptions:
                resumed_at = item.start
    assert resumed_at >= 8
    assert new.cached_tokens == 0
    world.drain()


def test_the_newest_gives_way_and_loses_no_token():
    world = World(limits(num_blocks=6, max_running=2), prefix_cache=False)
    old, new = world.add([1] * 8, **FOREVER), world.add([2] * 4, **FOREVER)
    while not new.preemptions:
        world.step()
    assert (old.preemptions, new.phase, new.blocks) == (0, Phase.PREEMPTED, [])
    assert new.output_length > 0  # T7: it has output and prefills again
    world.drain()
    assert world.scheduler.num_preemptions == new.preemptions


@both_depths
@pytest.mark.parametrize("max_running", [3, 4])
def test_nobody_is_preempted_twice_before_gaining_a_token(max_running, depth):
    sizes = {"num_blocks": 16, "block_size": 1, "context_length": 14, "step_tokens": 5}
    world = World(limits(max_running=max_running, **sizes), prefix_cache=False)
    for place in range(8):
        world.add([place] * (1 + place % 3), **FOREVER)
    world.drain(depth)  # the world judges each preemption
    assert world.scheduler.num_preemptions > 3


@both_depths
def test_hundreds_of_requests_in_a_tiny_pool_all_end(depth):  # T3, T6, T13
    world = World(limits(num_blocks=9, max_running=8, max_waiting=200, step_tokens=12))
    for place in range(200):
        world.add([0] * (place % 9) + [place % 4], 3 + place % 5)
    world.drain(depth)
    assert len(world.ended) == 200


# -- prefix cache ----------------------------------------------------------------------------------


@both_depths
@pytest.mark.parametrize(
    ("length", "hit"), [(3, 0), (4, 0), (5, 4), (7, 4), (8, 4), (9, 8), (12, 8), (13, 12)]
)
def test_a_hit_is_all_full_blocks_but_the_last_token_is_always_computed(
    length, hit, depth
):  # T5, T8
    world = World()
    prompt = list(range(1, length + 1))
    world.add(prompt, 1, end_tokens=frozenset())
    world.drain(depth)
    again = world.add(prompt, 3)
    world.drain(depth)
    assert again.cached_tokens == hit


def test_output_is_found_again_in_the_next_turn_of_a_chat():
    world = World()
    first = world.add([1, 2, 5], 10, end_tokens=frozenset())
    world.drain()
    second = world.add([*first.tokens, 1, 2], 3)
    world.drain()
    assert second.cached_tokens == 12


def test_salts_isolate():
    world = World()
    requests = []
    for salt in (b"alice", b"bob", b"alice"):
        requests.append(world.add([1] * 12, 1, salt=salt))
        world.drain()
    assert [request.cached_tokens for request in requests] == [0, 0, 8]


@both_depths
@pytest.mark.parametrize("step_tokens", [8, 100])
def test_choices_of_one_prompt_share_its_blocks_and_compute_it_once(depth, step_tokens):
    world = World(limits(num_blocks=40, max_running=8, step_tokens=step_tokens))
    choices = [world.add([1] * 17, 4, end_tokens=frozenset()) for _ in range(5)]
    other = world.add([2] * 3, 2)
    computed = 0
    while world.live:
        computed += sum(item.num_tokens for item in world.step(depth).chunks())
        running = [r for r in choices if r.blocks]
        assert len({tuple(r.blocks[:4]) for r in running}) <= 1
    assert computed == 17 + 4 * 1 + 3
    assert [request.cached_tokens for request in choices] == [0, 16, 16, 16, 16]
    assert other.finish
    world.drain(depth)


def test_who_waits_for_anothers_prefix_goes_on_when_that_one_is_aborted():
    world = World(limits(step_tokens=4))
    writer, reader = world.add([1] * 17), world.add([1] * 17, 2)
    world.step()
    world.step()
    assert reader.phase is Phase.WAITING
    world.abort(writer)
    world.step()
    assert (reader.phase, reader.cached_tokens) == (Phase.RUNNING, 8)
    world.drain()


def test_nothing_is_published_before_its_step_is_committed():  # T4
    world = World()
    world.add([1] * 8, **FOREVER)
    world.launch()
    world.launch()
    assert len(world.index) == 0
    world.commit()
    assert len(world.index) == 2


# -- abort -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", range(12))
@both_depths
def test_abort_at_every_point_of_the_pipeline(moment, depth):  # T1, T2
    world = World(limits(num_blocks=9, max_running=2, step_tokens=4))
    target = world.add([1] * 9, 6)
    others = [world.add([place] * 5, 5) for place in (0, 1, 2)]
    events = [half for _ in range(8) for half in ("launch", "commit")]
    if depth:
        world.launch()
    for event in events[:moment]:
        getattr(world, event)()
    if target.id in world.live:
        world.abort(target)
    world.add([4] * 9, 4)  # wants the row and the blocks at once
    for event in events[moment:]:
        getattr(world, event)()
    world.drain(depth)
    assert target.id in world.ended
    assert all(request.id in world.ended for request in others)


def test_a_preempted_request_can_be_aborted():
    world = World(limits(num_blocks=6, max_running=2), prefix_cache=False)
    world.add([1] * 8, **FOREVER)
    new = world.add([2] * 4, **FOREVER)
    while new.phase is not Phase.PREEMPTED:
        world.step()
    world.abort(new)
    world.drain()


def test_an_unknown_or_ended_id_is_ignored():
    world = World()
    request = world.add([1], 1)
    world.drain()
    assert world.scheduler.abort(request.id) is None
    assert world.scheduler.abort(99) is None


def test_the_row_of_an_aborted_request_waits_for_its_ghost():  # T1
    world = World(limits(max_running=1))
    first = world.add([1], **FOREVER)
    world.launch()
    world.abort(first)
    world.add([2], 1)
    assert world.launch().is_empty
    world.commit()
    assert world.launch().rows == (0,)
    world.drain(depth=1)


# -- equality --------------------------------------------------------------------------------------


@both_depths
@pytest.mark.parametrize("num_blocks", [8, 60])
@pytest.mark.parametrize("step_tokens", [5, 64])
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_the_same_tokens_whatever_the_memory_the_chunks_and_the_order(
    depth, num_blocks, step_tokens, prefix_cache
):  # T9 in every variant: the fake device poisons what is free
    sizes = limits(num_blocks=num_blocks, step_tokens=step_tokens, max_running=5)
    world = World(sizes, prefix_cache=prefix_cache)
    for place in range(10):
        world.add([0] * 6 + [place], 4 + place, end_tokens=frozenset())
    world.drain(depth)  # the world compares each with the sequence computed alone
    assert [request.output_length for request in world.ended.values()].count(13) == 1
    assert bool(world.scheduler.num_preemptions) == (num_blocks == 8)
