"""Ollama's dialect: what its routes answer, and what is said of them."""

from typing import Any, Literal, NotRequired, TypedDict

from appliance.http import ollama_models_wire as models
from appliance.http import ollama_transfer as transfer
from appliance.http import ollama_wire as wire
from appliance.http.openapi.operation import (
    BYTES,
    CHANGES,
    CLOUD,
    FETCHES,
    MISSING,
    RUNS,
    Operation,
    Table,
)


class Alternative(TypedDict):
    """A token that could have been, and how likely it was."""

    token: str
    logprob: float
    bytes: list[int]


class Logprob(Alternative):
    """A token of the answer."""

    top_logprobs: NotRequired[list[Alternative]]


class CalledFunction(TypedDict):
    index: int
    name: str
    arguments: dict[str, Any]


class Call(TypedDict):
    """A tool that the model calls."""

    id: NotRequired[str]
    function: CalledFunction


class DebugInfo(TypedDict):
    rendered_template: str


class Metrics(TypedDict, total=False):
    """Durations are nanoseconds; zeros are left out."""

    done_reason: Literal["stop", "length", "load", "unload"]
    context: list[int]
    total_duration: int
    load_duration: int
    prompt_eval_count: int
    prompt_eval_duration: int
    prompt_cached_count: int
    eval_count: int
    eval_duration: int
    queue_position: int
    queue_duration: int
    truncated_tokens: int
    truncated_messages: int
    logprobs: list[Logprob]
    _debug_info: DebugInfo


class Generated(Metrics):
    """The answer, or a piece of it; the last piece is `done` and has the figures."""

    model: str
    created_at: str
    response: str
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[Call]]
    done: bool


class Reply(TypedDict):
    role: Literal["assistant"]
    content: str
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[Call]]


class Chatted(Metrics):
    """The answer, or a piece of it; the last piece is `done` and has the figures."""

    model: str
    created_at: str
    message: Reply
    done: bool


class Embedded(TypedDict):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OldEmbedded(TypedDict):
    embedding: list[float]


class Details(TypedDict, total=False):
    """What the model's file says of itself."""

    parent_model: str
    format: str
    family: str
    families: list[str] | None
    parameter_size: str
    quantization_level: str


class Tag(TypedDict):
    """An installed model; `trust` says who vouches for it."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details
    trust: str


class Tags(TypedDict):
    models: list[Tag]


class Loaded(TypedDict):
    """A model in memory."""

    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int


class LoadedModels(TypedDict):
    models: list[Loaded]


class ShownMessage(TypedDict):
    role: str
    content: str


class Tensor(TypedDict):
    name: str
    type: str
    shape: list[int]


class Shown(TypedDict):
    """All that is known of a model."""

    license: NotRequired[str]
    modelfile: str
    parameters: NotRequired[str]
    template: str
    system: NotRequired[str]
    renderer: NotRequired[str]
    parser: NotRequired[str]
    requires: NotRequired[str]
    messages: NotRequired[list[ShownMessage]]
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str
    trust: str
    tensors: NotRequired[list[Tensor]]


class Progress(TypedDict):
    """How far a long operation is, in bytes of one blob."""

    status: str
    digest: NotRequired[str]
    total: NotRequired[int]
    completed: NotRequired[int]


class Version(TypedDict):
    """The level of Ollama's API, and this box's own release."""

    version: str
    hearth: str


class Cloud(TypedDict):
    disabled: bool
    source: str


class CloudStatus(TypedDict):
    cloud: Cloud


_HI = [{"role": "user", "content": "Hello"}]


def _cloud(summary: str) -> Operation:
    return Operation(summary=f"{summary}: refused", errors=CLOUD)


OPERATIONS: Table = {
    ("GET", "/api/version"): Operation(
        summary="The level of Ollama's API, and the box's release", answer=Version
    ),
    ("GET", "/api/status"): Operation(
        summary="Whether anything goes to a cloud: never", answer=CloudStatus
    ),
    ("POST", "/api/generate"): Operation(
        summary="Continue or answer a prompt; without one, load or unload the model",
        body=wire.GenerateRequest,
        required="model",
        example={"model": "hearth", "prompt": "Hello", "stream": False},
        answer=Generated,
        stream=Generated,
        errors=RUNS,
    ),
    ("POST", "/api/chat"): Operation(
        summary="Answer a conversation; without messages, load or unload the model",
        body=wire.ChatRequest,
        required="model",
        example={"model": "hearth", "messages": _HI, "stream": False},
        answer=Chatted,
        stream=Chatted,
        errors=RUNS,
    ),
    ("POST", "/api/embed"): Operation(
        summary="Vectors of length 1 for texts",
        body=wire.EmbedBody,
        required="model",
        example={"model": "hearth", "input": ["Hello", "Good night"]},
        answer=Embedded,
        errors=RUNS,
    ),
    ("POST", "/api/embeddings"): Operation(
        summary="The vector of one text, not normalised (the older form)",
        body=wire.EmbeddingsBody,
        required="model",
        example={"model": "hearth", "prompt": "Hello"},
        answer=OldEmbedded,
        errors=RUNS,
    ),
    ("GET", "/api/tags"): Operation(summary="Installed models, the newest first", answer=Tags),
    ("GET", "/api/ps"): Operation(summary="Models in memory", answer=LoadedModels),
    ("POST", "/api/show"): Operation(
        summary="All that is known of a model",
        description="`model` is required; `name` is its older key.",
        body=models.ShowBody,
        example={"model": "hearth"},
        answer=Shown,
        errors=MISSING,
    ),
    ("POST", "/api/create"): Operation(
        summary="Make a model of another one or of uploaded files",
        description="`model` is required; `name` is its older key.",
        body=models.CreateBody,
        example={"model": "mine", "from": "hearth", "system": "Be brief.", "stream": False},
        answer=Progress,
        stream=Progress,
        errors=(*MISSING, *CHANGES),
    ),
    ("POST", "/api/pull"): Operation(
        summary="Install a model from its registry, or the release that was signed for it",
        description="`model` is required; `name` is its older key.",
        body=transfer.PullBody,
        answer=Progress,
        stream=Progress,
        errors=FETCHES,
    ),
    ("POST", "/api/push"): Operation(
        summary="Send a model to its registry",
        description="`model` is required; `name` is its older key.",
        body=transfer.TransferBody,
        answer=Progress,
        stream=Progress,
        errors=FETCHES,
    ),
    ("POST", "/api/copy"): Operation(
        summary="Give a model a second name",
        body=models.CopyBody,
        required="source destination",
        example={"source": "hearth", "destination": "copy"},
        errors=(*MISSING, *CHANGES),
    ),
    ("DELETE", "/api/delete"): Operation(
        summary="Take a model from memory and disk",
        description="`model` is required; `name` is its older key.",
        body=models.NameBody,
        errors=(*MISSING, *CHANGES),
    ),
    ("HEAD", "/api/blobs/{digest}"): Operation(
        summary="Whether a blob is here; an error has no body either", errors=MISSING
    ),
    ("POST", "/api/me"): _cloud("Who is signed in at ollama.com"),
    ("POST", "/api/signout"): _cloud("Sign out at ollama.com"),
    ("DELETE", "/api/user/keys/{key}"): _cloud("Take a key from an account at ollama.com"),
    ("POST", "/api/experimental/web_search"): _cloud("Search the web by ollama.com"),
    ("POST", "/api/experimental/web_fetch"): _cloud("Read a page of the web by ollama.com"),
    ("GET", "/api/experimental/model-recommendations"): _cloud("Models that ollama.com suggests"),
    ("POST", "/api/blobs/{digest}"): Operation(
        summary="Upload a blob: 201 when stored, 200 when it was here",
        body={},
        media=BYTES,
        also=(201,),
        errors=CHANGES,
    ),
}
