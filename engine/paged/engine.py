"""The paged engine: many sequences at once over a paged KV cache. `load` is the EngineFactory.

A step plans, launches and commits. With overlap the next step is planned and launched before the
tokens of the one before have been read back; without, the same calls run in another order. Knows
requests and pieces of text as bytes; decisions are in `scheduler.py`, tensors in `runner.py`.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.api import (
    EngineInfo,
    FinishReason,
    GenerateRequest,
    LoadSpec,
    Poll,
    Pooling,
    SequenceStep,
    TokenLogprob,
)
from engine.errors import DeviceMemoryError, EngineError, EngineRequestError, unseeing
from engine.paged.grammar import GrammarCompiler
from engine.paged.graphs import Capture, CudaCapture
from engine.paged.model import PagedModel
from engine.paged.prefix import PrefixIndex
from engine.paged.request import Request
from engine.paged.runner import Launched, Options, Runner
from engine.paged.scheduler import Scheduler
from engine.paged.telling import LiveSequence, logprobs_of
from engine.prompt import Fitted, check_logprobs, fit_prompt

if TYPE_CHECKING:
    from engine.llama.vocab import Vocab


def load(spec: LoadSpec, poll: Poll) -> PagedEngine:
    """Open a GGUF file. Raises ModelFormatError, DeviceMemoryError or EngineRequestError.

    `poll` is not needed: a step is short, since prompts are computed in chunks.
    """
    started = time.monotonic_ns()
    engine = PagedEngine(PagedModel.open(spec))
    engine.self_test()
    engine.load_ns = time.monotonic_ns() - started
    return engine


def _salt_of(request: GenerateRequest) -> bytes:
    """Whom a prompt shares cached blocks with. With nobody, not even with itself, where each of its
    tokens has to be computed because its log-probability is asked for."""
    if request.prompt_logprobs is not None:
        return secrets.token_bytes(16)
    return request.cache_salt.encode()


class PagedEngine:
    """See the module's text. Synchronous, one thread."""

    def __init__(
        self,
        model: PagedModel,
        *,
        overlap: bool = True,
        graphs: bool | None = None,
        capture: Capture | None = None,
    ) -> None:
        """graphs: pad decode steps and capture them; None: where that is possible, on a GPU.

        capture: how, if not by CUDA.
        """
        self.load_ns = 0
        self._model = model
        self._overlap = overlap
        self._vocab: Vocab = model.vocab
        index = PrefixIndex(model.limits.num_blocks, model.limits.block_size)
        self._scheduler = Scheduler(model.limits, index)
        pads = model.back_ends.has_graphs if graphs is None else graphs
        if pads and capture is None and model.device.type == "cuda":
            capture = CudaCapture()
        self._runner = Runner(
            model.decoder,
            model.back_ends,
            model.kv,
            model.limits,
            model.device,
            pads=pads,
            capture=capture,
        )
        self._grammars = GrammarCompiler(model.vocab)
        self._sequences: dict[int, LiveSequence] = {}
        self._options: dict[int, Options] = {}
        self._ended: list[SequenceStep] = []  # last steps of aborted sequences, not yet told
        self._launched: Launched | None = None
        self._epoch = 0
        self._served = 0

    @property
    def info(self) -> EngineInfo:
        model, vocab = self._model, self._vocab
        return EngineInfo(
            engine="paged",
            context_length=model.limits.max_context,
            slots=model.limits.max_running,
            vocab_size=model.spec.vocab_size,
            embedding_length=model.spec.hidden,
            weight_bytes=model.decoder.nbytes,
            kv_bytes=model.budget.total_bytes,
            threads=model.threads,
            infill=vocab.infill,
            bos_token=vocab.text(vocab.bos),
            eos_token=vocab.text(vocab.eos),
            load_ns=self.load_ns,
            description=", ".join(filter(None, (model.description, self._runner.graphs.failures))),
        )

    def add(self, request: GenerateRequest) -> None:
        """Accept a request; raises EngineError when it can never be served."""
        if request.images:
            raise unseeing("paged")
        sampling, vocab_size = request.sampling, self._model.spec.vocab_size
        check_logprobs(request)
        if any(not 0 <= token < vocab_size for token in sampling.logit_bias):
            raise EngineRequestError(f"logit_bias names a token beyond 0 to {vocab_size - 1}")
        fitted = self._fit(request)
        inner = Request(
            request.id,
            fitted.tokens,
            max_tokens=request.max_tokens,
            end_tokens=frozenset() if request.ignore_eos else self._model.end_tokens,
            priority=request.priority,
            salt=_salt_of(request),
        )
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        grammar = None
        if request.constraint is not None:
            grammar = self._grammars.compile(request.constraint)
        self._scheduler.add(inner)
        self._options[request.id] = Options(
            sampling, seed, request.logprobs, request.prompt_logprobs
        )
        special = self._vocab.named(request.special)
        self._sequences[request.id] = LiveSequence(
            request, inner, fitted.truncated, grammar, special
        )

    def abort(self, request_id: int) -> None:
        """End a request in whatever state it is; others are ignored."""
        if self._scheduler.abort(request_id) is not None:
            sequence = self._sequences[request_id]
            self._ended.append(self._last_step(sequence, FinishReason.ABORT))

    def has_work(self) -> bool:
        return bool(self._ended) or self._launched is not None or self._scheduler.has_work()

    def step(self) -> Sequence[SequenceStep]:
        """Launch one step and tell the results of the newest finished one.

        Raises DeviceMemoryError or EngineError when the device fails: then the worker must end.
        """
        try:
            with torch.inference_mode():
                return self._step()
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"a step of {self._model.limits.step_tokens} tokens did not fit on"
                f" {self._model.device}; free memory or load with a smaller num_ctx"
            ) from error
        except torch.AcceleratorError as error:  # sticky: nothing computes after it any more
            raise EngineError(
                f"{self._model.device} failed and this worker ends: {error}; a new one starts with"
                " the next request"
            ) from error

    def _step(self) -> list[SequenceStep]:
        ended, self._ended = self._ended, []
        is_ahead = self._overlap and not any(s.grammar for s in self._sequences.values())
        before, self._launched = self._launched, None
        steps: list[SequenceStep] = []
        if before is not None and not is_ahead:
            steps += self._commit(before)
            before = None
        self._epoch += 1
        launched = self._runner.launch(
            self._scheduler.plan(self._epoch), self._options, self._masks()
        )
        if before is not None:
            steps += self._commit(before)
        if is_ahead and not launched.plan.is_empty:
            self._launched = launched
        else:
            steps += self._commit(launched)
        if not self._scheduler.has_work():
            self._scheduler.check_integrity()
        return [*ended, *steps]

    def embed(
        self, inputs: Sequence[str | list[int]], *, pooling: Pooling, truncate: bool
    ) -> tuple[list[list[float]], int]:
        raise EngineRequestError("the paged engine generates text; embed with the llama engine")

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        max_document_tokens: int,
        truncate: bool,
    ) -> tuple[list[float], int]:
        raise EngineRequestError("the paged engine generates text; score with the llama engine")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`."""
        return self._vocab.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        """The bytes that the tokens stand for, special tokens as their text."""
        return self._vocab.detokenize(token_ids)

    def look(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        raise unseeing("paged")

    def stats(self) -> dict[str, Any]:
        """Counters since loading and the state of the pool."""
        graphs = self._runner.graphs
        return {
            "served": self._served,
            "steps": self._epoch,
            "graphs": graphs.captured,
            "graphs_failed": graphs.failures,
            **self._scheduler.stats(),
        }

    def close(self) -> None:
        """Forget everything; the process's end gives the memory back."""
        self._sequences.clear()
        self._launched = None

    def self_test(self) -> None:
        """Generate a few tokens, so that a device that cannot compute is found before it is used.

        Three pass through prefill, decode and, where graphs are captured, the first of them.
        """
        count = 3 if self._model.back_ends.has_graphs else 1
        start = [max(self._vocab.bos, 0)]
        self.add(
            GenerateRequest(id=-1, prompt=start, max_tokens=count, logprobs=0, ignore_eos=True)
        )
        found: list[float] = []
        while self.has_work():
            found += [logprob.logprob for step in self.step() for logprob in step.logprobs]
        if len(found) != count or not all(map(math.isfinite, found)):
            raise EngineError(
                f"the engine's self-test computed nonsense on {self._model.device}"
                f" (log-probabilities {found}): the model's numbers or the device are broken"
            )
        self._served = 0

    def _fit(self, request: GenerateRequest) -> Fitted:
        vocab, limits = self._vocab, self._model.limits
        if isinstance(request.prompt, str):
            tokens = vocab.tokenize(
                request.prompt, add_special=request.add_special, parse_special=True
            )
        else:
            tokens = list(request.prompt)
            vocab.check(tokens)
        if not tokens and vocab.bos >= 0:
            tokens = [vocab.bos]
        return fit_prompt(
            tokens,
            context_length=limits.max_context,
            trained_context=self._model.spec.context_length,
            num_keep=request.num_keep,
            max_tokens=request.max_tokens,
            truncate=request.truncate and request.prompt_logprobs is None,
        )

    def _masks(self) -> dict[int, Tensor]:
        return {
            id: sequence.grammar.mask(self._model.device)
            for id, sequence in self._sequences.items()
            if sequence.grammar is not None
        }

    def _commit(self, launched: Launched) -> list[SequenceStep]:
        sampled = launched.tokens()
        now = time.monotonic_ns()
        logprobs = logprobs_of(launched, self._options, self._vocab)
        for id, piece in launched.prompts.items():
            if id in self._sequences:
                self._sequences[id].note_prompt(self._vocab, piece)
        steps = []
        for request in self._scheduler.commit(launched.plan.epoch, sampled):
            sequence = self._sequences[request.id]
            step = self._tell(sequence, sampled, logprobs.get(request.id), now)
            steps.append(sequence.with_prompt(self._vocab, step))
        return steps

    def _tell(
        self,
        sequence: LiveSequence,
        sampled: dict[int, int],
        logprob: TokenLogprob | None,
        now: int,
    ) -> SequenceStep:
        request = sequence.request
        sequence.first_ns = sequence.first_ns or now
        is_end = request.finish is FinishReason.STOP
        token = None if is_end or request.max_tokens == 0 else sampled[request.id]
        finish = request.finish
        if token is not None:
            sequence.told += 1
            if sequence.grammar is not None and sequence.grammar.accept(token) and finish is None:
                self._scheduler.abort(request.id)
                finish = FinishReason.STOP
        if finish is not None:
            return self._last_step(sequence, finish, token, logprob)
        assert token is not None
        return sequence.step(self._vocab, token, logprob)

    def _last_step(
        self,
        sequence: LiveSequence,
        finish: FinishReason,
        token: int | None = None,
        logprob: TokenLogprob | None = None,
    ) -> SequenceStep:
        del self._sequences[sequence.request.id], self._options[sequence.request.id]
        self._served += 1
        return sequence.last_step(self._vocab, finish, token, logprob)
