"""What a step tells of a sequence: its token as bytes, log-probabilities, and how it ended.

Knows pieces of text and what was sampled; which sequence has which token the engine decides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from engine.api import FinishReason, GenerateRequest, SequenceStep, TokenLogprob, Usage
from engine.paged.grammar import Grammar
from engine.paged.request import Request
from engine.paged.runner import Launched, Options, PromptPiece

if TYPE_CHECKING:
    from engine.llama.vocab import Vocab


@dataclass(slots=True)
class LiveSequence:
    """A request on its way through the engine, and what was told of it."""

    source: GenerateRequest
    request: Request
    truncated: int
    grammar: Grammar | None
    special: frozenset[int]  # control tokens that add their text
    told: int = 0  # output tokens sent so far
    prompt: dict[int, TokenLogprob] = field(default_factory=dict)  # by position, if asked for
    has_told_prompt: bool = False
    added_ns: int = field(default_factory=time.monotonic_ns)
    first_ns: int = 0

    def step(self, vocab: Vocab, token: int, logprob: TokenLogprob | None) -> SequenceStep:
        """One more token, after which it goes on."""
        return SequenceStep(
            id=self.request.id,
            token_ids=[token],
            data=self._piece(vocab, token),
            logprobs=[logprob] if logprob else [],
        )

    def last_step(
        self,
        vocab: Vocab,
        finish: FinishReason,
        token: int | None = None,
        logprob: TokenLogprob | None = None,
    ) -> SequenceStep:
        """Its end, perhaps with a last token."""
        now = time.monotonic_ns()
        first = self.first_ns or now
        request = self.request
        return SequenceStep(
            id=request.id,
            token_ids=[] if token is None else [token],
            data=b"" if token is None else self._piece(vocab, token),
            logprobs=[logprob] if logprob and token is not None else [],
            finish=finish,
            usage=Usage(
                prompt_tokens=request.prompt_length,
                cached_tokens=request.cached_tokens,
                output_tokens=self.told,
                prompt_ns=first - self.added_ns,
                decode_ns=now - first,
                truncated_tokens=self.truncated,
            ),
        )

    def with_prompt(self, vocab: Vocab, step: SequenceStep) -> SequenceStep:
        """The first step of a sequence tells what was asked about its prompt."""
        if self.source.prompt_logprobs is None or self.has_told_prompt:
            return step
        self.has_told_prompt = True
        first = self.request.tokens[0]
        found = [TokenLogprob(first, vocab.piece(first, special=True), math.nan)]
        found += [self.prompt[n] for n in range(1, self.request.prompt_length)]
        return msgspec.structs.replace(step, prompt_logprobs=found)

    def note_prompt(self, vocab: Vocab, found: PromptPiece) -> None:
        """Log-probabilities of a part of the prompt, by position."""
        tokens, piece = self.request.tokens, vocab.piece
        tops = zip(found.top_ids.tolist(), found.top_logprobs.tolist(), strict=True)
        for place, (value, (ids, values)) in enumerate(
            zip(found.logprobs.tolist(), tops, strict=True), found.start
        ):
            top = [(one, piece(one, special=True), at) for one, at in zip(ids, values, strict=True)]
            token = tokens[place]
            self.prompt[place] = TokenLogprob(token, piece(token, special=True), value, top)

    def _piece(self, vocab: Vocab, token: int) -> bytes:
        if self.source.ignore_eos or token in self.special:
            return vocab.piece(token, special=True)
        return vocab.output_piece(token)


def logprobs_of(
    launched: Launched, options: Mapping[int, Options], vocab: Vocab
) -> dict[int, TokenLogprob]:
    """Of the tokens that a step sampled, by request, for those that ask for them."""
    sampled, piece = launched.sampled, vocab.piece
    if sampled is None or sampled.logprobs is None:
        return {}
    tops: list[list[tuple[int, bytes, float]]] = [[] for _ in launched.ids]
    if sampled.top_ids is not None and sampled.top_logprobs is not None:
        tops = [
            [(id, piece(id, special=True), value) for id, value in zip(*pair, strict=True)]
            for pair in zip(sampled.top_ids.tolist(), sampled.top_logprobs.tolist(), strict=True)
        ]
    tokens, values = sampled.tokens.tolist(), sampled.logprobs.tolist()
    found = {}
    for id, token, value, top in zip(launched.ids, tokens, values, tops, strict=True):
        asked = options[id].logprobs if id in options else None
        if asked is not None:
            found[id] = TokenLogprob(token, piece(token, special=True), value, top[:asked])
    return found
