"""OpenAI's dialect: what its routes answer, and what is said of them."""

from typing import Any, Literal, NotRequired, TypedDict

from appliance.errors import ModelNotFoundError
from appliance.http import openai_wire as wire
from appliance.http import responses_wire
from appliance.http.openapi import anthropic, vllm
from appliance.http.openapi.operation import LATER, RUNS, SSE, Operation, Query, Table

Finish = Literal["stop", "length", "tool_calls"]


class Alternative(TypedDict):
    """A token that could have been, and how likely it was."""

    token: str
    logprob: float
    bytes: list[int]


class Logprob(Alternative):
    """A token of the answer."""

    top_logprobs: list[Alternative]


class ChatLogprobs(TypedDict):
    content: list[Logprob]
    refusal: None


class TextLogprobs(TypedDict):
    """The first token of a prompt that is echoed has null for its values."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CalledFunction(TypedDict):
    """`arguments` is JSON text."""

    name: str
    arguments: str


class Call(TypedDict):
    """A tool that the model calls."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class Message(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[Call]]


class Choice(TypedDict):
    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


class PromptDetails(TypedDict):
    cached_tokens: int


class OutputDetails(TypedDict):
    reasoning_tokens: int


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: OutputDetails


class Head(TypedDict):
    id: str
    created: int
    model: str
    system_fingerprint: str


class DebugInfo(TypedDict):
    rendered_template: str


class ChatCompletion(Head):
    object: Literal["chat.completion"]
    choices: list[Choice]
    usage: Usage
    _debug_info: NotRequired[DebugInfo]


class FunctionPiece(TypedDict, total=False):
    name: str
    arguments: str


class CallPiece(TypedDict):
    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionPiece


class Delta(TypedDict, total=False):
    role: Literal["assistant"]
    content: str
    reasoning: str
    tool_calls: list[CallPiece]


class ChoicePiece(TypedDict):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


class ChatChunk(Head):
    """An event's data; the last one is `[DONE]`, which is not JSON."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChoicePiece]
    usage: NotRequired[Usage | None]


class TextChoice(TypedDict):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish | None


class TextCompletion(Head):
    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: NotRequired[Usage | None]


class Embedding(TypedDict):
    """A vector: numbers, or with `encoding_format` base64 little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class Embeddings(TypedDict):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class ModelFacts(TypedDict):
    """What else is known of a model; null where its file cannot be read."""

    digest: str
    format: str
    family: str
    families: list[str] | None
    parameter_size: str
    quantization: str
    loaded: bool
    parameter_count: int | None
    context_length: int | None
    embedding_length: int | None
    capabilities: list[str] | None
    engine: str | None
    size: int


class Model(TypedDict):
    """An installed model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: None
    max_model_len: int | None
    hearth: ModelFacts


class Models(TypedDict):
    object: Literal["list"]
    data: list[Model]


class ResponseUsage(TypedDict):
    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class Response(TypedDict):
    """A response as it stands; `output` are its items."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False]
    error: dict[str, Any] | None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: dict[str, str | None]
    service_tier: str
    store: Literal[False]
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float | None
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: None
    metadata: dict[str, Any]


class ResponseEvent(TypedDict):
    """An event's data. Which further fields it has depends on its type, as in OpenAI's API."""

    type: str
    sequence_number: int
    response: NotRequired[Response]
    output_index: NotRequired[int]
    content_index: NotRequired[int]
    summary_index: NotRequired[int]
    item_id: NotRequired[str]
    item: NotRequired[dict[str, Any]]
    part: NotRequired[dict[str, Any]]
    delta: NotRequired[str]
    text: NotRequired[str]
    name: NotRequired[str]
    arguments: NotRequired[str]
    logprobs: NotRequired[list[Any]]
    code: NotRequired[str]
    message: NotRequired[str]
    param: NotRequired[str | None]


_HI = [{"role": "user", "content": "Hello"}]
_ANTHROPIC = Query(
    "anthropic-version", "With this header the answer is Anthropic's", place="header"
)

OPERATIONS: Table = {
    ("POST", "/v1/chat/completions"): Operation(
        summary="Answer a conversation",
        body=wire.ChatRequest,
        required="model messages",
        example={"model": "hearth", "messages": _HI},
        answer=ChatCompletion,
        stream=ChatChunk,
        streams=SSE,
        errors=RUNS,
    ),
    ("POST", "/v1/completions"): Operation(
        summary="Continue a prompt as it is, or with a suffix fill the place between the two",
        body=wire.CompletionRequest,
        required="model",
        example={"model": "hearth", "prompt": "Hello"},
        answer=TextCompletion,
        stream=TextCompletion,
        streams=SSE,
        errors=RUNS,
    ),
    ("POST", "/v1/embeddings"): Operation(
        summary="Vectors of length 1 for texts or tokens",
        body=wire.EmbeddingsRequest,
        required="model input",
        example={"model": "hearth", "input": ["Hello", "Good night"]},
        answer=Embeddings,
        errors=RUNS,
    ),
    ("POST", "/v1/responses"): Operation(
        summary="Answer a conversation; nothing is stored",
        body=responses_wire.ResponsesRequest,
        required="model input",
        example={"model": "hearth", "input": "Hello"},
        answer=Response,
        stream=ResponseEvent,
        streams=SSE,
        errors=RUNS,
    ),
    ("GET", "/v1/models"): Operation(
        summary="Installed models",
        query=(_ANTHROPIC,),
        answer=(Models, anthropic.AnthropicModels),
    ),
    ("GET", "/v1/models/{model}"): Operation(
        summary="One installed model",
        query=(_ANTHROPIC,),
        answer=(Model, anthropic.AnthropicModel),
        errors=(ModelNotFoundError,),
    ),
    ("POST", "/v1/audio/transcriptions"): Operation(summary="Not yet", body={}, errors=LATER),
    **vllm.OPERATIONS,
}
