"""What vLLM's server has beside OpenAI's routes: what they answer, and what is said of them."""

from typing import Literal, NotRequired, TypedDict

from appliance.http import openai_score_wire, openai_tokens
from appliance.http.openapi.operation import RUNS, Operation, Table


class RerankDocument(TypedDict):
    text: str


class RerankResult(TypedDict):
    """`index` is the document's place in the request."""

    index: int
    relevance_score: float
    document: NotRequired[RerankDocument]


class ReadUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class Rerank(TypedDict):
    id: str
    model: str
    usage: ReadUsage
    results: list[RerankResult]


class Score(TypedDict):
    index: int
    object: Literal["score"]
    score: float


class ScoreUsage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Scores(TypedDict):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: ScoreUsage


class Tokens(TypedDict):
    """`token_strs` is null unless `return_token_strs` asks for it."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Prompt(TypedDict):
    prompt: str


_RERANK = Operation(
    summary="Sort documents by how well they answer a query",
    body=openai_score_wire.RerankBody,
    required="model query documents",
    answer=Rerank,
    errors=RUNS,
)
_SCORE = Operation(
    summary="How well texts answer a query, or each of as many",
    body=openai_score_wire.ScoreBody,
    required="model",
    answer=Scores,
    errors=RUNS,
)

OPERATIONS: Table = {
    **{("POST", path): _RERANK for path in ("/v1/rerank", "/v2/rerank", "/rerank")},
    **{("POST", path): _SCORE for path in ("/v1/score", "/score")},
    ("POST", "/tokenize"): Operation(
        summary="Token ids of a prompt, or of a conversation as the model reads it",
        body=openai_tokens.TokenizeBody,
        required="model",
        example={"model": "hearth", "prompt": "Hello"},
        answer=Tokens,
        errors=RUNS,
    ),
    ("POST", "/detokenize"): Operation(
        summary="The text of token ids",
        body=openai_tokens.DetokenizeBody,
        required="model tokens",
        example={"model": "hearth", "tokens": [1]},
        answer=Prompt,
        errors=RUNS,
    ),
}
