"""TorchPaged against attention written down plainly, over random ragged steps."""

import math
import random

import pytest
import torch

from engine.paged.attention.base import AttentionParams, KvLayer
from engine.paged.attention.torch_paged import TorchPaged, quantize_kv
from tests.fakes.paged_runs import step_batch

HEAD_DIM = 16
BLOCK_SIZE = 4


def plain_attention(q, k, v, params):
    """One sequence, in float64: q (queries, heads, head_dim) are the last of the keys' tokens."""
    queries, heads, _ = q.shape
    group = heads // k.shape[1]
    out = torch.empty_like(q, dtype=torch.float64)
    for i in range(queries):
        position = len(k) - queries + i
        first = max(0, position - params.window + 1) if params.window else 0
        for head in range(heads):
            keys = k[first : position + 1, head // group].double()
            scores = keys @ q[i, head].double() * params.scale
            if params.soft_cap:
                scores = params.soft_cap * torch.tanh(scores / params.soft_cap)
            out[i, head] = scores.softmax(0) @ v[first : position + 1, head // group].double()
    return out


class Step:
    """A random step: sequences with some context in the cache, and new queries, keys and values."""

    def __init__(self, queries, contexts, *, kv_heads, group, dtype=torch.float32, quantised=False):
        self.queries, self.contexts = queries, contexts
        needed = [-(-context // BLOCK_SIZE) for context in contexts]
        free = torch.randperm(sum(needed) + 3).add(1).tolist()
        tables = [[free.pop() for _ in range(count)] for count in needed]
        self.batch = step_batch(queries, contexts, tables, BLOCK_SIZE)
        shape = (sum(needed) + 4, BLOCK_SIZE, kv_heads, HEAD_DIM)
        self.cache = empty_layer(shape, dtype, quantised)
        self.k = [torch.randn(context, kv_heads, HEAD_DIM, dtype=dtype) for context in contexts]
        self.v = [torch.randn(context, kv_heads, HEAD_DIM, dtype=dtype) for context in contexts]
        self.q = torch.randn(sum(queries), kv_heads * group, HEAD_DIM, dtype=dtype)
        self.backend = TorchPaged()
        everything = step_batch(contexts, contexts, tables, BLOCK_SIZE).slot_mapping
        self.backend.store(torch.cat(self.k), torch.cat(self.v), self.cache, everything)

    def run(self, params):
        return self.backend.attend(self.q, self.cache, self.batch, params)

    def expected(self, params):
        parts = zip(self.q.split(self.queries), self.k, self.v, strict=True)
        return torch.cat([plain_attention(q, k, v, params) for q, k, v in parts])


def empty_layer(shape, dtype, quantised):
    """A cache full of what must never be read: NaN, or the largest numbers that int8 allows."""
    if not quantised:  # keys by head in memory, as the engine keeps them here; values by token
        blocks, size, heads, head_dim = shape
        keys = torch.full((blocks, heads, size, head_dim), math.nan, dtype=dtype).transpose(1, 2)
        return KvLayer(keys, torch.full(shape, math.nan, dtype=dtype))
    scale = torch.full(shape[:3], math.nan, dtype=torch.float16)
    most = torch.full(shape, 127, dtype=torch.int8)
    return KvLayer(most, most.clone(), scale, scale.clone())


STEPS = {
    "decode": ([1] * 5, [1, 7, 8, 9, 30]),
    "decode of one length": ([1] * 4, [12] * 4),
    "whole prompts": ([6, 1, 17], [6, 1, 17]),
    "chunks": ([5, 9, 4], [11, 9, 24]),
    "mixed": ([1, 6, 1, 3, 1], [9, 6, 2, 40, 33]),
}
PARAMS = {
    "plain": AttentionParams(scale=0.25),
    "window": AttentionParams(scale=0.25, window=7),
    "soft cap": AttentionParams(scale=0.5, soft_cap=2.0),
    "window and soft cap": AttentionParams(scale=0.5, window=7, soft_cap=2.0),
}


@pytest.mark.parametrize(("kv_heads", "group"), [(2, 1), (2, 3), (1, 4)])
@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_it_is_plain_attention(step, params, kv_heads, group):
    torch.manual_seed(3)
    run = Step(*step, kv_heads=kv_heads, group=group)
    torch.testing.assert_close(run.run(params).double(), run.expected(params), atol=2e-6, rtol=0)


def test_random_steps_with_all_their_edges():
    rng = random.Random(5)
    torch.manual_seed(5)
    for _ in range(40):
        contexts = [rng.randint(1, 60) for _ in range(rng.randint(1, 12))]
        queries = [rng.choice((1, 1, 1, rng.randint(1, context))) for context in contexts]
        params = AttentionParams(0.25, rng.choice((0, 1, 5, 64)), rng.choice((0.0, 3.0)))
        run = Step(queries, contexts, kv_heads=2, group=2)
        torch.testing.assert_close(
            run.run(params).double(), run.expected(params), atol=2e-6, rtol=0
        )


def test_a_chunk_longer_than_a_piece_is_one_attention():
    torch.manual_seed(0)
    run = Step([300], [310], kv_heads=1, group=2)
    params = PARAMS["window"]
    torch.testing.assert_close(run.run(params).double(), run.expected(params), atol=2e-6, rtol=0)


def test_padding_rows_yield_zeros_and_disturb_nobody():
    torch.manual_seed(0)
    run = Step([1, 1], [5, 9], kv_heads=2, group=2)
    expected = run.run(PARAMS["plain"])
    padded = step_batch([1, 1, 1, 1], [5, 9, 1, 1], [*run.batch.block_tables.tolist(), [0], [0]], 4)
    padded.context_lens[2:] = 0
    q = torch.cat((run.q, torch.randn(2, *run.q.shape[1:])))
    found = run.backend.attend(q, run.cache, padded, PARAMS["plain"])
    torch.testing.assert_close(found[:2], expected)
    assert not found[2:].any()


def test_a_new_step_forgets_the_last_one():
    torch.manual_seed(0)
    run = Step([1, 1], [5, 9], kv_heads=2, group=2)
    run.run(PARAMS["plain"])
    run.batch = step_batch([1], [4], [run.batch.block_tables[0].tolist()], 4)
    run.queries, run.k, run.v, run.q = [1], [run.k[0][:4]], [run.v[0][:4]], run.q[:1]
    torch.testing.assert_close(
        run.run(PARAMS["plain"]).double(), run.expected(PARAMS["plain"]), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_int8_keys_and_values_stay_close(step):
    torch.manual_seed(3)
    run = Step(*step, kv_heads=2, group=2, quantised=True)
    params = PARAMS["window"]
    torch.testing.assert_close(run.run(params).double(), run.expected(params), atol=0.03, rtol=0)


def test_int8_rounds_to_the_nearest_and_keeps_zero():
    x = torch.randn(50, 3, HEAD_DIM) * 10.0 ** torch.randint(-4, 4, (50, 3, 1))
    x[0] = 0
    q, scale = quantize_kv(x)
    assert q.dtype == torch.int8
    assert scale.shape == (50, 3)
    wide = scale.float().unsqueeze(-1)
    clipped = x.abs().amax(-1, keepdim=True) * 2**-10  # where float16 rounded the scale down
    assert ((q * wide - x).abs() <= wide * 0.501 + clipped).all()
    assert not q[0].any()


def test_bfloat16_keeps_its_type():
    torch.manual_seed(3)
    run = Step(*STEPS["mixed"], kv_heads=2, group=2, dtype=torch.bfloat16)
    for params in PARAMS.values():
        found = run.run(params)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), run.expected(params), atol=0.05, rtol=0)
