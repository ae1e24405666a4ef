"""OpenAI's request bodies: parsed here and translated into jobs.

Source: OpenAI API reference, chat/completions, completions, embeddings; with the fields that
Ollama's and vLLM's users add (options, num_ctx, keep_alive, truncate, top_k, min_p,
repetition_penalty, continue_final_message). Too long a prompt is cut as in Ollama, and refused with
`truncate` false. Known fields that this release does not honour are in `openai_refused.py`. Labels
without influence on the answer (user, metadata, safety_identifier, prompt_cache_key) are accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import msgspec

from appliance.access.shares import Share
from appliance.chat.events import Completion, EmbedRequest, JobRequest, Message
from appliance.http.errors import FieldError, RefusedFieldError
from appliance.http.fields import (
    MAX_TOP_LOGPROBS,
    KeepAlive,
    Options,
    budget_of,
    check_count,
    keep_alive_of,
    options_of,
    schema_constraint,
    token_ids_of,
)
from appliance.http.openai_messages import ChatMessage, messages_of, without_begun
from appliance.http.tools_wire import ToolBody, ToolChoiceBody, tool_choice_of, tools_of
from engine.api import Constraint

MAX_N = 8
MAX_PROMPTS = 64
MAX_CHOICES = 128
MAX_STOPS = 16
MAX_BIASES = 1024
MAX_INPUTS = 4096
DEFAULTS: Mapping[str, Any] = {"temperature": 1.0, "top_p": 1.0}  # a model's PARAMETERs win

# reasoning_effort -> think, as in Ollama; models know no more than three levels
EFFORTS: Mapping[str, bool | str] = {
    "none": False,
    **dict.fromkeys(("minimal", "low"), "low"),
    "medium": "medium",
    **dict.fromkeys(("high", "max", "xhigh", "ultra"), "high"),
}


_IDS = {"type": "array", "items": {"type": "integer"}}
EmbeddingInput = Annotated[
    Any,
    msgspec.Meta(
        description="A text, texts, the ids of tokens, or lists of those",
        extra_json_schema={
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                _IDS,
                {"type": "array", "items": _IDS},
            ]
        },
    ),
]


class StreamOptions(msgspec.Struct, kw_only=True):
    include_usage: bool = False


class ResponseFormat(msgspec.Struct, kw_only=True):
    type: str = "text"
    json_schema: dict[str, Any] | None = None

    def constraint(self) -> Constraint | None:
        """Raises FieldError for an unknown type or a missing schema."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Constraint(kind="json")
        schema = (self.json_schema or {}).get("schema")
        if self.type == "json_schema" and isinstance(schema, dict):
            return schema_constraint(schema)
        raise FieldError(
            "response_format",
            "response_format must be text, json_object, or json_schema with a json_schema.schema",
        )


class Reasoning(msgspec.Struct, kw_only=True):
    """`max_tokens`, most tokens of thinking, is not OpenAI's; gateways to many models have it."""

    effort: str | None = None
    max_tokens: int | None = None


class _Common(msgspec.Struct, kw_only=True):
    """What chat and completions share."""

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions = msgspec.field(default_factory=StreamOptions)
    n: int = 1
    max_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] = []
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] = {}
    options: Options = {}
    num_ctx: int | None = None
    keep_alive: KeepAlive = None
    truncate: bool = True
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk that holds the usage."""
        return self.stream and self.stream_options.include_usage

    def job(self, work: tuple[Message, ...] | Completion, share: Share) -> JobRequest:
        """The job of the first choice; raises BadRequestError."""
        if not self.model:
            raise FieldError("model", "model is required")
        if not 1 <= self.n <= MAX_N:
            raise FieldError("n", f"n must be from 1 to {MAX_N}, not {self.n}")
        return JobRequest(
            model=self.model,
            work=work,
            options=options_of(self.options) | self._named_options(),
            defaults=DEFAULTS,
            logit_bias=self._biases(),
            keep_alive=keep_alive_of(self.keep_alive),
            truncate=self.truncate,
            share=share,
        )

    def token_limit(self) -> int | None:
        """Most tokens of an answer; -1: no limit, as clients of local servers send it."""
        return _limit("max_tokens", self.max_tokens)

    def _named_options(self) -> dict[str, Any]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        if len(stops) > MAX_STOPS:
            raise FieldError("stop", f"{len(stops)} stop strings, {MAX_STOPS} are allowed")
        named = {
            "num_predict": self.token_limit(),
            # any whole number is a seed here, while a negative one means "random" in Ollama
            "seed": None if self.seed is None else self.seed & 0x7FFFFFFF,
            "stop": stops or None,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "num_ctx": self.num_ctx,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repeat_penalty": self.repetition_penalty,
        }
        return {name: value for name, value in named.items() if value is not None}

    def _biases(self) -> dict[int, float]:
        if len(self.logit_bias) > MAX_BIASES:
            raise FieldError("logit_bias", f"logit_bias may name at most {MAX_BIASES} tokens")
        biases = {}
        for key, bias in self.logit_bias.items():
            if not (key.isascii() and key.isdigit() and len(key) < 10 and -100 <= bias <= 100):
                raise FieldError(
                    "logit_bias", "logit_bias maps token ids to numbers from -100 to 100"
                )
            biases[int(key)] = bias
        return biases


class ChatRequest(_Common, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = []
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    response_format: ResponseFormat = msgspec.field(default_factory=ResponseFormat)
    tools: list[ToolBody] = []
    tool_choice: ToolChoiceBody = None
    parallel_tool_calls: bool = True
    reasoning_effort: str | None = None
    reasoning: Reasoning = msgspec.field(default_factory=Reasoning)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    render_only: bool = msgspec.field(name="_debug_render_only", default=False)

    def to_jobs(self, share: Share, max_messages: int) -> list[JobRequest]:
        """One job per choice."""
        if not self.messages:
            raise FieldError("messages", "[] is too short - 'messages'")
        check_count("messages", len(self.messages), max_messages)
        tools = tools_of(self.tools)
        messages, begun = self._conversation()
        job = replace(
            self.job(messages, share),
            begun=begun,
            tools=tools,
            tool_choice=tool_choice_of(self.tool_choice, tools),
            think=False if self.continue_final_message else self._think(),
            thinking_budget=budget_of("reasoning.max_tokens", self.reasoning.max_tokens),
            constraint=self.response_format.constraint(),
            logprobs=self._logprobs(),
            render_only=self.render_only,
        )
        return [job] if self.render_only else _choices(job, self.n)

    def token_limit(self) -> int | None:
        newer = _limit("max_completion_tokens", self.max_completion_tokens)
        older = super().token_limit()
        if newer is not None and older not in {None, newer}:
            raise FieldError(
                "max_completion_tokens", "max_tokens and max_completion_tokens differ; send one"
            )
        return older if newer is None else newer

    def _conversation(self) -> tuple[tuple[Message, ...], str]:
        """The messages, and what the answer begins with already (vLLM, continue_final_message,
        which wants add_generation_prompt to be false)."""
        messages = messages_of(self.messages)
        if not self.continue_final_message:
            if self.add_generation_prompt is False:
                raise RefusedFieldError(
                    "add_generation_prompt",
                    "'add_generation_prompt' false is supported with 'continue_final_message'"
                    " alone; leave it out",
                )
            return messages, ""
        if self.add_generation_prompt:
            raise FieldError(
                "add_generation_prompt",
                "'add_generation_prompt' and 'continue_final_message' cannot both be true",
            )
        if self._think():
            raise FieldError(
                "reasoning_effort",
                "an answer that has begun cannot be thought about; leave out either"
                " 'continue_final_message' or the reasoning",
            )
        return without_begun(messages)

    def _think(self) -> bool | str | None:
        effort = self.reasoning_effort or self.reasoning.effort
        if effort is None:
            return None
        if effort not in EFFORTS:
            raise FieldError(
                "reasoning_effort",
                f"invalid reasoning value: '{effort[:40]}' (must be {', '.join(EFFORTS)})",
            )
        return EFFORTS[effort]

    def _logprobs(self) -> int | None:
        top = self.top_logprobs
        if top is not None and not 0 <= top <= MAX_TOP_LOGPROBS:
            raise FieldError(
                "top_logprobs", f"top_logprobs must be 0 to {MAX_TOP_LOGPROBS}, not {top}"
            )
        if top and not self.logprobs:
            raise FieldError("top_logprobs", "top_logprobs needs logprobs to be true")
        return (top or 0) if self.logprobs else None


class CompletionRequest(_Common, kw_only=True):
    """POST /v1/completions: the model continues the prompt as it is, without a template; with a
    suffix it writes what belongs between the two, by the model's own template for that."""

    prompt: str | list[Any] = ""
    suffix: str = ""
    echo: bool = False
    logprobs: int | None = None
    best_of: int | None = None

    def to_jobs(self, share: Share) -> list[JobRequest]:
        """`n` jobs per prompt, prompt after prompt."""
        if self.best_of not in {None, 1, self.n}:
            raise RefusedFieldError(
                "best_of", "'best_of' is not supported in this release; leave it out"
            )
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_TOP_LOGPROBS:
            raise FieldError(
                "logprobs", f"logprobs must be 0 to {MAX_TOP_LOGPROBS}, not {self.logprobs}"
            )
        if self.echo and self.logprobs is not None and self.suffix:
            raise RefusedFieldError(
                "echo",
                "'echo' with 'logprobs' is not supported with 'suffix', where the model reads"
                " another text than the prompt; leave one of them out",
            )
        prompts = _texts_or_ids("prompt", self.prompt)
        if self.suffix and not all(isinstance(prompt, str) for prompt in prompts):
            raise FieldError("prompt", "'suffix' needs prompts of text, not of token ids")
        check_count("prompt", len(prompts), MAX_PROMPTS)
        jobs = []
        for prompt in prompts:
            job = replace(
                self.job(self._work(prompt), share),
                logprobs=self.logprobs,
                echo=self.echo,
                prompt_only=self.max_tokens == 0,
            )
            jobs += _choices(job, self.n)
        check_count("choices", len(jobs), MAX_CHOICES)
        return jobs

    def token_limit(self) -> int | None:
        """0, which generates nothing, is for those who want to know about the prompt."""
        return None if self.max_tokens == 0 else super().token_limit()

    def _work(self, prompt: str | tuple[int, ...]) -> Completion:
        if not isinstance(prompt, str):
            return Completion(prompt="", raw=True, context=prompt)
        return Completion(prompt=prompt, raw=not self.suffix, suffix=self.suffix)


class EmbeddingsRequest(msgspec.Struct, kw_only=True):
    """POST /v1/embeddings."""

    model: str = ""
    input: EmbeddingInput = None
    dimensions: int | None = None
    encoding_format: str = "float"
    options: Options = {}
    keep_alive: KeepAlive = None

    def to_embed(self, share: Share) -> EmbedRequest:
        """Raises BadRequestError."""
        if not self.model:
            raise FieldError("model", "model is required")
        if self.encoding_format not in {"float", "base64"}:
            raise FieldError(
                "encoding_format",
                f"Invalid value for 'encoding_format' = {self.encoding_format[:40]}."
                " Supported values: ['float', 'base64'].",
            )
        inputs = _texts_or_ids("input", self.input)
        if not all(inputs):
            raise FieldError("input", "invalid input: it must not be empty")
        check_count("input", len(inputs), MAX_INPUTS)
        return EmbedRequest(
            model=self.model,
            inputs=inputs,
            options=options_of(self.options),
            keep_alive=keep_alive_of(self.keep_alive),
            dimensions=_at_least_one("dimensions", self.dimensions),
            share=share,
        )


def _choices(job: JobRequest, n: int) -> list[JobRequest]:
    """`n` answers to one prompt. A given seed must not give the same answer n times."""
    seed = job.options.get("seed")
    if seed is None or seed < 0:
        return [job] * n
    return [
        replace(job, options={**job.options, "seed": (seed + i) & 0x7FFFFFFF}) for i in range(n)
    ]


def _texts_or_ids(field: str, value: Any) -> tuple[str | tuple[int, ...], ...]:
    """A text, texts, token ids, or lists of token ids: always as a tuple of inputs."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        if _is_ids(value):
            return (token_ids_of(field, value),)
        if all(isinstance(item, list) and _is_ids(item) for item in value):
            return tuple(token_ids_of(field, item) for item in value)
    raise FieldError(field, f"invalid {field}: a text, a list of texts, or lists of token ids")


def _is_ids(value: Sequence[Any]) -> bool:
    return bool(value) and all(type(item) is int for item in value)


def _limit(field: str, value: int | None) -> int | None:
    return value if value == -1 else _at_least_one(field, value)


def _at_least_one(field: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise FieldError(field, f"{field} must be 1 or more, not {value}")
    return value
