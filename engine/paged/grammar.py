"""Output that must have a form: JSON, a schema or a grammar, as masks over the vocabulary.

llguidance does the work; it is imported when the first constrained request comes. Knows tokens and
masks, nothing of scheduling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from engine.api import Constraint
from engine.errors import BackendUnavailableError, EngineRequestError
from engine.llama import gbnf
from engine.llama.schema import schema_to_gbnf

if TYPE_CHECKING:
    from engine.llama.vocab import Vocab

_ANY_OBJECT = '{"type": "object"}'
# Blank space is bounded as in engine/llama/gbnf.py, so that no model can fill its answer with it.
_OPTIONS = {"whitespace_pattern": r"( |\n[ \t]{0,20})?"}


class Grammar:
    """The state of one constrained sequence."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def mask(self, device: torch.device) -> Tensor:
        """(vocab_size,) bool: tokens that may come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(bool)
        return torch.from_numpy(allowed).to(device)

    def accept(self, token: int) -> bool:
        """Go on by the sampled token; True when the form is complete and nothing may follow."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())


class GrammarCompiler:
    """Compiles constraints for one vocabulary."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._tokenizer: Any = None

    def compile(self, constraint: Constraint) -> Grammar:
        """Raises EngineRequestError with the reason for a form that cannot be compiled."""
        # Held to the limits of the llama engine, so that what serves here serves there too, and
        # what would keep llguidance busy for ever never reaches it.
        if constraint.kind == "schema":
            schema_to_gbnf(constraint.source)
        elif constraint.kind == "grammar":
            gbnf.check(constraint.source)
        guidance = self._library()
        try:
            grammar = self._source(guidance, constraint)
            matcher = guidance.LLMatcher(self._tokenizer, grammar)
        except ValueError as error:
            raise EngineRequestError(f"the output format cannot be compiled: {error}") from error
        if matcher.is_error():
            raise EngineRequestError(f"the output format cannot be compiled: {matcher.get_error()}")
        return Grammar(matcher, self._vocab.size)

    def _source(self, guidance: Any, constraint: Constraint) -> str:
        if constraint.kind == "grammar":
            return str(guidance.LLMatcher.grammar_from_lark(_lark(constraint.source)))
        schema = _ANY_OBJECT if constraint.kind == "json" else constraint.source
        return str(guidance.LLMatcher.grammar_from_json_schema(schema, overrides=_OPTIONS))

    def _library(self) -> Any:
        try:
            import llguidance
        except ImportError as error:
            raise BackendUnavailableError(
                "structured output on the paged engine needs llguidance: pip install 'hearth[gpu]'"
            ) from error
        if self._tokenizer is None:
            self._tokenizer = llguidance.LLTokenizer(
                llguidance.TokenizerWrapper(_Tokens(self._vocab))
            )
        return llguidance


class _Tokens:
    """The vocabulary in the form that llguidance reads."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self.eos_token_id = vocab.end_id
        self.bos_token_id = vocab.bos if vocab.bos >= 0 else None
        self.tokens = [vocab.output_piece(token) for token in range(vocab.size)]
        self.special_token_ids = [
            token for token, piece in enumerate(self.tokens) if not piece or vocab.is_end(token)
        ]

    def __call__(self, text: bytes) -> list[int]:
        return self._vocab.tokenize(
            text.decode("utf-8", "replace"), add_special=False, parse_special=False
        )


def _lark(gbnf: str) -> str:
    from llguidance.gbnf_to_lark import any_to_lark

    return str(any_to_lark(gbnf))
