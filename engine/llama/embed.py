"""Embeddings: inputs through a context of their own, packed into batches, one vector for each.

Two ways, by what the model is. An encoder (BERT and kin) must see a whole input in one physical
batch and llama.cpp pools it, with the dense layers that some of these models add. A causal model
leaves KV behind, so its input may come in pieces and its vectors are pooled here; that keeps the
logits, which llama.cpp computes for every token of an embedding context, within bounds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.api import Pooling
from engine.errors import ContextLengthError, EngineError, EngineRequestError
from engine.llama.interruption import Interruption
from engine.llama.model import Context, LoadedModel
from engine.llama.native import lib

Vectors = npt.NDArray[np.float32]  # (inputs, embedding_length)

MAX_SEQUENCES = 16  # inputs in one batch
_PIECE = 512  # tokens of a causal model's batch without outputs
_PIECE_WITH_OUTPUTS = 128  # 75 MB of logits with 150,000 tokens of vocabulary
_TYPES = {
    Pooling.MEAN: lib.LLAMA_POOLING_TYPE_MEAN,
    Pooling.CLS: lib.LLAMA_POOLING_TYPE_CLS,
    Pooling.LAST: lib.LLAMA_POOLING_TYPE_LAST,
}


@dataclass(frozen=True, slots=True)
class _Token:
    """One token of a batch: its id, its position, and which input of the batch it belongs to."""

    id: int
    position: int
    sequence: int


@dataclass(frozen=True, slots=True)
class _Facts:
    """What decides how a model embeds. `pooling` None: it is a reranker."""

    has_memory: bool
    is_causal: bool
    pooling: Pooling | None


class Embedder:
    """The embedding side of one model. `close` frees its context, not the model."""

    def __init__(self, model: LoadedModel, poll: Callable[[], None], context_length: int) -> None:
        self._model = model
        self._max_tokens = context_length
        self._max_sequences = 1 if model.is_recurrent else MAX_SEQUENCES
        self._interruption = Interruption(poll, lambda: False)
        facts = _probe(model)
        self._declared = facts.pooling
        self._has_memory = facts.has_memory
        self._is_causal = facts.has_memory and facts.is_causal
        self._pooling = self._kind(facts.pooling or Pooling.LAST)
        self.context = self._open()
        self._batch = lib.llama_batch_init(max(context_length, _PIECE), 0, 1)

    def embed(
        self, inputs: Sequence[str | list[int]], pooling: Pooling, *, truncate: bool
    ) -> tuple[list[list[float]], int]:
        """One vector per input, not normalised, and the number of tokens read."""
        chosen = self._choose(pooling)
        tokens = [self._tokens(item, index, truncate) for index, item in enumerate(inputs)]
        self._use(self._kind(chosen))
        vectors: list[list[float]] = []
        for group in _groups(tokens, self._max_tokens, self._max_sequences):
            rows = self._causal(group, chosen) if self._is_causal else self._whole(group)
            if not np.isfinite(rows).all():
                raise EngineError("the model computed a vector that is not finite; it is damaged")
            vectors += rows.tolist()
        return vectors, sum(map(len, tokens))

    def close(self) -> None:
        self.context.close()
        if self._batch is not None:
            lib.llama_batch_free(self._batch)
            self._batch = None

    def _choose(self, pooling: Pooling) -> Pooling:
        if pooling is not Pooling.MODEL:
            return pooling
        if self._declared is None:
            raise EngineRequestError(
                "the model is a reranker: it scores pairs and has no embedding; use another"
                " model, or ask for mean, cls or last pooling"
            )
        return self._declared

    def _kind(self, pooling: Pooling) -> int:
        """What llama.cpp is to pool in the context: nothing for a causal model."""
        return int(lib.LLAMA_POOLING_TYPE_NONE if self._is_causal else _TYPES[pooling])

    def _use(self, kind: int) -> None:
        """Have a context that pools this way; llama.cpp fixes it when the context is made."""
        if kind != self._pooling:
            self.context.close()
            self._pooling = kind
            self.context = self._open()

    def _tokens(self, item: str | list[int], index: int, truncate: bool) -> list[int]:
        vocab = self._model.vocab
        if isinstance(item, str):
            tokens = vocab.tokenize(item, add_special=True, parse_special=False)
        else:
            tokens = list(item)
            vocab.check(tokens)
        if not tokens and vocab.bos >= 0:
            tokens = [vocab.bos]
        if not tokens:
            raise EngineRequestError(f"input {index} is empty; there is nothing to embed")
        if len(tokens) <= self._max_tokens:
            return tokens
        if not truncate:
            raise ContextLengthError(
                f"the input length exceeds the context length: input {index} has {len(tokens)}"
                f" tokens, the model reads {self._max_tokens}; shorten it or allow truncation"
            )
        # The separator that closes a BERT input is part of what the model was trained on.
        closing = tokens[-1:] if lib.llama_vocab_is_control(vocab.handle, tokens[-1]) else []
        return tokens[: self._max_tokens - len(closing)] + closing

    def _whole(self, group: list[list[int]]) -> Vectors:
        """Vectors of inputs that fit one batch together, pooled by llama.cpp."""
        self._run([_Token(id, n, s) for s, item in enumerate(group) for n, id in enumerate(item)])
        rows = [
            np.ctypeslib.as_array(
                self._pointer(lib.llama_get_embeddings_seq(self.context.handle, sequence)),
                (self._width,),
            ).copy()
            for sequence in range(len(group))
        ]
        self._forget()
        return np.stack(rows)

    def _causal(self, group: list[list[int]], pooling: Pooling) -> Vectors:
        """Vectors of inputs whose tokens together fit the KV memory."""
        tokens = [_Token(id, n, s) for s, item in enumerate(group) for n, id in enumerate(item)]
        if pooling is Pooling.LAST:
            ends = [len(item) - 1 for item in group]
            lib.llama_set_embeddings(self.context.handle, False)
            self._run_pieces([token for token in tokens if token.position < ends[token.sequence]])
            tokens = [token for token in tokens if token.position == ends[token.sequence]]
        lib.llama_set_embeddings(self.context.handle, True)
        total = np.zeros((len(group), self._width), dtype=np.float64)
        for start in range(0, len(tokens), _PIECE_WITH_OUTPUTS):
            piece = tokens[start : start + _PIECE_WITH_OUTPUTS]
            self._run(piece)
            rows = np.ctypeslib.as_array(
                self._pointer(lib.llama_get_embeddings(self.context.handle)),
                (len(piece), self._width),
            )
            for token, row in zip(piece, rows, strict=True):
                if pooling is not Pooling.CLS or token.position == 0:
                    total[token.sequence] += row
        if pooling is Pooling.MEAN:
            total /= np.array([[len(item)] for item in group])
        self._forget()
        return total.astype(np.float32)

    def _run_pieces(self, tokens: list[_Token]) -> None:
        for start in range(0, len(tokens), _PIECE):
            self._run(tokens[start : start + _PIECE], outputs=False)

    def _run(self, tokens: Sequence[_Token], *, outputs: bool = True) -> None:
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
            self._forget()
        self._interruption.reraise()
        if code != 0:
            reason = self._model.log.reason()
            raise EngineError(f"llama.cpp could not embed (code {code}): {reason}")

    def _forget(self) -> None:
        if self._has_memory:
            lib.llama_memory_clear(lib.llama_get_memory(self.context.handle), False)

    @property
    def _width(self) -> int:
        return self._model.embedding_length

    def _pointer(self, found: object) -> object:
        if not found:
            raise EngineError("llama.cpp returned no embedding")
        return found

    def _open(self) -> Context:
        # llama.cpp spreads a batch over all sequences when it plans its graph, and aborts (ggml.c,
        # ggml_can_mul_mat) when the batch is no multiple of their number.
        whole = -(-self._max_tokens // self._max_sequences) * self._max_sequences
        size = _PIECE if self._is_causal else whole
        return self._model.open_context(
            n_ctx=whole,
            n_batch=size,
            n_ubatch=size,
            n_outputs_max=_PIECE_WITH_OUTPUTS if self._is_causal else 0,
            n_seq_max=self._max_sequences,
            kv_unified=True,
            embeddings=True,
            pooling_type=self._pooling,
        )


def _probe(model: LoadedModel) -> _Facts:
    """Ask a small context what kind of model this is."""
    context = model.open_context(n_ctx=256, n_batch=32, n_ubatch=32, embeddings=True)
    try:
        is_causal = bool(lib.llama_get_causal_attn(context.handle))
        kind = lib.llama_pooling_type(context.handle)
        named = {code: pooling for pooling, code in _TYPES.items()}
        silent = Pooling.LAST if is_causal else Pooling.MEAN  # the last token, as Ollama does
        return _Facts(
            has_memory=bool(lib.llama_get_memory(context.handle)),
            is_causal=is_causal,
            pooling=None if kind == lib.LLAMA_POOLING_TYPE_RANK else named.get(kind, silent),
        )
    finally:
        context.close()


def _groups(
    items: list[list[int]], max_tokens: int, max_sequences: int
) -> Iterator[list[list[int]]]:
    """Consecutive inputs that go into one batch together."""
    group: list[list[int]] = []
    for item in items:
        if group and (len(group) == max_sequences or sum(map(len, group)) + len(item) > max_tokens):
            yield group
            group = []
        group.append(item)
    if group:
        yield group
