"""The torch twins of the kernels: exact weights, noise that is noise, ties."""

import gguf
import numpy as np
import pytest
import torch

from engine.paged.kernels.attention import MAX_SPLITS, choose_splits
from engine.paged.kernels.jit import has_triton, loop_bound
from engine.paged.kernels.planar_linear import PlanarLinear
from engine.paged.kernels.sample import gumbel_noise, sample_torch
from engine.paged.weights.planar import PLANAR_TYPES, dequantize_planar, repack
from tests.gpu.paged_cases import random_blocks, random_planar

BITS_PER_WEIGHT = {"Q8_0": 8.5, "Q4_0": 4.5, "Q4_K": 4.625, "Q6_K": 8.5625}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)
    torch.set_num_threads(1)


@pytest.mark.parametrize("kind", PLANAR_TYPES, ids=lambda kind: kind.name)
def test_planes_hold_exactly_what_the_blocks_held(kind):
    raw = random_blocks(kind, 24, 2048)
    weight = repack(raw, kind, 2048)
    wanted = gguf.dequantize(raw.view(24, -1).numpy(), gguf.GGMLQuantizationType(int(kind)))
    assert np.array_equal(dequantize_planar(weight).numpy(), wanted)
    assert (weight.out_features, weight.in_features) == (24, 2048)
    assert weight.nbytes * 8 == BITS_PER_WEIGHT[kind.name] * 24 * 2048


def test_a_projection_of_several_types_is_its_parts_below_each_other():
    parts = tuple(random_planar(kind, 5 + place, 512) for place, kind in enumerate(PLANAR_TYPES))
    bias, x = torch.randn(26), torch.randn(3, 512)
    found = PlanarLinear(parts, bias)(x)
    weight = torch.cat([dequantize_planar(part) for part in parts])
    assert torch.allclose(found, x @ weight.T + bias, rtol=1e-5, atol=1e-3)


def noise(seed, position, tokens):
    seeds, positions = torch.tensor([seed]), torch.tensor([position])
    return gumbel_noise(seeds, positions, tokens.unsqueeze(0))[0]


def test_noise_is_a_function_of_seed_position_and_token():
    tokens = torch.arange(1000)
    base = noise(1, 5, tokens)
    assert torch.equal(base[700:], noise(1, 5, tokens[700:]))
    for seed, position in ((2, 5), (1, 6), (-1, 5), (1 << 40, 5)):
        assert (noise(seed, position, tokens) == base).float().mean() < 0.01


def test_noise_has_the_gumbel_distribution():
    found = noise(7, 0, torch.arange(200_000))
    assert torch.isfinite(found).all()
    assert abs(found.mean() - 0.5772) < 0.02  # Euler's constant
    assert abs(found.var() - 1.6449) < 0.03  # pi^2 / 6


def test_neighbouring_positions_are_independent():
    here, there = noise(7, 0, torch.arange(50_000)), noise(7, 1, torch.arange(50_000))
    assert abs(torch.corrcoef(torch.stack((here, there)))[0, 1]) < 0.02


def test_tokens_come_as_often_as_their_probability_says():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = 20_000
    temperature = torch.full((rows,), 0.5)
    logits = (probabilities.log() * 0.5).expand(rows, 4)
    chosen = sample_torch(logits, temperature, torch.full((rows,), 11), torch.arange(rows))
    shares = torch.bincount(chosen, minlength=4) / rows
    assert (shares - probabilities).abs().max() < 0.015


def test_a_row_draws_the_same_token_alone_and_in_a_batch():
    logits, heat = torch.randn(5, 100), torch.ones(5)
    seeds, positions = torch.arange(5) * 977, torch.arange(5)
    together = sample_torch(logits, heat, seeds, positions)
    for row in range(5):
        one = slice(row, row + 1)
        alone = sample_torch(logits[one], heat[one], seeds[one], positions[one])
        assert alone[0] == together[row]


def test_greedy_takes_the_lower_of_equal_tokens_whatever_the_order():
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0]])
    zero = torch.zeros(1, dtype=torch.int64)
    assert sample_torch(logits, torch.zeros(1), zero, zero).tolist() == [1]
    ids = torch.tensor([[9, 8, 2, 1]])
    assert sample_torch(logits, torch.zeros(1), zero, zero, ids).tolist() == [2]


def test_the_number_of_pieces_fills_the_device_and_no_more():
    assert choose_splits(1, 8, 132) == MAX_SPLITS
    assert choose_splits(16, 8, 132) == 4
    assert choose_splits(256, 8, 132) == 1


def test_kernels_called_like_functions_say_what_to_do():
    with pytest.raises(TypeError, match="launch it with"):
        loop_bound(3)
    assert isinstance(has_triton(), bool)
