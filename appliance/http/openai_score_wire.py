"""Bodies and answers of rerank and score.

Source: vLLM's server (vllm/entrypoints/pooling/scoring/protocol.py), whose /rerank, /v1/rerank and
/v2/rerank take the bodies of Jina's and Cohere's rerank APIs: query, documents, top_n,
return_documents (Jina, Cohere v1), max_tokens_per_doc (Cohere v2). A document is a text, or an
object with `text`. What is too long is cut at its end, and refused with `truncate` false, as in the
rest of this dialect. Scores of a classifier are shares of 1; `use_activation` false gives its raw
output. Fields that are known there and not honoured here are refused by name.
"""

import secrets
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.access.shares import Share
from appliance.chat.events import ScoreRequest, Scores
from appliance.errors import RequestTooLargeError
from appliance.http.errors import FieldError
from appliance.http.fields import check_count, keep_alive_of, options_of

MAX_DOCUMENTS = 1024
MAX_CHARS = 4 << 20  # of all pairs together, a query counted with each of its documents
NAMES = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))

# field -> values besides null that ask for nothing and therefore pass
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "truncate_prompt_tokens": (-1,),  # the default here: as much as the model reads
    "truncation_side": ("right",),
    "max_tokens_per_query": (0,),
    "max_chunks_per_doc": (),
    "rank_fields": ([], ["text"]),
    "instruction": ("",),
    "chat_template": ("",),
    "mm_processor_kwargs": ({},),
    "priority": (0,),
    "cache_salt": ("",),
}


class _Common(msgspec.Struct, kw_only=True):
    """What both bodies share."""

    model: str = ""
    truncate: bool = True
    max_tokens_per_doc: int = 0
    use_activation: bool = True
    activation: bool = True  # the older name of it
    options: dict[str, Any] = {}
    keep_alive: Any = None

    def request(
        self, queries: tuple[str, ...], documents: tuple[str, ...], share: Share
    ) -> ScoreRequest:
        """Raises BadRequestError."""
        if not self.model:
            raise FieldError("model", "model is required")
        if self.max_tokens_per_doc < 0:
            raise FieldError(
                "max_tokens_per_doc",
                f"max_tokens_per_doc is {self.max_tokens_per_doc}; 0 is no limit of its own",
            )
        chars = sum(map(len, documents))
        chars += sum(map(len, queries)) * (len(documents) if len(queries) == 1 else 1)
        if chars > MAX_CHARS:
            raise RequestTooLargeError(
                f"the pairs have {chars} characters together, {MAX_CHARS} are allowed; send fewer"
                " documents in a request"
            )
        return ScoreRequest(
            model=self.model,
            queries=queries,
            documents=documents,
            options=options_of(self.options),
            keep_alive=keep_alive_of(self.keep_alive),
            truncate=self.truncate,
            max_document_tokens=self.max_tokens_per_doc,
            is_activated=self.use_activation and self.activation,
            share=share,
        )


class RerankBody(_Common, kw_only=True):
    """POST /v1/rerank."""

    query: Any = None
    documents: Any = None
    top_n: int = 0
    return_documents: bool = True

    def to_score(self, share: Share) -> ScoreRequest:
        """Raises BadRequestError."""
        if not isinstance(self.query, str) or not self.query.strip():
            raise FieldError("query", "query is required: a text that is not empty")
        if self.top_n < 0:
            raise FieldError("top_n", f"top_n is {self.top_n}; 0 and what is missing mean all")
        return self.request((self.query,), _texts("documents", self.documents), share)


class ScoreBody(_Common, kw_only=True):
    """POST /v1/score; the two lists have one of four pairs of names."""

    text_1: Any = None
    text_2: Any = None
    queries: Any = None
    documents: Any = None
    items: Any = None
    data_1: Any = None
    data_2: Any = None

    def to_score(self, share: Share) -> ScoreRequest:
        """Raises BadRequestError."""
        names = next((pair for pair in NAMES if self._has(pair)), None)
        if names is None:
            raise FieldError("text_1", "text_1 and text_2 are required, each a text or a list")
        first, second = (_texts(name, getattr(self, name)) for name in names)
        if len(first) not in {1, len(second)}:
            raise FieldError(
                names[0],
                f"{names[0]} has {len(first)} texts and {names[1]} {len(second)}; the first has"
                " one, for all of the second, or as many",
            )
        return self.request(first, second, share)

    def _has(self, names: tuple[str, str]) -> bool:
        return all(getattr(self, name) is not None for name in names)


def rerank_answer(body: RerankBody, documents: tuple[str, ...], found: Scores) -> dict[str, Any]:
    """The documents that answer best first, those of equal scores in their order."""
    order = sorted(range(len(documents)), key=lambda index: -found.values[index])
    results = [
        {"index": index, "relevance_score": found.values[index]}
        | ({"document": {"text": documents[index]}} if body.return_documents else {})
        for index in order[: body.top_n or len(order)]
    ]
    usage = {"prompt_tokens": found.prompt_tokens, "total_tokens": found.prompt_tokens}
    return {
        "id": f"rerank-{secrets.token_hex(12)}",
        "model": body.model,
        "usage": usage,
        "results": results,
    }


def score_answer(body: ScoreBody, found: Scores) -> dict[str, Any]:
    """One score per pair, in order."""
    return {
        "id": f"score-{secrets.token_hex(12)}",
        "object": "list",
        "created": int(time.time()),
        "model": body.model,
        "data": [
            {"index": index, "object": "score", "score": score}
            for index, score in enumerate(found.values)
        ],
        "usage": {
            "prompt_tokens": found.prompt_tokens,
            "completion_tokens": 0,
            "total_tokens": found.prompt_tokens,
        },
    }


def _texts(field: str, value: Any) -> tuple[str, ...]:
    """A text, or a list of texts and of objects that have one."""
    items = value if isinstance(value, list) else [value]
    if value is None or not items:
        raise FieldError(field, f"{field} is required: a text, or a list of them")
    check_count(field, len(items), MAX_DOCUMENTS)
    return tuple(_text(f"{field}[{number}]", field, item) for number, item in enumerate(items))


def _text(place: str, field: str, item: Any) -> str:
    text = item.get("text") if isinstance(item, dict) else item
    if isinstance(text, str):
        return text
    raise FieldError(field, f"{place} is no text and no object with one under 'text'")
