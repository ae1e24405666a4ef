"""Scores of pairs by a classifier in the model's file (a cross-encoder, a reranker).

A pair is put together as llama.cpp's server does it (tools/server, format_prompt_rerank): by the
template `tokenizer.chat_template.rerank` of the file where there is one, else as
BOS query EOS SEP document EOS with those of the special tokens that the vocabulary adds. Which
output means "relevant", and whether it is a share of 1, follows llama.cpp's graph
(llm_graph_context::build_pooling): the first one; the Qwen3 family goes through a softmax.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from engine.api import Scoring
from engine.errors import ContextLengthError, EngineRequestError
from engine.llama.model import Context, LoadedModel
from engine.llama.native import lib, utf8_from
from engine.llama.pooled import PooledContext, require_finite
from engine.llama.vocab import Vocab

_PLACES = re.compile(r"\{(query|document)\}")
_TRIES = 4  # of shortening a document until its pair fits: a cut text may have more tokens


class Ranker:
    """The scoring side of one model. `close` frees its context, not the model."""

    def __init__(self, model: LoadedModel, poll: Callable[[], None], context_length: int) -> None:
        self._vocab = model.vocab
        architecture = utf8_from(
            lib.llama_model_meta_val_str, model.handle, b"general.architecture"
        )
        # Its classifier reads the last token and not the first, so that all before may come in
        # pieces; the words "yes" and "no" are its labels.
        self._reads_end = architecture.startswith("qwen3")
        self._outputs = int(lib.llama_model_n_cls_out(model.handle))
        template = lib.llama_model_chat_template(model.handle, b"rerank")
        self._template = template.decode("utf-8", "replace") if template else ""
        self._pooled = PooledContext(
            model,
            poll,
            context_length,
            pooling=int(lib.LLAMA_POOLING_TYPE_RANK),
            is_pieced=self._reads_end,
        )

    @property
    def context(self) -> Context:
        """For what it takes."""
        return self._pooled.context

    @property
    def scoring(self) -> Scoring:
        return "probability" if self._reads_end else "logit"

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        max_document_tokens: int,
        truncate: bool,
    ) -> tuple[list[float], int]:
        """As `Engine.score`."""
        if self._outputs > 1 and not self._reads_end:
            raise EngineRequestError(
                f"the model sorts texts into {self._outputs} classes, none of which means"
                " relevant; it cannot score"
            )
        each = list(queries) * len(documents) if len(queries) == 1 else queries
        pairs = [
            self._pair(query, document, number, max_document_tokens, truncate=truncate)
            for number, (query, document) in enumerate(zip(each, documents, strict=True))
        ]
        run = self._pooled.ends if self._reads_end else self._pooled.whole
        scores: list[float] = []
        for group in self._pooled.groups(pairs):
            rows = run(group, self._outputs)
            require_finite(rows)
            scores += np.asarray(rows[:, 0], dtype=np.float64).tolist()
        return scores, sum(map(len, pairs))

    def close(self) -> None:
        self._pooled.close()

    def _pair(
        self, query: str, document: str, number: int, max_document_tokens: int, *, truncate: bool
    ) -> list[int]:
        """The tokens of one pair; the document's end is cut where there is too much of it."""
        limit = self._pooled.max_tokens
        text = document
        if max_document_tokens:
            text = self._first(document, max_document_tokens)
        tokens = self._joined(query, text)
        if len(tokens) > limit and not truncate:
            raise ContextLengthError(
                f"the input length exceeds the context length: document {number} has"
                f" {len(tokens)} tokens with its query, the model reads {limit}; shorten it or"
                " allow truncation"
            )
        least = len(self._joined(query, ""))
        if least > limit:
            raise ContextLengthError(
                f"the query has {least} tokens as the model wants it, it reads {limit} in all;"
                " shorten the query"
            )
        room = limit - least
        for _ in range(_TRIES):
            if len(tokens) <= limit:
                return tokens
            tokens = self._joined(query, self._first(document, room))
            room = max(0, room - max(0, len(tokens) - limit))
        return tokens if len(tokens) <= limit else self._joined(query, "")

    def _first(self, text: str, count: int) -> str:
        """As much of a text as its first `count` tokens say."""
        tokens = self._vocab.tokenize(text, add_special=False, parse_special=False)
        if len(tokens) <= count:
            return text
        return self._vocab.detokenize(tokens[:count]).decode("utf-8", "ignore")

    def _joined(self, query: str, document: str) -> list[int]:
        vocab = self._vocab
        if self._template:
            texts = {"query": query, "document": document}
            prompt = _PLACES.sub(lambda place: texts[place[1]], self._template)
            return vocab.tokenize(prompt, add_special=False, parse_special=True)
        opening, closing, between = _marks(vocab)
        return [
            *opening,
            *vocab.tokenize(query, add_special=False, parse_special=False),
            *closing,
            *between,
            *vocab.tokenize(document, add_special=False, parse_special=False),
            *closing,
        ]


def _marks(vocab: Vocab) -> tuple[list[int], list[int], list[int]]:
    """What stands before a pair, after each of its texts, and between them."""
    handle = vocab.handle
    separator = int(lib.llama_vocab_sep(handle))
    end = vocab.eos if vocab.eos >= 0 else separator
    return (
        [vocab.bos] if vocab.adds_bos else [],
        [end] if lib.llama_vocab_get_add_eos(handle) else [],
        [separator] if lib.llama_vocab_get_add_sep(handle) else [],
    )
