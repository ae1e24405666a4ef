"""What goes into a chat job and what comes out of it: the same for every dialect.

A dialect translates its wire body into a `JobRequest`, runs it (`chat/job.py`) and encodes the
events. The non-streaming answer is a fold over the same events. Knows nothing of HTTP.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from appliance.access.shares import BOX_SHARE, Share
from engine.api import Constraint, TokenLogprob


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)  # JSON schema of its arguments
    source: Mapping[str, Any] = field(default_factory=dict)  # as templates want it: OpenAI's form


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model makes or made."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""  # ties the tool's result to the call


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model may or must call; `name` is the one tool of the kind "named"."""

    kind: Literal["auto", "none", "required", "named"] = "auto"
    name: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `role` is lower case; any value is accepted."""

    role: str
    content: str
    thinking: str = ""  # what an assistant thought before this content
    tool_calls: tuple[ToolCall, ...] = ()  # of an assistant
    tool_name: str = ""  # of a tool's result
    tool_call_id: str = ""  # the call that a tool's result answers
    images: tuple[bytes, ...] = ()  # encoded files
    image_places: tuple[int, ...] = ()  # characters of the content before each; missing: none


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A prompt outside a conversation (Ollama API, /api/generate; OpenAI, /v1/completions)."""

    prompt: str
    raw: bool = False  # the prompt goes to the model as it is, without a template
    system: str | None = None  # replaces the model's system prompt
    template: str | None = None  # replaces the model's template
    context: tuple[int, ...] = ()  # token ids of an earlier exchange, put in front
    suffix: str = ""  # what follows the text that is wanted (infill)
    images: tuple[bytes, ...] = ()
    image_places: tuple[int, ...] = ()  # as in Message


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """One answer that is wanted. `work` None means: only load, or with keep_alive 0 unload."""

    model: str  # as the client typed it
    work: tuple[Message, ...] | Completion | None
    options: Mapping[str, Any] = field(default_factory=dict)  # Ollama's names, values from JSON
    defaults: Mapping[str, Any] = field(default_factory=dict)  # the dialect's; the model's win
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    constraint: Constraint | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    think: bool | str | None = None  # a level is "low", "medium" or "high"; None: as the model does
    thinking_budget: int | None = None  # most tokens of thinking; None: no limit of its own
    keep_alive: float | None = None  # seconds, inf: for ever, None: the service's setting
    truncate: bool = True
    shift: bool = True
    logprobs: int | None = None  # None: none; n: the token's own and the n best
    render_only: bool = False  # answer with the rendered prompt instead of running it
    echo: bool = False  # tell the prompt first, with log-probabilities if they are asked for
    prompt_only: bool = False  # compute the prompt and generate nothing
    share: Share = BOX_SHARE  # whose turn it is, and who pays


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The first event: the model is loaded, the prompt is processed, output follows."""

    queue_position: int  # its turn when it came, clients taking turns; 0: there was a free slot
    queue_ns: int
    load_ns: int
    slots: int  # requests that the model can serve at once
    prompt_tokens: int = 0  # before the engine cut what does not fit


@dataclass(frozen=True, slots=True)
class Echoed:
    """The prompt itself, behind Started, where the job asks for it."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()  # one per token, the first without a value


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer; may be empty when it only carries logprobs."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: int = 0  # that it brings, those of earlier steps that showed nothing included


@dataclass(frozen=True, slots=True)
class Thinking:
    """A piece of what the model thinks before it answers."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: int = 0  # as in Text


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The model calls a tool; pieces of the arguments follow. Calls are numbered from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallDone:
    """A call is complete; who does not stream arguments needs this event alone."""

    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class Rendered:
    """The prompt that would have run; the only event of a `render_only` job."""

    prompt: str
    tokens: int = 0  # that it has


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The last event. Durations are nanoseconds."""

    reason: str  # "stop", "length", "load" or "unload"
    total_ns: int
    load_ns: int = 0
    queue_ns: int = 0
    queue_position: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    truncated_tokens: int = 0  # dropped from the prompt to fit the context
    truncated_messages: int = 0  # dropped from the conversation to fit the context
    prompt_ns: int = 0
    output_tokens: int = 0
    decode_ns: int = 0
    context: tuple[int, ...] = ()  # prompt and output tokens of a Completion that was not raw
    tool_calls: int = 0  # how many the model made
    thinking_tokens: int = 0  # of the output tokens
    stop_sequence: str = ""  # the stop string that ended the text, where one did


Event = (
    Started | Echoed | Text | Thinking | CallStarted | CallArguments | CallDone | Rendered | Done
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """Vectors that are wanted (Ollama API, /api/embed; OpenAI, /v1/embeddings)."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]  # texts or token ids
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive: float | None = None
    truncate: bool = True
    dimensions: int | None = None  # cut to this many and normalise again
    normalize: bool = True  # to length 1; an all-zero vector stays zero
    share: Share = BOX_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Scores that are wanted: how well documents answer a query (vLLM, /rerank and /score)."""

    model: str
    queries: tuple[str, ...]  # one for all documents, or one for each
    documents: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive: float | None = None
    truncate: bool = True
    max_document_tokens: int = 0  # what is longer is cut; 0: as much as the model reads
    is_activated: bool = True  # a classifier's output as a share of 1, by the logistic function
    share: Share = BOX_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One score per document, in order; larger is better."""

    values: list[float]
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeRequest:
    """Token ids that are wanted, of a text or of a conversation as the model would read it."""

    model: str
    work: str | tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    add_special: bool | None = None  # None: of a text yes, of a conversation as its answer has it
    opens_answer: bool = True  # a conversation ends with the opening of the assistant's turn
    wants_pieces: bool = False
    share: Share = BOX_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """Token ids, each token's bytes if they were asked for, and the tokens of a whole context."""

    tokens: list[int]
    pieces: list[bytes] = field(default_factory=list)
    context_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """One vector per input, in order."""

    vectors: list[list[float]]
    prompt_tokens: int
    total_ns: int
    load_ns: int
