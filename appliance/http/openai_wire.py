"""OpenAI's request bodies: parsed here and translated into jobs.

Source: OpenAI API reference, chat/completions, completions, embeddings; with the fields that
Ollama's and vLLM's users add (options, num_ctx, keep_alive, truncate, top_k, min_p,
repetition_penalty). Too long a prompt is cut as in Ollama, and refused with `truncate` false.
Known fields that this release does not honour are in `REFUSED`, one table, and refused by name
unless they have their default. Labels without influence on the answer (user, metadata,
safety_identifier, prompt_cache_key, parallel_tool_calls) are accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from appliance.access.shares import Share
from appliance.chat.events import Completion, EmbedRequest, JobRequest, Message
from appliance.http.errors import FieldError, RefusedFieldError
from appliance.http.fields import (
    MAX_TOP_LOGPROBS,
    check_count,
    keep_alive_of,
    options_of,
    schema_constraint,
    token_ids_of,
)
from engine.api import Constraint

MAX_N = 8
MAX_PROMPTS = 64
MAX_CHOICES = 128
MAX_STOPS = 16
MAX_BIASES = 1024
MAX_INPUTS = 4096
DEFAULTS: Mapping[str, Any] = {"temperature": 1.0, "top_p": 1.0}  # a model's PARAMETERs win

# field -> values besides null that ask for nothing and therefore pass
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "reasoning_effort": ("none",),
    "reasoning": ({}, {"effort": "none"}),
    "verbosity": ("medium",),
    "echo": (False,),
    "suffix": ("",),
    "priority": (0,),  # vLLM's; who may go first is not for the client to say
    "cache_salt": ("",),  # vLLM's
}


def refuse_fields(fields: Mapping[str, Any]) -> None:
    """Raise FieldError for a field of `REFUSED` that asks for something."""
    for name, harmless in REFUSED.items():
        value = fields.get(name)
        if value is not None and value not in harmless:
            raise RefusedFieldError(
                name, f"'{name}' is not supported in this release; leave it out"
            )


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
    options: dict[str, Any] = {}
    num_ctx: int | None = None
    keep_alive: Any = None
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


class ChatMessage(msgspec.Struct, kw_only=True):
    """One message; `name` has no place in chat templates and is dropped, as Ollama does."""

    role: str = ""
    content: str | list[Any] | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    function_call: Any = None
    audio: Any = None

    def to_message(self) -> Message:
        """Raises FieldError for what this release cannot read."""
        role = self.role.lower()
        if self.tool_calls or self.tool_call_id or self.function_call or role == "tool":
            raise FieldError("messages", "messages with tool calls are not supported yet")
        if self.audio is not None:
            raise FieldError("messages", "messages with audio are not supported")
        if isinstance(self.content, str):
            text = self.content
        elif isinstance(self.content, list):
            text = "\n".join(_part(part) for part in self.content)
        else:
            raise FieldError("messages", "invalid message format: content is missing")
        return Message("system" if role == "developer" else role, text)


class ChatRequest(_Common, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = []
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    response_format: ResponseFormat = msgspec.field(default_factory=ResponseFormat)
    render_only: bool = msgspec.field(name="_debug_render_only", default=False)

    def to_jobs(self, share: Share, max_messages: int) -> list[JobRequest]:
        """One job per choice."""
        if not self.messages:
            raise FieldError("messages", "[] is too short - 'messages'")
        check_count("messages", len(self.messages), max_messages)
        messages = tuple(message.to_message() for message in self.messages)
        job = replace(
            self.job(messages, share),
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
    """POST /v1/completions: the model continues the prompt as it is, without a template."""

    prompt: str | list[Any] = ""
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
        prompts = _texts_or_ids("prompt", self.prompt)
        check_count("prompt", len(prompts), MAX_PROMPTS)
        jobs = []
        for prompt in prompts:
            job = replace(self.job(_raw(prompt), share), logprobs=self.logprobs)
            jobs += _choices(job, self.n)
        check_count("choices", len(jobs), MAX_CHOICES)
        return jobs


class EmbeddingsRequest(msgspec.Struct, kw_only=True):
    """POST /v1/embeddings."""

    model: str = ""
    input: Any = None
    dimensions: int | None = None
    encoding_format: str = "float"
    options: dict[str, Any] = {}
    keep_alive: Any = None

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


def _raw(prompt: str | tuple[int, ...]) -> Completion:
    if isinstance(prompt, str):
        return Completion(prompt=prompt, raw=True)
    return Completion(prompt="", raw=True, context=prompt)


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


def _part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in {"text", "input_text"} and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind in {"image_url", "input_image", "input_audio", "file"}:
        raise FieldError("messages", f"content of type {kind} is not supported yet, only text")
    raise FieldError("messages", "invalid message format: a content part is not a text")


def _limit(field: str, value: int | None) -> int | None:
    return value if value == -1 else _at_least_one(field, value)


def _at_least_one(field: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise FieldError(field, f"{field} must be 1 or more, not {value}")
    return value
