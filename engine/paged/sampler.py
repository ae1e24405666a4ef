"""Choose the next token of every sequence at once, without sorting the vocabulary.

The order of filters is that of our llama engine: bias, penalties, mask, top-k, typical, top-p,
min-p, temperature. Randomness is a function of (seed, position, token), so a seeded request gives
the same tokens alone and in any batch. Knows rows of numbers, no requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from engine.api import SamplingParams
from engine.paged.kernels.sample import Choose

FEW = 64  # candidates that are enough for nearly every top-k
MANY = 1024  # candidates for top-p without top-k; their mass is checked
_UNFILTERED = SamplingParams(temperature=0, top_k=0, top_p=1)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One step's result.

    tokens       (rows,) int64
    logprobs     (rows,) float32 of the tokens, before any filter; None if nobody asked
    top_ids, top_logprobs   (rows, n) the n best; None if nobody asked
    """

    tokens: Tensor
    logprobs: Tensor | None = None
    top_ids: Tensor | None = None
    top_logprobs: Tensor | None = None

    def to_host(self) -> tuple["Sampled", torch.cuda.Event | None]:
        """A copy on the host, and the event after which it holds the numbers; None: it does."""
        if not self.tokens.is_cuda:
            return self, None
        fields = (self.tokens, self.logprobs, self.top_ids, self.top_logprobs)
        copy = Sampled(*(None if field is None else _pinned(field) for field in fields))
        copied = torch.cuda.Event()
        copied.record()
        return copy, copied


def _pinned(tensor: Tensor) -> Tensor:
    """A copy on its way to pinned memory: later steps need not end before it can be read."""
    here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return here.copy_(tensor, non_blocking=True)


@dataclass(frozen=True, slots=True)
class Lines:
    """Which sequences the lines of a matrix of logits belong to, on the host and on the device."""

    rows: Sequence[int]
    ends: Sequence[int]  # the position that each sampled token will have
    row_index: Tensor  # rows, int64
    positions: Tensor  # ends, int64


class Way(IntEnum):
    """How much it takes to choose a row's token; a batch goes the way of its last row."""

    GREEDY = 0
    FEW = 1  # one of the FEW best
    ANY = 2  # what only `Sampler.sample` can do


class Sampler:
    """Sampling parameters of every row, on the host as flags and on the device as numbers."""

    def __init__(self, max_rows: int, device: torch.device, choose: Choose) -> None:
        self._choose = choose
        self._params: list[SamplingParams] = [SamplingParams(temperature=0)] * max_rows
        self._device = device
        self._temperature = torch.ones(max_rows, device=device)
        self._top_k = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self._top_p = torch.ones(max_rows, device=device)
        self._min_p = torch.zeros(max_rows, device=device)
        self._typical_p = torch.ones(max_rows, device=device)
        self._seed = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self._bias: dict[int, tuple[Tensor, Tensor]] = {}
        self._ways = [Way.GREEDY] * max_rows

    def set_row(self, row: int, params: SamplingParams, seed: int) -> None:
        """Take over a request's parameters, already checked; `seed` is 64 bits, signed."""
        bias = params.logit_bias
        self._params[row] = params
        self._ways[row] = _way_of(params)
        if params.temperature <= 0:  # where others are drawn, it is the best of all candidates
            params = _UNFILTERED
        self._temperature[row] = max(params.temperature, 0.0)
        self._top_k[row] = max(params.top_k, 0)
        self._top_p[row] = params.top_p
        self._min_p[row] = params.min_p
        self._typical_p[row] = params.typical_p
        self._seed[row] = seed
        self._bias.pop(row, None)
        if bias:
            ids = torch.tensor(list(bias), device=self._device)
            values = torch.tensor(list(bias.values()), device=self._device)
            self._bias[row] = ids, torch.where(values <= -100, -torch.inf, values)

    def way(self, rows: Sequence[int]) -> Way:
        return max(map(self._ways.__getitem__, rows))

    def choose(self, way: Way, logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """What `sample` would choose for rows that go no further than `way`, which is not ANY.

        All arguments are on the device and the host decides nothing, so a graph may hold it.
        """
        if way is Way.GREEDY:
            return logits.argmax(-1)
        values, ids = logits.topk(min(FEW, logits.shape[-1]), -1)
        kept, _ = self._filter(values, torch.logsumexp(values, -1), rows, is_typical=False)
        return self._choose(kept, self._temperature[rows], self._seed[rows], positions, ids)

    def sample(
        self,
        logits: Tensor,
        lines: Lines,
        token_table: Tensor,
        masks: Mapping[int, Tensor],
        top_logprobs: int | None,
    ) -> Sampled:
        """The next tokens.

        logits        (rows, vocab_size) float32, overwritten
        token_table   (rows or more, context) the tokens so far, for the penalties
        masks         line → (vocab_size,) bool of allowed tokens, for constrained rows
        top_logprobs  None: no log-probabilities; n: also of the n best
        """
        raw = logits.clone() if top_logprobs is not None else logits
        self._adjust(logits, lines, token_table, masks)
        drawn = [line for line, row in enumerate(lines.rows) if self._params[row].temperature > 0]
        if len(drawn) == len(lines.rows):
            tokens = self._draw(logits, lines)
        elif not drawn:
            tokens = logits.argmax(-1)
        else:
            index = torch.tensor(drawn, device=self._device)
            some = Lines(
                [lines.rows[line] for line in drawn],
                [lines.ends[line] for line in drawn],
                lines.row_index[index],
                lines.positions[index],
            )
            chosen = self._draw(logits[index], some)
            tokens = logits.argmax(-1).index_copy_(0, index, chosen)
        if top_logprobs is None:
            return Sampled(tokens)
        logprobs = torch.log_softmax(raw, -1)
        best = logprobs.topk(top_logprobs, -1) if top_logprobs else None
        return Sampled(
            tokens,
            logprobs.gather(-1, tokens[:, None])[:, 0],
            None if best is None else best.indices,
            None if best is None else best.values,
        )

    def _adjust(
        self,
        logits: Tensor,
        lines: Lines,
        token_table: Tensor,
        masks: Mapping[int, Tensor],
    ) -> None:
        """Bias, penalties and masks, in place."""
        for line, (row, end) in enumerate(zip(lines.rows, lines.ends, strict=True)):
            if row in self._bias:
                ids, values = self._bias[row]
                logits[line, ids] += values
            params = self._params[row]
            if _penalizes(params):
                start = 0 if params.repeat_last_n < 0 else max(0, end - params.repeat_last_n)
                _penalize(logits[line], token_table[row, start:end].long(), params)
            if line in masks:
                logits[line].masked_fill_(~masks[line], -torch.inf)

    def _draw(self, logits: Tensor, lines: Lines) -> Tensor:
        """Random tokens for rows with a temperature: (n, vocab_size) → (n,)."""
        index, positions = lines.row_index, lines.positions
        seeds, temperature = self._seed[index], self._temperature[index]
        width = self._width(lines.rows, logits.shape[-1])
        if width == 0:
            return self._choose(logits, temperature, seeds, positions)
        values, ids = logits.topk(width, -1)
        is_typical = any(self._params[row].typical_p < 1 for row in lines.rows)
        log_total = torch.logsumexp(logits, -1)
        kept, is_enough = self._filter(values, log_total, index, is_typical=is_typical)
        tokens = self._choose(kept, temperature, seeds, positions, ids)
        # To ask the device is to wait for it; a top-k never needs more than its candidates.
        is_open = any(self._params[row].top_k <= 0 for row in lines.rows)
        if is_open and width < logits.shape[-1] and not bool(is_enough.all()):
            for line in (~is_enough).nonzero()[:, 0].tolist():  # rare: a flat distribution
                tokens[line] = self._draw_sorted(logits[line], lines.rows[line], positions[line])
        return tokens

    def _draw_sorted(self, logits: Tensor, row: int, position: Tensor) -> Tensor:
        """One row with all of the vocabulary as candidates."""
        values, ids = logits.sort(descending=True)
        index = torch.tensor([row], device=self._device)
        is_typical = self._params[row].typical_p < 1
        log_total = torch.logsumexp(logits, -1)[None]
        kept, _ = self._filter(values[None], log_total, index, is_typical=is_typical)
        temperature, seed = self._temperature[index], self._seed[index]
        return self._choose(kept, temperature, seed, position[None], ids[None])[0]

    def _width(self, rows: Sequence[int], vocab_size: int) -> int:
        """Candidates to look at; 0: every token may be drawn as it is."""
        params = [self._params[row] for row in rows]
        if not any(_truncates(p) for p in params):
            return 0
        widest = max(p.top_k if p.top_k > 0 else MANY for p in params)
        return min(vocab_size, FEW if widest <= FEW else max(widest, MANY))

    def _filter(
        self, values: Tensor, log_total: Tensor, index: Tensor, *, is_typical: bool
    ) -> tuple[Tensor, Tensor]:
        """Candidates that fail a filter become -inf; also whether the candidates sufficed.

        values     (n, width) logits, best first
        log_total  (n,) log of the sum over the whole vocabulary
        """
        rank = torch.arange(values.shape[-1], device=self._device)
        top_k = self._top_k[index, None]
        kept = values.masked_fill((top_k > 0) & (rank >= top_k), -torch.inf)
        log_total = torch.where(top_k[:, 0] > 0, torch.logsumexp(kept, -1), log_total)
        logprobs = kept - log_total[:, None]
        if is_typical:
            kept = _typical(kept, logprobs, self._typical_p[index, None])
            logprobs = kept - torch.logsumexp(kept, -1, keepdim=True)
        probs = logprobs.exp()
        top_p, min_p = self._top_p[index, None], self._min_p[index, None]
        before = probs.cumsum(-1) - probs
        kept = kept.masked_fill((top_p < 1) & (before >= top_p) & (rank > 0), -torch.inf)
        kept = kept.masked_fill(values < values[:, :1] + min_p.log(), -torch.inf)
        is_whole = (top_k[:, 0] > 0) | (probs.sum(-1) >= top_p[:, 0].clamp(max=1 - 1e-4))
        return kept, is_whole


def _way_of(params: SamplingParams) -> Way:
    if params.logit_bias or _penalizes(params):
        return Way.ANY
    if params.temperature <= 0:
        return Way.GREEDY
    return Way.FEW if 0 < params.top_k <= FEW and params.typical_p >= 1 else Way.ANY


def _truncates(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1 or params.min_p > 0 or params.typical_p < 1


def _penalizes(params: SamplingParams) -> bool:
    is_on = params.repeat_penalty != 1 or params.presence_penalty or params.frequency_penalty
    return bool(is_on) and params.repeat_last_n != 0


def _penalize(logits: Tensor, window: Tensor, params: SamplingParams) -> None:
    """As llama.cpp's penalties sampler, on one row (vocab_size,) in place."""
    ids, counts = window.unique(return_counts=True)
    values = logits[ids]
    values = torch.where(
        values <= 0, values * params.repeat_penalty, values / params.repeat_penalty
    )
    logits[ids] = values - counts * params.frequency_penalty - params.presence_penalty


def _typical(kept: Tensor, logprobs: Tensor, typical: Tensor) -> Tensor:
    """Keep the tokens whose surprise is nearest to the expected one, up to a mass of `typical`."""
    probs = logprobs.exp()
    entropy = -(probs * logprobs.masked_fill(probs == 0, 0)).sum(-1, keepdim=True)
    order = (-logprobs - entropy).abs().argsort(-1)
    mass = probs.gather(-1, order).cumsum(-1) - probs.gather(-1, order)
    drop = torch.zeros_like(kept, dtype=torch.bool).scatter(-1, order, mass > typical)
    return kept.masked_fill(drop & (typical < 1), -torch.inf)
