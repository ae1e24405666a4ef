"""Choose tokens: the counter-based random numbers, Gumbel argmax, greedy argmax.

A row's noise is a function of (seed, position, token) alone, so a seeded request draws the same
tokens alone, in any batch, on a GPU and on the CPU. Knows no penalties, filters or requests.

    key    = SplitMix64(seed + position * golden ratio), two 32-bit halves
    u      = 23 bits of a 32-bit mixer of token, with one half of the key before each of two rounds
    choice = argmax(logit / temperature - log(-log(u))); the lower token id wins a tie
"""

from __future__ import annotations

from typing import Protocol

import torch

from engine.paged.kernels.jit import Ptr, cdiv, constexpr, kernel, next_power_of_2, tl

_BLOCK = 2048
_MASK32 = 0xFFFFFFFF
_NO_TOKEN = 0x7FFFFFFF


class Choose(Protocol):
    """`sample_torch` or `sample_triton`."""

    def __call__(
        self,
        logits: torch.Tensor,
        temperature: torch.Tensor,
        seeds: torch.Tensor,
        positions: torch.Tensor,
        token_ids: torch.Tensor | None = None,
    ) -> torch.Tensor: ...


def sample_triton(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
    token_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `sample_torch`."""
    num_rows, size = logits.shape
    parts = cdiv(size, _BLOCK)
    device = logits.device
    scores = torch.empty((num_rows, parts), dtype=torch.float32, device=device)
    tokens = torch.empty((num_rows, parts), dtype=torch.int32, device=device)
    chosen = torch.empty(num_rows, dtype=torch.int64, device=device)
    _best_of_part[(num_rows, parts)](
        scores, tokens, logits, logits.stride(0), temperature, seeds, positions, token_ids,
        0 if token_ids is None else token_ids.stride(0),
        size=size, parts=parts, block=_BLOCK, has_ids=token_ids is not None, num_warps=4,
    )  # fmt: skip
    _best_of_row[(num_rows,)](
        chosen, scores, tokens, parts=parts, padded=next_power_of_2(parts), num_warps=1
    )
    return chosen


@kernel()
def _mix32(x: Ptr) -> Ptr:
    """A bijection of 32 bits in which each input bit flips each output bit half of the time."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@kernel()
def _split_mix64(x: Ptr) -> Ptr:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@kernel()
def _best(score: Ptr, token: Ptr) -> Ptr:
    """The highest score of a tile and, of the tokens that have it, the lowest id."""
    top = tl.max(score, 0)
    return top, tl.min(tl.where(score == top, token, 0x7FFFFFFF), 0)


@kernel()
def _best_of_part(
    scores: Ptr, tokens: Ptr, logits: Ptr, stride: Ptr, temperature: Ptr, seeds: Ptr,
    positions: Ptr, token_ids: Ptr, ids_stride: Ptr,
    size: constexpr, parts: constexpr, block: constexpr, has_ids: constexpr,
) -> None:  # fmt: skip
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = part * block + tl.arange(0, block)
    inside = at < size
    score = tl.load(logits + row * stride + at, mask=inside, other=float("-inf")).to(tl.float32)
    token = at
    if has_ids:
        token = tl.load(token_ids + row * ids_stride + at, mask=inside, other=0).to(tl.int32)
    heat = tl.load(temperature + row)
    if heat > 0:
        seed = tl.load(seeds + row).to(tl.uint64, bitcast=True)
        position = tl.load(positions + row).to(tl.uint64)
        key = _split_mix64(seed + (position + 1) * 0x9E3779B97F4A7C15)
        low, high = key.to(tl.uint32), (key >> 32).to(tl.uint32)
        bits = _mix32(_mix32(token.to(tl.uint32, bitcast=True) ^ low) ^ high)
        u = ((bits >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
        score = tl.div_rn(score, tl.zeros_like(score) + heat) - tl.log(-tl.log(u))
    top, token = _best(score, token)
    tl.store(scores + row * parts + part, top)
    tl.store(tokens + row * parts + part, token)


@kernel()
def _best_of_row(
    chosen: Ptr, scores: Ptr, tokens: Ptr, parts: constexpr, padded: constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, padded)
    score = tl.load(scores + row * parts + at, mask=at < parts, other=float("-inf"))
    token = tl.load(tokens + row * parts + at, mask=at < parts, other=0x7FFFFFFF)
    _, token = _best(score, token)
    tl.store(chosen + row, token.to(tl.int64))


def sample_torch(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
    token_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """One token for each row, drawn from softmax(logits / temperature), as (num_rows,) int64.

    logits        (num_rows, n)            -inf where a token may not be chosen
    temperature   (num_rows,) float32      0 or less: the highest logit
    seeds         (num_rows,) int64        any 64 bits
    positions     (num_rows,) int64        which token of its sequence the row draws, 0 or more
    token_ids     (num_rows, n) integers   the candidates; None: token i at place i

    The same candidates give the same token in any order and with any others of no weight. A row
    without any allowed token gives the lowest candidate.
    """
    if token_ids is None:
        token_ids = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape)
    hot = (temperature > 0).unsqueeze(1)
    divisor = torch.where(hot, temperature.unsqueeze(1), 1.0)
    noise = gumbel_noise(seeds, positions, token_ids)
    score = torch.where(hot, logits.float() / divisor + noise, logits.float())
    best = score == score.amax(1, keepdim=True)
    return torch.where(best, token_ids.long(), _NO_TOKEN).amin(1)


def gumbel_noise(
    seeds: torch.Tensor, positions: torch.Tensor, token_ids: torch.Tensor
) -> torch.Tensor:
    """Gumbel(0, 1) noise of tokens (num_rows, n), float32; seeds and positions (num_rows,) int64.

    torch has no unsigned arithmetic: products wrap in int64 and shifts clear the copied sign.
    """
    key = seeds + (positions + 1) * _signed(0x9E3779B97F4A7C15)
    key = (key ^ _shifted(key, 30)) * _signed(0xBF58476D1CE4E5B9)
    key = (key ^ _shifted(key, 27)) * _signed(0x94D049BB133111EB)
    key = (key ^ _shifted(key, 31)).unsqueeze(1)
    bits = _mixed(_mixed(token_ids.long() ^ (key & _MASK32)) ^ _shifted(key, 32))
    u = ((bits >> 9).float() + 0.5) * 2.0**-23
    return -torch.log(-torch.log(u))


def _signed(bits: int) -> int:
    return bits - (1 << 64)


def _shifted(x: torch.Tensor, count: int) -> torch.Tensor:
    return x >> count & (1 << 64 - count) - 1


def _mixed(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ x >> 16) * 0x7FEB352D & _MASK32
    x = (x ^ x >> 15) * 0x846CA68B & _MASK32
    return x ^ x >> 16
