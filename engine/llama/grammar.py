"""Constraints on the output as llama.cpp grammar samplers.

Knows how to ask one compiled grammar about tokens; the text of grammars is known in `gbnf.py` and
`schema.py`.
"""

import ctypes
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from engine.api import Constraint
from engine.errors import EngineRequestError
from engine.llama import gbnf
from engine.llama.native import NativeLog, lib
from engine.llama.schema import schema_to_gbnf
from engine.llama.vocab import Vocab

# CPU time of one call. An honest check of a whole large vocabulary takes 0.2 s on a slow board.
# An ambiguous grammar takes up to 9 times as long with each character, so that between the first
# limit and the second a call comes back, unless one token has several such characters.
_TOO_LONG_S = 0.6
_LETHAL_S = 6.0


def compile_constraint(constraint: Constraint, vocab: Vocab, log: NativeLog) -> "Grammar":
    """The grammar of a constraint; raises EngineRequestError for what cannot be honoured."""
    if constraint.kind == "json":
        source = gbnf.JSON
    elif constraint.kind == "schema":
        source = schema_to_gbnf(constraint.source)
    else:
        source = constraint.source
    return Grammar(source, vocab, log)


class Grammar:
    """One grammar and how far the output has come in it. `close` frees it."""

    def __init__(self, source: str, vocab: Vocab, log: NativeLog) -> None:
        gbnf.check(source)
        log.clear()
        self._vocab = vocab
        self._sampler = lib.llama_sampler_init_grammar(vocab.handle, source.encode(), b"root")
        if not self._sampler:
            raise EngineRequestError(f"the grammar does not compile: {log.reason()}")
        self._one = (lib.llama_token_data * 1)()
        self._struct = lib.llama_token_data_array(data=self._one, size=1)

    def allows(self, token: int) -> bool:
        """Whether `token` may come next; an end token only when the grammar is complete."""
        self._one[0].id = token
        self._one[0].logit = 1.0
        self._struct.data = self._one
        self._struct.selected = -1
        self.filter(ctypes.byref(self._struct))
        return bool(self._one[0].logit == 1.0)

    def is_complete(self) -> bool:
        """Whether the output may end here."""
        return self._vocab.end_id < 0 or self.allows(self._vocab.end_id)

    def filter(self, candidates: object) -> None:
        """Set the logit of every candidate that may not come next to minus infinity."""
        with _bounded():
            lib.llama_sampler_apply(self._sampler, candidates)

    def accept(self, token: int) -> None:
        """Advance by a token that `allows` has just approved; any other would end the process."""
        with _bounded():
            lib.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        if self._sampler:
            lib.llama_sampler_free(self._sampler)
            self._sampler = None


@contextmanager
def _bounded() -> Iterator[None]:
    """Bound one call into an ambiguous grammar, whose open readings may double with each character.

    A call that comes back late fails the request, before the next one takes twice as long. A call
    that does not come back cannot be stopped by anything in this process, since llama.cpp is inside
    one token: then the kernel ends the process (SIGVTALRM), which the control plane survives.
    """
    started = time.thread_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, _LETHAL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if (spent := time.thread_time() - started) > _TOO_LONG_S:
        raise EngineRequestError(
            f"the grammar is too ambiguous: one token took {spent:.1f} s to check; simplify it"
        )
