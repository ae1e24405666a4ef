"""One running request: prefill, decode, and why it ends. Knows tokens, not text."""

import math
import time
from collections.abc import Mapping
from itertools import takewhile

from engine.api import FinishReason, GenerateRequest, SequenceStep, TokenLogprob, Usage
from engine.errors import EngineError
from engine.llama.logprobs import token_logprob
from engine.llama.sampler import Sampler
from engine.llama.session import Session
from engine.llama.vocab import Vocab
from engine.prompt import Fitted

# Ollama stops a stream after 30 equal tokens in a row (runner, tokenRepeatLimit)
MAX_EQUAL_TOKENS = 30
MAX_CONTEXTS = 10  # Ollama's cap on an unlimited answer that may shift, in context lengths


class Generation:
    """The state of the sequence of one request; `step` until it returns a finish reason."""

    def __init__(
        self, request: GenerateRequest, prompt: Fitted, images: Mapping[int, bytes],
        sampler: Sampler, session: Session, vocab: Vocab,
    ) -> None:  # fmt: skip
        """`images` are the files by what stands for them in the prompt, a negative number."""
        self.request = request
        self.is_aborted = False
        self._prompt = prompt
        self._images = images
        self._sampler = sampler
        self._session = session
        self._vocab = vocab
        self._special = vocab.named(request.special)
        self._may_shift = request.shift and session.can_shift
        self._max_tokens = self._limit(request.max_tokens)
        self._cached = -1  # unknown before the first step
        self._prompt_logprobs: list[TokenLogprob] = []  # not told yet
        self._output_count = 0
        self._last_token = -1
        self._equal_count = 0
        self._started_ns = 0
        self._first_token_ns = 0

    @property
    def cached_tokens(self) -> int:
        return max(self._cached, 0)

    @property
    def prompt_tokens(self) -> int:
        return len(self._prompt.tokens)

    @property
    def output_tokens(self) -> int:
        return self._output_count

    def step(self) -> SequenceStep | None:
        """One chunk of the prompt (None until the last), else one token.

        Raises EngineError when the sequence failed; its KV is consistent then.
        """
        if self.is_aborted:
            return self._finish(FinishReason.ABORT)
        if self._output_count:
            return self._decode()
        return self._prefill()

    def close(self) -> None:
        self._sampler.close()

    def _prefill(self) -> SequenceStep | None:
        session = self._session
        if self._cached < 0:
            self._started_ns = time.monotonic_ns()
            self._cached = session.reuse(self._prompt.tokens, self.request.cache_salt)
            if self.request.prompt_logprobs is not None:  # of cached tokens there are none
                session.clear()
                self._cached = 0
        if not self._read_on():
            # Only an abort interrupts; if the memory could not be cut, the prompt starts over.
            return self._finish(FinishReason.ABORT) if self.is_aborted else None
        if len(session.tokens) < len(self._prompt.tokens):
            return None
        if not math.isfinite(session.logits().max()):
            raise EngineError("the model computes no finite numbers; its file is damaged")
        if self._max_tokens == 0:
            return self._finish(FinishReason.LENGTH)
        return self._emit()

    def _read_on(self) -> bool:
        """Compute a chunk of the prompt, or one image; False if interrupted."""
        session = self._session
        start = len(session.tokens)
        is_told = self.request.prompt_logprobs is not None
        size = min(session.batch_size, session.max_outputs) if is_told else session.batch_size
        chunk = self._prompt.tokens[start : start + size]
        if self._images:
            if chunk[0] < 0:
                return session.show(chunk[0], self._images[chunk[0]])
            chunk = list(takewhile(lambda token: token >= 0, chunk))
        is_whole = session.extend(chunk, every=is_told)
        if is_whole and is_told:
            self._note_prompt(start, len(chunk))
        return is_whole

    def _note_prompt(self, start: int, count: int) -> None:
        """Read what the tokens from `start` on say of those that follow them in the prompt."""
        tokens, found = self._prompt.tokens, self._prompt_logprobs
        if start == 0:
            found[:] = [
                TokenLogprob(tokens[0], self._vocab.piece(tokens[0], special=True), math.nan)
            ]
        top = self.request.prompt_logprobs or 0
        for index in range(min(count, len(tokens) - 1 - start)):
            logits = self._session.logits_of(index)
            if not math.isfinite(logits.max()):
                raise EngineError("the model computes no finite numbers; its file is damaged")
            found.append(token_logprob(logits, tokens[start + index + 1], top, self._vocab))

    def _take_prompt_logprobs(self) -> list[TokenLogprob]:
        found, self._prompt_logprobs = self._prompt_logprobs, []
        return found

    def _decode(self) -> SequenceStep:
        session = self._session
        if session.is_full and not session.shift(self._prompt.keep):
            return self._finish(FinishReason.LENGTH)
        session.append(self._last_token)
        return self._emit()

    def _emit(self) -> SequenceStep:
        """Sample the next token and say what to tell about it."""
        token = self._sampler.sample(self._session)
        if self._output_count == 0:
            self._first_token_ns = time.monotonic_ns()
        request = self.request
        if token is None:
            return self._finish(FinishReason.STOP)
        if request.ignore_eos:
            piece = self._vocab.piece(token, special=True)
        elif self._vocab.is_end(token):
            return self._finish(FinishReason.STOP)
        elif token in self._special:
            piece = self._vocab.piece(token, special=True)
        else:
            piece = self._vocab.output_piece(token)
        finish = self._count(token)
        return SequenceStep(
            id=request.id,
            token_ids=[token],
            data=piece,
            logprobs=[] if request.logprobs is None else [
                token_logprob(self._session.logits(), token, request.logprobs, self._vocab)
            ],
            prompt_logprobs=self._take_prompt_logprobs(),
            finish=finish,
            usage=None if finish is None else self._usage(),
        )  # fmt: skip

    def _count(self, token: int) -> FinishReason | None:
        """Note one more token of output; the reason to end with it, if there is one."""
        self._output_count += 1
        self._equal_count = self._equal_count + 1 if token == self._last_token else 1
        self._last_token = token
        if self._output_count >= self._max_tokens:
            return FinishReason.LENGTH
        if self._session.is_full and not self._may_shift:
            return FinishReason.LENGTH
        if self._equal_count > MAX_EQUAL_TOKENS and not self.request.ignore_eos:
            return FinishReason.STOP
        return None

    def _finish(self, reason: FinishReason) -> SequenceStep:
        return SequenceStep(
            id=self.request.id,
            prompt_logprobs=self._take_prompt_logprobs(),
            finish=reason,
            usage=self._usage(),
        )

    def _usage(self) -> Usage:
        now = time.monotonic_ns()
        started = self._started_ns or now
        first = self._first_token_ns or now
        return Usage(
            prompt_tokens=len(self._prompt.tokens),
            cached_tokens=self.cached_tokens,
            output_tokens=self._output_count,
            prompt_ns=first - started,
            decode_ns=now - first,
            truncated_tokens=self._prompt.truncated,
        )

    def _limit(self, max_tokens: int) -> float:
        if max_tokens >= 0:
            return max_tokens
        return MAX_CONTEXTS * self._session.context_length if self._may_shift else math.inf
