"""Choosing the next token: SamplingParams as a llama.cpp sampler chain, with or without a grammar.

Everything that enters C is checked or clamped here. Knows no context length and no request.
"""

import ctypes
import math
import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.api import SamplingParams
from engine.errors import EngineError, EngineRequestError
from engine.llama.grammar import Grammar
from engine.llama.native import lib
from engine.llama.session import Session
from engine.llama.vocab import Vocab

BAN = -100.0  # a bias of this and less forbids the token (OpenAI API, logit_bias)
MAX_BIASES = 4096
_LIMIT = 1e6  # beyond it a float32 softmax has no meaning left
_RANDOM_SEED = 0xFFFFFFFF  # llama.cpp's own word for "pick one"; never handed down


class Sampler:
    """The chain of one request. `sample` after each computation; `close` frees it."""

    def __init__(
        self,
        params: SamplingParams,
        vocab: Vocab,
        *,
        window: int,
        prompt: Sequence[int],
        grammar: Grammar | None = None,
    ) -> None:
        """`window` is what repeat_last_n -1 stands for; `prompt` feeds the penalties.

        Raises EngineRequestError for values that mean nothing. Takes over `grammar`, also then.
        """
        self._vocab = vocab
        self._grammar = grammar
        self._chain = None
        self._is_plain_greedy = False
        try:
            _check(params)
            biases = _biases(params, vocab)
            last_n = _penalty_window(params, window)
        except EngineRequestError:
            self.close()
            raise
        self._is_plain_greedy = (
            params.temperature <= 0 and not biases and not last_n and grammar is None
        )
        self._chain = _build_chain(params, vocab.size, biases, last_n)
        for token in prompt[-last_n:] if last_n else ():
            lib.llama_sampler_accept(self._chain, token)
        self._candidates = None if grammar is None else _Candidates(vocab.size)

    def sample(self, session: Session) -> int | None:
        """The next token after the session's last; None when the grammar is complete.

        Raises EngineRequestError where grammar, vocabulary and biases leave no token.
        """
        if self._is_plain_greedy:  # as fast as it gets: no candidate array, one pass
            return int(session.logits().argmax())
        if self._candidates is None:
            return int(lib.llama_sampler_sample(self._chain, session.context, -1))
        return self._sample_constrained(session, self._candidates)

    def close(self) -> None:
        if self._chain:
            lib.llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar is not None:
            self._grammar.close()
            self._grammar = None

    def _sample_constrained(self, session: Session, candidates: "_Candidates") -> int | None:
        """Sample first, ask the grammar about that one token, and only if it says no, sample again
        from what it allows. The grammar over a whole vocabulary is slow; one token is not.

        The distribution is the grammar's own only up to the filters: top-k and the like see the
        unconstrained tokens first, exactly as llama.cpp's common sampler does it.
        """
        grammar = self._grammar
        if grammar is None:
            raise EngineError("a constrained sampler lost its grammar")
        candidates.fill(session.logits())
        lib.llama_sampler_apply(self._chain, candidates.pointer)
        token = candidates.selected()
        if not grammar.allows(token):
            candidates.fill(session.logits())
            grammar.filter(candidates.pointer)
            possible = candidates.any_left()
            if possible:
                lib.llama_sampler_apply(self._chain, candidates.pointer)
                token = candidates.selected()
                possible = candidates.is_possible()
            if not possible or not grammar.allows(token):
                if grammar.is_complete():
                    return None
                raise EngineRequestError(
                    "the grammar allows no token here that the vocabulary has and logit_bias"
                    " leaves; loosen one of them"
                )
        grammar.accept(token)
        lib.llama_sampler_accept(self._chain, token)
        return token


class _Candidates:
    """llama.cpp's candidate array over the whole vocabulary, filled by numpy."""

    def __init__(self, vocab_size: int) -> None:
        self._array = (lib.llama_token_data * vocab_size)()
        self._view = np.frombuffer(
            self._array, dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)]
        )
        self._ids = np.arange(vocab_size, dtype=np.int32)
        self._struct = lib.llama_token_data_array(data=self._array, size=vocab_size)
        self._size = vocab_size
        self.pointer = ctypes.byref(self._struct)

    def fill(self, logits: npt.NDArray[np.float32]) -> None:
        self._view["id"] = self._ids
        self._view["logit"] = logits
        self._view["p"] = 0
        self._struct.data = self._array
        self._struct.size = self._size
        self._struct.selected = -1
        self._struct.sorted = False

    def selected(self) -> int:
        index = self._struct.selected
        if not 0 <= index < self._struct.size:
            raise EngineError("llama.cpp selected no token")
        return int(self._struct.data[index].id)

    def any_left(self) -> bool:
        """Whether a filter left a token, before the chain has sorted the array."""
        return bool((self._view["logit"] > -np.inf).any())

    def is_possible(self) -> bool:
        """Whether the selected token is one that no filter forbids."""
        return bool(self._struct.data[self._struct.selected].logit > -math.inf)


def _check(params: SamplingParams) -> None:
    names = ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty")
    for name in (*names, "presence_penalty", "frequency_penalty"):
        value = getattr(params, name)
        if not (math.isfinite(value) and abs(value) <= _LIMIT):
            raise EngineRequestError(f"{name} is {value}; it must be a number within ±{_LIMIT:.0f}")
    if params.repeat_penalty <= 0:
        raise EngineRequestError(
            f"repeat_penalty is {params.repeat_penalty}; it must be more than 0 (1 is off)"
        )
    if params.repeat_last_n < -1:
        raise EngineRequestError(
            f"repeat_last_n is {params.repeat_last_n}; allowed are -1 (whole context),"
            " 0 (off) and more"
        )


def _biases(params: SamplingParams, vocab: Vocab) -> dict[int, float]:
    """Token id → what is added to its logit; the model's own forbidden tokens included."""
    if len(params.logit_bias) > MAX_BIASES:
        raise EngineRequestError(
            f"logit_bias has {len(params.logit_bias)} entries, at most {MAX_BIASES} are allowed"
        )
    biases = dict.fromkeys(vocab.suppressed_ids, -math.inf)
    for token, bias in params.logit_bias.items():
        if not 0 <= token < vocab.size:
            raise EngineRequestError(
                f"logit_bias names token {token}; the vocabulary has 0 to {vocab.size - 1}"
            )
        if math.isnan(bias):
            raise EngineRequestError(f"logit_bias of token {token} is not a number")
        biases[token] = -math.inf if bias <= BAN else min(bias, _LIMIT)
    if sum(bias == -math.inf for bias in biases.values()) >= vocab.size:
        raise EngineRequestError("logit_bias bans every token of the vocabulary; allow one")
    return biases


def _penalty_window(params: SamplingParams, window: int) -> int:
    """How many tokens the penalties look back on; 0 when they are off."""
    if params.repeat_penalty == 1 and not params.presence_penalty and not params.frequency_penalty:
        return 0
    return window if params.repeat_last_n == -1 else min(params.repeat_last_n, window)


def _build_chain(
    params: SamplingParams, vocab_size: int, biases: dict[int, float], last_n: int
) -> object:
    """The samplers in llama.cpp's default order; those that are off are left out."""
    settings = lib.llama_sampler_chain_default_params()
    settings.no_perf = True
    chain = lib.llama_sampler_chain_init(settings)

    def add(sampler: object) -> None:
        lib.llama_sampler_chain_add(chain, sampler)

    if biases:
        entries = (lib.llama_logit_bias * len(biases))(*biases.items())
        add(lib.llama_sampler_init_logit_bias(vocab_size, len(biases), entries))
    if last_n:
        add(
            lib.llama_sampler_init_penalties(
                vocab_size,
                last_n,
                params.repeat_penalty,
                params.frequency_penalty,
                params.presence_penalty,
            )
        )
    if params.temperature <= 0:
        add(lib.llama_sampler_init_greedy())
        return chain
    if 0 < params.top_k < vocab_size:
        add(lib.llama_sampler_init_top_k(params.top_k))
    if params.typical_p < 1:
        add(lib.llama_sampler_init_typical(max(params.typical_p, 0.0), 1))
    if params.top_p < 1:
        add(lib.llama_sampler_init_top_p(max(params.top_p, 0.0), 1))
    if params.min_p > 0:
        add(lib.llama_sampler_init_min_p(min(params.min_p, 1.0), 1))
    if params.temperature != 1:
        add(lib.llama_sampler_init_temp(params.temperature))
    add(lib.llama_sampler_init_dist(_seed(params.seed)))
    return chain


def _seed(seed: int | None) -> int:
    """32 bits; any integer is folded into them, so that every seed reproduces."""
    bits = random.getrandbits(32) if seed is None else seed & 0xFFFFFFFF
    return bits if bits != _RANDOM_SEED else bits - 1
