"""Every Triton kernel against its torch twin, on a GPU or in Triton's interpreter.

Set TRITON_INTERPRET=1 to run it on the CPU; the integration tests do. The interpreter of Triton 3.6
multiplies bf16 bit patterns in `dot` (triton#11584), so bf16 is checked on a device only. Shapes
are tiny, because the interpreter needs some 10 ms for each program.
"""

import os
from dataclasses import replace

import pytest
import torch

from engine.paged.attention.base import AttentionParams
from engine.paged.attention.torch_paged import TorchPaged
from engine.paged.kernels import planar_linear, sample
from engine.paged.kernels.attention import attend_triton
from engine.paged.kernels.ops import TritonOps
from engine.paged.kernels.store import store_triton
from engine.paged.layers import TorchOps
from engine.paged.weights.planar import PLANAR_TYPES, dequantize_planar
from tests.gpu.paged_cases import make_batch, make_cache, random_planar

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
    [
        AttentionParams(0.2, window=9),
        AttentionParams(0.4, soft_cap=5.0),
        AttentionParams(0.3, 33, 2.0),
    ],
    ids=["window", "soft cap", "both"],
)
@pytest.mark.parametrize("quantized", [False, True], ids=["plain", "int8"])
@pytest.mark.parametrize("lengths", [MIXED, DECODE], ids=["mixed", "decode"])
def test_attention_variants_equal_their_twin(params, quantized, lengths):
    check_attention(DTYPES[-1], 6, 2, 64, lengths, params, quantized)


@pytest.mark.parametrize("num_splits", [1, 2, 8])
def test_decode_pieces_merge_to_the_whole(num_splits):
    check_attention(torch.float32, 4, 2, 64, DECODE, AttentionParams(0.125), splits=num_splits)


@pytest.mark.parametrize("num_splits", [1, 4])
def test_padding_sequences_do_not_disturb_decode(num_splits):
    batch = make_batch([(1, 33), (1, 0), (1, 70), (1, 0)], 16, DEVICE)
    cache = make_cache(batch, 16, 2, 64, torch.float32)
    q = torch.randn(4, 4, 64, device=DEVICE)
    params = AttentionParams(0.125)
    found = attend_triton(q, cache, batch, params, num_splits)
    compare(found, TorchPaged().attend(q, cache, batch, params), torch.float32, "padding")
    assert not found[[1, 3]].any()


def check_attention(dtype, heads, kv_heads, head_dim, lengths, params, quantized=False, splits=4):
    batch = make_batch(lengths, 16, DEVICE)
    cache = make_cache(batch, 16, kv_heads, head_dim, dtype, quantized)
    num_tokens = batch.slot_mapping.shape[0]
    fused = torch.randn(num_tokens, heads + 2, head_dim, device=DEVICE).to(dtype)
    q = fused[:, :heads]  # as it comes out of one matrix for q, k and v
    found = attend_triton(q, cache, batch, params, splits)
    wanted = TorchPaged().attend(q, cache, batch, params)
    kind = ("decode" if batch.max_query_len == 1 else "mixed") + " int8" * quantized
    compare(found, wanted, dtype, f"attention {kind} {heads}/{kv_heads}x{head_dim}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("head_dim", "half"), [(64, 32), (80, 40), (96, 24)])
def test_rotation_equals_its_twin(dtype, head_dim, half):
    x = torch.randn(3, 12, head_dim, device=DEVICE).to(dtype)[:, :9]
    turn = torch.rand(3, 1, half, device=DEVICE) * 6.28
    angles = turn.cos(), turn.sin()
    compare(TritonOps().rotate(x, *angles), TorchOps().rotate(x, *angles), dtype, "rotate")


@pytest.mark.parametrize("quantized", [False, True], ids=["plain", "int8"])
@pytest.mark.parametrize(("kv_heads", "head_dim"), [(2, 64), (3, 80), (1, 96)])
def test_store_equals_its_twin(quantized, kv_heads, head_dim):
    batch = make_batch([(3, 5), (1, 20)], 16, DEVICE)
    dtype = DTYPES[-1]
    found = make_cache(batch, 16, kv_heads, head_dim, dtype, quantized)
    wanted = replace(found, **{name: part.clone() for name, part in planes(found)})
    k, v = torch.randn(4, 2, kv_heads, head_dim, device=DEVICE).to(dtype).unbind(1)
    k[2, 0] = 0  # a scale of zero divides nothing
    store_triton(k, v, found, batch.slot_mapping)
    TorchPaged().store(k, v, wanted, batch.slot_mapping)
    for (name, mine), (_, twin) in zip(planes(found), planes(wanted), strict=True):
        assert torch.equal(mine.nan_to_num(9), twin.nan_to_num(9)), name


def planes(cache):
    names = ("k", "v", "k_scale", "v_scale")
    return [(name, part) for name in names if (part := getattr(cache, name)) is not None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [64, 100, 2048])
def test_norms_equal_their_twins(dtype, size):
    x, residual = torch.randn(2, 5, size, device=DEVICE).to(dtype)
    weight = torch.randn(size, device=DEVICE).to(dtype)
    found, wanted = (ops.rms_norm(x, weight, 1e-6) for ops in (TritonOps(), TorchOps()))
    compare(found, wanted, dtype, "rms_norm")
    found, wanted = (
        ops.add_rms_norm(x, residual, weight, 1e-6) for ops in (TritonOps(), TorchOps())
    )
    compare(found[0], wanted[0], dtype, "add_rms_norm")
    assert torch.equal(found[1], wanted[1])


def test_norm_of_heads_inside_a_fused_matrix():
    fused = torch.randn(3, 8, 96, device=DEVICE)[:, 2:6]
    weight = torch.randn(96, device=DEVICE)
    found, wanted = (ops.rms_norm(fused, weight, 1e-6) for ops in (TritonOps(), TorchOps()))
    compare(found, wanted, torch.float32, "rms_norm of heads")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gated_activations_equal_their_twin(dtype, activation):
    gate_up = (torch.randn(3, 2 * 1100, device=DEVICE) * 3).to(dtype)
    found, wanted = (ops.gated(gate_up, activation) for ops in (TritonOps(), TorchOps()))
    compare(found, wanted, dtype, activation)


def test_samples_equal_their_twin():
    logits = torch.randn(12, 5000, device=DEVICE)
    logits[3, 100], logits[3, 4000] = 9.0, 9.0  # a tie in two parts: the lower token wins
    heat = torch.tensor([0.0, 0.7, 1.0, 0.0, 2.0, -1.0] * 2, device=DEVICE)
    seeds = torch.randint(-(2**62), 2**62, (12,), device=DEVICE) * 2 + 1
    positions = torch.arange(12, device=DEVICE) * 1000
    found = sample.sample_triton(logits, heat, seeds, positions)
    assert found.tolist() == sample.sample_torch(logits, heat, seeds, positions).tolist()
    assert found[3] == 100


def test_candidates_are_drawn_as_in_the_whole_vocabulary():
    logits = torch.randn(6, 3000, device=DEVICE)
    best, ids = logits.topk(40, 1)
    cut = torch.full_like(logits, float("-inf")).scatter(1, ids, best)
    heat = torch.full((6,), 0.8, device=DEVICE)
    seeds, positions = torch.arange(6, device=DEVICE), torch.arange(6, device=DEVICE) + 50
    found = sample.sample_triton(best, heat, seeds, positions, ids)
    assert found.tolist() == sample.sample_torch(cut, heat, seeds, positions).tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", PLANAR_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("num_tokens", [1, 3, 17, 65])
def test_quantized_projection_equals_its_twin(dtype, kind, num_tokens):
    weight = random_planar(kind, 70, 768, DEVICE)
    x = torch.randn(num_tokens, 800, device=DEVICE).to(dtype)[:, :768]
    wide = torch.zeros(2, num_tokens, 100, device=DEVICE).to(dtype)
    planar_linear.planar_matmul_triton(x, weight, wide[0, :, 10:80], 1)
    planar_linear.planar_matmul_torch(x, weight, wide[1, :, 10:80], 1)
    compare(*wide, dtype, f"{kind.name} {num_tokens} tokens")
    assert not wide[0, :, :10].any()
    assert not wide[0, :, 80:].any()


@pytest.mark.parametrize("kind", PLANAR_TYPES, ids=lambda kind: kind.name)
def test_decoding_on_the_device_is_exact(kind):
    weight = random_planar(kind, 5, 512, DEVICE)
    found = planar_linear.dequantize_triton(weight, torch.float32)
    wanted = dequantize_planar(weight)
    if INTERPRETED:
        assert torch.equal(found, wanted)
    compare(found, wanted, torch.float32, f"{kind.name} decoded")


def test_rows_that_are_no_multiple_of_a_tile():
    weight = random_planar(PLANAR_TYPES[0], 33, 32 * 9, DEVICE)
    for num_tokens in (1, 2):
        x = torch.randn(num_tokens, 288, device=DEVICE)
        out = torch.empty(2, num_tokens, 33, device=DEVICE)
        planar_linear.planar_matmul_triton(x, weight, out[0], 8)
        planar_linear.planar_matmul_torch(x, weight, out[1], 8)
        compare(*out, torch.float32, "Q8_0 odd")
