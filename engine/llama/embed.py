"""Embeddings: one vector for each input, and how alike two texts are by their vectors.

Two ways, by what the model is. An encoder (BERT and kin) must see a whole input in one physical
batch and llama.cpp pools it, with the dense layers that some of these models add. A causal model
leaves KV behind, so its input may come in pieces and its vectors are pooled here; that keeps the
logits, which llama.cpp computes for every token of an embedding context, within bounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.api import Pooling
from engine.errors import ContextLengthError, EngineRequestError
from engine.llama.model import Context, LoadedModel
from engine.llama.native import lib
from engine.llama.pooled import (
    PIECE_WITH_OUTPUTS,
    PooledContext,
    Vectors,
    require_finite,
    tokens_of,
)

_TYPES = {
    Pooling.MEAN: lib.LLAMA_POOLING_TYPE_MEAN,
    Pooling.CLS: lib.LLAMA_POOLING_TYPE_CLS,
    Pooling.LAST: lib.LLAMA_POOLING_TYPE_LAST,
}


@dataclass(frozen=True, slots=True)
class _Facts:
    """What decides how a model embeds. `pooling` None: it is a reranker."""

    is_causal: bool
    pooling: Pooling | None


class Embedder:
    """The embedding side of one model. `close` frees its context, not the model."""

    def __init__(self, model: LoadedModel, poll: Callable[[], None], context_length: int) -> None:
        self._model = model
        facts = _probe(model)
        self._declared = facts.pooling
        self._is_causal = facts.is_causal
        kind = self._kind(facts.pooling or Pooling.LAST)
        self._pooled = PooledContext(
            model, poll, context_length, pooling=kind, is_pieced=facts.is_causal
        )

    @property
    def context(self) -> Context:
        """For what it takes."""
        return self._pooled.context

    def embed(
        self, inputs: Sequence[str | list[int]], pooling: Pooling, *, truncate: bool
    ) -> tuple[list[list[float]], int]:
        """One vector per input, not normalised, and the number of tokens read."""
        rows, count = self._vectors(
            [self._tokens(item, f"input {n}", truncate) for n, item in enumerate(inputs)], pooling
        )
        return [row.tolist() for row in rows], count

    def cosines(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        max_document_tokens: int,
        truncate: bool,
    ) -> tuple[list[float], int]:
        """How alike each document and its query are, as `Engine.score`; 0 for a vector of zeros."""
        limit = min(max_document_tokens or self._pooled.max_tokens, self._pooled.max_tokens)
        items = [self._tokens(text, f"query {n}", truncate) for n, text in enumerate(queries)]
        for number, text in enumerate(documents):
            tokens = self._tokens(text, f"document {number}", truncate or bool(max_document_tokens))
            items.append(self._cut(tokens, limit))
        rows, count = self._vectors(items, Pooling.MODEL)
        vectors = np.array(rows, dtype=np.float64)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(lengths > 0, lengths, 1.0)
        asked, found = vectors[: len(queries)], vectors[len(queries) :]
        return (asked * found).sum(axis=1).tolist(), count

    def close(self) -> None:
        self._pooled.close()

    def _vectors(self, items: list[list[int]], pooling: Pooling) -> tuple[list[Vectors], int]:
        """One row per item, and the tokens of all."""
        chosen = self._choose(pooling)
        self._pooled.use(self._kind(chosen))
        rows: list[Vectors] = []
        for group in self._pooled.groups(items):
            if self._is_causal:
                found = self._causal(group, chosen)
            else:
                found = self._pooled.whole(group, self._width)
            require_finite(found)
            rows.extend(found)
        return rows, sum(map(len, items))

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

    def _tokens(self, item: str | list[int], what: str, truncate: bool) -> list[int]:
        """What is read of an input; `what` names it for errors."""
        vocab, limit = self._model.vocab, self._pooled.max_tokens
        if isinstance(item, str):
            tokens = vocab.tokenize(item, add_special=True, parse_special=False)
        else:
            tokens = list(item)
            vocab.check(tokens)
        if not tokens and vocab.bos >= 0:
            tokens = [vocab.bos]
        if not tokens:
            raise EngineRequestError(f"{what} is empty; there is nothing to embed")
        if len(tokens) > limit and not truncate:
            raise ContextLengthError(
                f"the input length exceeds the context length: {what} has {len(tokens)}"
                f" tokens, the model reads {limit}; shorten it or allow truncation"
            )
        return self._cut(tokens, limit)

    def _cut(self, tokens: list[int], limit: int) -> list[int]:
        if len(tokens) <= limit:
            return tokens
        # The separator that closes a BERT input is part of what the model was trained on.
        is_closed = lib.llama_vocab_is_control(self._model.vocab.handle, tokens[-1])
        closing = tokens[-1:] if is_closed else []
        return tokens[: limit - len(closing)] + closing

    def _causal(self, group: list[list[int]], pooling: Pooling) -> Vectors:
        """Vectors of inputs whose tokens together fit the KV memory."""
        pooled = self._pooled
        tokens = pooled.run_but_ends(group) if pooling is Pooling.LAST else tokens_of(group)
        total = np.zeros((len(group), self._width), dtype=np.float64)
        for start in range(0, len(tokens), PIECE_WITH_OUTPUTS):
            piece = tokens[start : start + PIECE_WITH_OUTPUTS]
            pooled.run(piece)
            rows = pooled.token_vectors(len(piece), self._width)
            for token, row in zip(piece, rows, strict=True):
                if pooling is not Pooling.CLS or token.position == 0:
                    total[token.sequence] += row
        if pooling is Pooling.MEAN:
            total /= np.array([[len(item)] for item in group])
        pooled.forget()
        return total.astype(np.float32)

    @property
    def _width(self) -> int:
        return self._model.embedding_length


def _probe(model: LoadedModel) -> _Facts:
    """Ask a small context what kind of model this is."""
    context = model.open_context(n_ctx=256, n_batch=32, n_ubatch=32, embeddings=True)
    try:
        is_causal = bool(lib.llama_get_causal_attn(context.handle))
        kind = lib.llama_pooling_type(context.handle)
        named = {code: pooling for pooling, code in _TYPES.items()}
        silent = Pooling.LAST if is_causal else Pooling.MEAN  # the last token, as Ollama does
        is_ranker = model.spec.ranking or kind == lib.LLAMA_POOLING_TYPE_RANK
        return _Facts(
            is_causal=is_causal and bool(lib.llama_get_memory(context.handle)),
            pooling=None if is_ranker else named.get(kind, silent),
        )
    finally:
        context.close()
