"""A context that makes vectors: inputs packed into batches, as llama.cpp wants them.

Knows tokens, sequences and how llama.cpp pools; what the vectors mean is known in `embed.py` and
`rank.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError
from engine.llama.interruption import Interruption
from engine.llama.model import Context, LoadedModel
from engine.llama.native import lib

Vectors = npt.NDArray[np.float32]  # (inputs, width)

MAX_SEQUENCES = 16  # inputs in one batch
PIECE = 512  # tokens of a causal model's batch without outputs
PIECE_WITH_OUTPUTS = 128  # 75 MB of logits with 150,000 tokens of vocabulary


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a batch: its id, its position, and which input of the batch it belongs to."""

    id: int
    position: int
    sequence: int


class PooledContext:
    """A context for inputs of up to `max_tokens`. `close` frees it, not the model."""

    def __init__(
        self,
        model: LoadedModel,
        poll: Callable[[], None],
        max_tokens: int,
        *,
        pooling: int,
        is_pieced: bool,
    ) -> None:
        """pooling    llama.cpp's number
        is_pieced  the model leaves KV behind, so that an input may come in pieces; else all of it
                   must be in one physical batch
        """
        self.max_tokens = max_tokens
        self.max_sequences = 1 if model.is_recurrent else MAX_SEQUENCES
        self._model = model
        self._interruption = Interruption(poll, lambda: False)
        self._pooling = pooling
        self._is_pieced = is_pieced
        self.context = self._open()
        self._has_memory = bool(lib.llama_get_memory(self.context.handle))
        self._batch = lib.llama_batch_init(max(max_tokens, PIECE), 0, 1)

    def use(self, pooling: int) -> None:
        """Have a context that pools this way; llama.cpp fixes it when the context is made."""
        if pooling != self._pooling:
            self.context.close()
            self._pooling = pooling
            self.context = self._open()

    def groups(self, items: list[list[int]]) -> Iterator[list[list[int]]]:
        """Consecutive inputs that go into one batch together."""
        group: list[list[int]] = []
        for item in items:
            is_full = sum(map(len, group)) + len(item) > self.max_tokens
            if group and (len(group) == self.max_sequences or is_full):
                yield group
                group = []
            group.append(item)
        if group:
            yield group

    def whole(self, group: list[list[int]], width: int) -> Vectors:
        """Vectors of inputs that fit one batch together, pooled by llama.cpp."""
        self.run(tokens_of(group))
        return self._pooled(len(group), width)

    def ends(self, group: list[list[int]], width: int) -> Vectors:
        """Vectors that llama.cpp pools from the last token alone, of a model with KV memory."""
        last = self.run_but_ends(group)
        self.run(last)
        return self._pooled(len(group), width)

    def run_but_ends(self, group: list[list[int]]) -> list[Token]:
        """Compute the KV of all tokens but the last of each input; returns those, with outputs
        switched on for them."""
        ends = [len(item) - 1 for item in group]
        tokens = tokens_of(group)
        lib.llama_set_embeddings(self.context.handle, False)
        body = [token for token in tokens if token.position < ends[token.sequence]]
        for start in range(0, len(body), PIECE):
            self.run(body[start : start + PIECE], outputs=False)
        lib.llama_set_embeddings(self.context.handle, True)
        return [token for token in tokens if token.position == ends[token.sequence]]

    def run(self, tokens: Sequence[Token], *, outputs: bool = True) -> None:
        """Compute one batch; raises EngineError, and what `poll` raised meanwhile."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for slot, token in enumerate(tokens):
            batch.token[slot] = token.id
            batch.pos[slot] = token.position
            batch.n_seq_id[slot] = 1
            batch.seq_id[slot][0] = token.sequence
            batch.logits[slot] = outputs
        compute = lib.llama_decode if self._has_memory else lib.llama_encode
        self._interruption.arm(self.context.handle)
        code = compute(self.context.handle, batch)
        self._interruption.disarm(self.context.handle)
        if code != 0:
            self.forget()
        self._interruption.reraise()
        if code != 0:
            reason = self._model.log.reason()
            raise EngineError(f"llama.cpp could not embed (code {code}): {reason}")

    def token_vectors(self, count: int, width: int) -> Vectors:
        """The vectors of the `count` tokens that ran last; valid until more run."""
        found = _pointer(lib.llama_get_embeddings(self.context.handle))
        return np.ctypeslib.as_array(found, (count, width))

    def forget(self) -> None:
        """Drop all KV."""
        if self._has_memory:
            lib.llama_memory_clear(lib.llama_get_memory(self.context.handle), False)

    def close(self) -> None:
        self.context.close()
        if self._batch is not None:
            lib.llama_batch_free(self._batch)
            self._batch = None

    def _pooled(self, count: int, width: int) -> Vectors:
        handle = self.context.handle
        rows = [
            np.ctypeslib.as_array(
                _pointer(lib.llama_get_embeddings_seq(handle, sequence)), (width,)
            ).copy()
            for sequence in range(count)
        ]
        self.forget()
        return np.stack(rows)

    def _open(self) -> Context:
        # llama.cpp spreads a batch over all sequences when it plans its graph, and aborts (ggml.c,
        # ggml_can_mul_mat) when the batch is no multiple of their number.
        whole = -(-self.max_tokens // self.max_sequences) * self.max_sequences
        size = PIECE if self._is_pieced else whole
        return self._model.open_context(
            n_ctx=whole,
            n_batch=size,
            n_ubatch=size,
            n_outputs_max=PIECE_WITH_OUTPUTS if self._is_pieced else 0,
            n_seq_max=self.max_sequences,
            kv_unified=True,
            embeddings=True,
            pooling_type=self._pooling,
        )


def tokens_of(group: list[list[int]]) -> list[Token]:
    """The tokens of a group of inputs, one input after another."""
    return [Token(id, n, s) for s, item in enumerate(group) for n, id in enumerate(item)]


def require_finite(rows: Vectors) -> None:
    """Raise EngineError for numbers that no healthy model computes."""
    if not np.isfinite(rows).all():
        raise EngineError("the model computed a vector that is not finite; it is damaged")


def _pointer(found: object) -> object:
    if not found:
        raise EngineError("llama.cpp returned no embedding")
    return found
