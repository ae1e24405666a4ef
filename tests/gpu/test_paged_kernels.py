"""Every Triton kernel against its torch twin, on a GPU or in Triton's interpreter.

Set TRITON_INTERPRET=1 to run it on the CPU; the integration tests do. The interpreter of Triton 3.6
multiplies bf16 bit patterns in `dot` (triton#11584), so bf16 is checked on a device only. Shapes are
tiny, because the interpreter needs some 10 ms for each program.
"""

import os

import pytest
import torch

from engine.paged.attention.base import AttentionParams
from engine.paged.kernels.attention import attend_torch, attend_triton
from tests.gpu.paged_cases import make_batch, make_cache

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.float16] + ([] if INTERPRETED else [torch.bfloat16])
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not INTERPRETED and not torch.cuda.is_available(), reason="no CUDA device is visible"
    ),
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(7)
    torch.set_num_threads(1)


def compare(found, wanted, dtype, what):
    """Relative error in the 2-norm, printed so that `pytest -s` gives a table."""
    found, wanted = found.float(), wanted.float()
    error = ((found - wanted).norm() / wanted.norm().clamp_min(1e-12)).item()
    print(f"{what:44} {str(dtype)[6:]:9} {error:.1e}")
    assert torch.isfinite(found).all()
    assert error <= TOLERANCE[dtype]


HEADS = [(2, 1, 64), (4, 2, 80), (7, 1, 96), (2, 2, 128), (2, 1, 256)]  # heads, KV heads, head size
MIXED = [(5, 5), (1, 40), (3, 19), (18, 50)]
DECODE = [(1, 1), (1, 47), (1, 16), (1, 90)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), HEADS)
@pytest.mark.parametrize("lengths", [MIXED, DECODE], ids=["mixed", "decode"])
def test_attention_equals_its_twin(dtype, heads, kv_heads, head_dim, lengths):
    check_attention(dtype, heads, kv_heads, head_dim, lengths, AttentionParams(head_dim**-0.5))


@pytest.mark.parametrize(
    "params",
    [AttentionParams(0.2, window=9), AttentionParams(0.4, soft_cap=5.0), AttentionParams(0.3, 33, 2.0)],
    ids=["window", "soft cap", "both"],
)
@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "int8"])
@pytest.mark.parametrize("lengths", [MIXED, DECODE], ids=["mixed", "decode"])
def test_attention_variants_equal_their_twin(params, quantised, lengths):
    check_attention(DTYPES[-1], 6, 2, 64, lengths, params, quantised)


@pytest.mark.parametrize("num_splits", [1, 2, 8])
def test_decode_pieces_merge_to_the_whole(num_splits):
    check_attention(torch.float32, 4, 2, 64, DECODE, AttentionParams(0.125), splits=num_splits)


@pytest.mark.parametrize("num_splits", [1, 4])
def test_padding_sequences_do_not_disturb_decode(num_splits):
    batch = make_batch([(1, 33), (1, 0), (1, 70), (1, 0)], 16, DEVICE)
    cache = make_cache(batch, 16, 2, 64, torch.float32)
    q = torch.randn(4, 4, 64, device=DEVICE)
    params = AttentionParams(0.125)
    found = attend_triton(q, cache, batch, params, num_splits)[[0, 2]]
    compare(found, attend_torch(q, cache, batch, params)[[0, 2]], torch.float32, "padding")


def check_attention(dtype, heads, kv_heads, head_dim, lengths, params, quantised=False, splits=4):
    batch = make_batch(lengths, 16, DEVICE)
    cache = make_cache(batch, 16, kv_heads, head_dim, dtype, quantised)
    num_tokens = batch.slot_mapping.shape[0]
    fused = torch.randn(num_tokens, heads + 2, head_dim, device=DEVICE).to(dtype)
    q = fused[:, :heads]  # as it comes out of one matrix for q, k and v
    found = attend_triton(q, cache, batch, params, splits)
    wanted = attend_torch(q, cache, batch, params)
    what = f"attention {'decode' if batch.max_query_len == 1 else 'mixed'} {heads}/{kv_heads}x{head_dim}"
    compare(found, wanted, dtype, f"{what}{' int8' if quantised else ''}")
