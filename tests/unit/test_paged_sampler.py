"""Choosing without the host gives the tokens that the sampler gives with it."""

import pytest
import torch

from engine.api import SamplingParams
from engine.paged.kernels.sample import sample_torch
from engine.paged.sampler import Lines, Sampler, Way

CPU = torch.device("cpu")


def sampler_of(*params):
    sampler = Sampler(len(params), CPU, sample_torch)
    for row, one in enumerate(params):
        sampler.set_row(row, one, seed=7 + row)
    return sampler


def both(sampler, logits, way):
    rows, ends = list(range(len(logits))), [5 + n for n in range(len(logits))]
    lines = Lines(rows, ends, torch.tensor(rows), torch.tensor(ends))
    chosen = sampler.choose(way, logits, lines.row_index, lines.positions)
    table = torch.zeros(len(rows), 64, dtype=torch.int32)
    return chosen.tolist(), sampler.sample(logits, lines, table, {}, None).tokens.tolist()


@pytest.mark.parametrize("vocab", [40, 5000])
def test_few_and_greedy_rows_together(vocab):
    params = [
        SamplingParams(temperature=heat, top_k=top_k, top_p=top_p, min_p=min_p)
        for heat in (0.0, 0.7, 1.5)
        for top_k in (1, 40, 64)
        for top_p in (0.5, 1.0)
        for min_p in (0.0, 0.2)
    ]
    sampler = sampler_of(*params)
    assert sampler.way(range(len(params))) is Way.FEW
    logits = torch.randn(len(params), vocab, generator=torch.Generator().manual_seed(3)) * 3
    chosen, wanted = both(sampler, logits, Way.FEW)
    assert chosen == wanted
    assert chosen != logits.argmax(-1).tolist()


def test_a_greedy_row_takes_the_first_of_equals_in_any_company():
    sampler = sampler_of(SamplingParams(temperature=0, top_k=1), SamplingParams(top_k=3))
    logits = torch.zeros(2, 200)
    logits[:, [9, 30, 150]] = 1.0
    chosen, wanted = both(sampler, logits, Way.FEW)
    assert chosen == wanted
    assert chosen[0] == 9


@pytest.mark.parametrize(
    ("fields", "way"),
    [
        ({"temperature": 0}, Way.GREEDY),
        ({}, Way.FEW),
        ({"top_k": 64}, Way.FEW),
        ({"top_k": 65}, Way.ANY),
        ({"top_k": 0}, Way.ANY),
        ({"typical_p": 0.9}, Way.ANY),
        ({"temperature": 0, "repeat_penalty": 1.1}, Way.ANY),
        ({"temperature": 0, "logit_bias": {3: 1.0}}, Way.ANY),
    ],
)
def test_what_a_row_needs(fields, way):
    greedy = SamplingParams(temperature=0)
    assert sampler_of(greedy, SamplingParams(**fields)).way([0, 1]) is way
