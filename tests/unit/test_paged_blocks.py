"""engine/paged/blocks.py and prefix.py: who may write where, and what may be found again."""

import pytest

from engine.paged.blocks import BlockPool
from engine.paged.prefix import PrefixIndex
from engine.paged.request import IntegrityError, Phase, Request


def pool_and_index(num_blocks=6):
    index = PrefixIndex(num_blocks, 2, root=b"root")
    return BlockPool(num_blocks, index), index


def test_blocks_come_in_order_and_never_the_null_block():
    pool, _ = pool_and_index()
    assert pool.allocate(5) == [1, 2, 3, 4, 5]
    with pytest.raises(IntegrityError, match="1 blocks wanted, 0 are free"):
        pool.allocate(1)


def test_what_nobody_can_hit_is_reused_first_and_a_prefix_loses_its_tail_first():
    pool, index = pool_and_index()
    table = pool.allocate(3)
    index.publish(b"head", 1, owner=7)
    index.publish(b"next", 2, owner=7)
    pool.release(table, 0)
    assert pool.free_blocks() == [3, 4, 5, 2, 1]
    pool.allocate(4)
    assert (index.has(2), index.has(1)) == (False, True)
    assert index.match([b"head", b"next"]) == [1]


def test_a_fenced_block_is_not_given_out_before_its_step_is_committed():
    pool, _ = pool_and_index(num_blocks=3)
    pool.release(pool.allocate(2), epoch=4)
    pool.settle(3)
    assert (pool.free, pool.fenced) == (0, 2)
    pool.check([])
    pool.settle(4)
    assert (pool.free, pool.fenced) == (2, 0)
    pool.check([])


def test_a_published_block_is_shared_straight_from_the_fence():
    pool, index = pool_and_index()
    [block] = pool.allocate(1)
    index.publish(b"key", block, owner=7)
    pool.release([block], epoch=4)
    assert pool.unreferenced([block]) == 1
    pool.share([block])
    pool.check([[block]])
    pool.release([block], epoch=5)  # fenced once more, by a later step
    pool.settle(4)
    assert (pool.free, pool.fenced) == (4, 1)
    pool.settle(5)
    pool.check([])


def test_a_shared_block_is_free_when_the_last_reference_goes():
    pool, index = pool_and_index()
    [block] = pool.allocate(1)
    index.publish(b"key", block, owner=7)
    pool.share([block])
    pool.release([block], 0)
    pool.check([[block]])
    pool.release([block], 0)
    pool.check([])
    assert pool.free_blocks()[-1] == block


def test_a_double_release_is_found():
    pool, _ = pool_and_index()
    table = pool.allocate(1)
    pool.release(table, 0)
    with pytest.raises(IntegrityError, match="nobody refers to it"):
        pool.release(table, 0)


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [([], "reference counts"), ([[1, 1]], "twice"), ([[0]], "null"), ([[2]], "reference counts")],
)
def test_the_check_finds_books_that_do_not_balance(tables, complaint):
    pool, _ = pool_and_index()
    pool.allocate(1)
    with pytest.raises(IntegrityError, match=complaint):
        pool.check(tables)


def keys_of(tokens, *, salt=b"", root=b"root"):
    keys = []
    PrefixIndex(2, 2, root=root).extend(keys, tokens, salt)
    return keys


def test_a_key_stands_for_the_whole_prefix_the_salt_and_the_root():
    assert len(keys_of([1, 2, 3, 4, 5])) == 2  # a partial block has none
    assert keys_of([1, 2, 3, 4])[0] == keys_of([1, 2, 9, 9])[0]
    assert keys_of([1, 2, 3, 4])[1] != keys_of([9, 9, 3, 4])[1]
    assert keys_of([1, 2]) != keys_of([1, 2], salt=b"another key")
    assert keys_of([1, 2]) != keys_of([1, 2], root=b"another process")


def test_two_processes_have_different_roots():
    first, second = [], []
    PrefixIndex(2, 2).extend(first, [1, 2], b"")
    PrefixIndex(2, 2).extend(second, [1, 2], b"")
    assert first != second


def test_keys_grow_with_the_tokens():
    index = PrefixIndex(2, 2, root=b"root")
    keys = []
    for length in range(6):
        index.extend(keys, range(length), b"")
    assert keys == keys_of([0, 1, 2, 3])


def test_the_first_writer_of_a_prefix_wins():
    index = PrefixIndex(4, 2)
    index.publish(b"key", 1, owner=7)
    index.publish(b"key", 2, owner=8)
    assert index.match([b"key"]) == [1]
    index.forget(2)
    assert index.match([b"key"]) == [1]
    index.check()


def test_a_block_cannot_stand_for_two_prefixes():
    index = PrefixIndex(4, 2)
    index.publish(b"key", 1, owner=7)
    with pytest.raises(IntegrityError, match="under another key"):
        index.publish(b"other", 1, owner=7)


def test_a_claim_is_its_owners():
    index = PrefixIndex(4, 2)
    index.claim([b"key"], owner=7)
    index.claim([b"key"], owner=8)
    index.unclaim([b"key"], owner=8)
    assert index.is_claimed(b"key")
    index.publish(b"key", 1, owner=7)
    assert not index.claimants()


def test_a_disabled_index_knows_no_keys():
    keys = []
    PrefixIndex(4, 2, enabled=False).extend(keys, [1, 2, 3, 4], b"")
    assert keys == []


@pytest.mark.parametrize(
    "path",
    [
        [Phase.PREEMPTED],
        [Phase.WAITING],
        [Phase.RUNNING, Phase.WAITING],
        [Phase.RUNNING, Phase.RUNNING],
        [Phase.RUNNING, Phase.PREEMPTED, Phase.WAITING],
        [Phase.FINISHED, Phase.RUNNING],
        [Phase.FINISHED, Phase.FINISHED],
    ],
)
def test_illegal_phases_are_refused(path):
    request = Request(1, [1])
    for phase in path[:-1]:
        request.move(phase)
    with pytest.raises(IntegrityError, match="cannot go"):
        request.move(path[-1])
