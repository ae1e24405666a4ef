"""Ollama's bodies of generate, chat and embed: parsed here, and answered in the same shapes.

Source: Ollama API, api/types.go and server/routes.go. Unknown keys are ignored as Ollama does;
fields of abilities that this release lacks are refused by name (`refused_ability`).
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from time import time_ns
from typing import Any

import msgspec

from appliance.access.shares import Share
from appliance.chat.events import Completion, Done, EmbedRequest, JobRequest, Message
from appliance.errors import BadRequestError
from appliance.http.fields import (
    MAX_TOP_LOGPROBS,
    check_count,
    constraint_of,
    keep_alive_of,
    options_of,
    token_ids_of,
)
from appliance.library.names import ModelName
from engine.api import TokenLogprob

MAX_INPUTS = 4096
THINK_LEVELS = ("high", "medium", "low", "max")


class _Common(msgspec.Struct, kw_only=True):
    """What generate and chat share."""

    model: str = ""
    stream: bool = True
    format: Any = None
    keep_alive: Any = None
    options: dict[str, Any] = {}
    think: Any = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    render_only: bool = msgspec.field(name="_debug_render_only", default=False)

    def check(self) -> None:
        """Refuse what is wrong whatever the model is."""
        if not 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS:
            raise BadRequestError(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")
        if isinstance(self.think, str) and self.think in THINK_LEVELS:
            return
        if self.think is not None and not isinstance(self.think, bool):
            seen = msgspec.json.encode(self.think).decode()[:100].strip('"')
            levels = ", ".join(f'"{level}"' for level in THINK_LEVELS)
            raise BadRequestError(
                f'invalid think value: "{seen}" (must be {levels}, true, or false)'
            )

    def job(self, work: tuple[Message, ...] | Completion | None, share: Share) -> JobRequest:
        """The job for `work`; raises BadRequestError."""
        return JobRequest(
            model=self.model,
            work=work,
            options=options_of(self.options),
            constraint=constraint_of(self.format),
            keep_alive=keep_alive_of(self.keep_alive),
            truncate=self.truncate,
            shift=self.shift,
            logprobs=self.top_logprobs if self.logprobs else None,
            render_only=self.render_only,
            share=share,
        )


class GenerateRequest(_Common, kw_only=True):
    """POST /api/generate."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[int] = []
    images: list[str] = []
    raw: bool = False

    def check(self) -> None:
        super().check()
        if self.raw and (self.template or self.system or self.context):
            raise BadRequestError("raw mode does not support template, system, or context")

    def refused_ability(self) -> str | None:
        """An ability that the request needs and this release lacks."""
        return "insert" if self.suffix else _ability(bool(self.images), self.think)

    def to_job(self, share: Share) -> JobRequest:
        """An empty prompt only loads the model, or unloads it (Ollama API, generate)."""
        work = None
        if self.prompt:
            work = Completion(
                prompt=self.prompt,
                raw=self.raw,
                system=self.system or None,
                template=self.template or None,
                context=token_ids_of("context", self.context),
            )
        return self.job(work, share)


class ChatMessage(msgspec.Struct, kw_only=True):
    """One message of POST /api/chat. `thinking` of earlier turns is dropped, as templates do."""

    role: str = ""
    content: str | None = None
    images: list[str] | None = None
    tool_calls: list[Any] | None = None
    tool_name: str | None = None


class ChatRequest(_Common, kw_only=True):
    """POST /api/chat."""

    messages: list[ChatMessage] = []
    tools: list[Any] = []

    def check(self) -> None:
        if not self.model:
            raise BadRequestError("model is required")
        super().check()

    def refused_ability(self) -> str | None:
        """An ability that the request needs and this release lacks."""
        if self.tools or any(m.tool_calls or m.tool_name for m in self.messages):
            return "tools"
        return _ability(any(m.images for m in self.messages), self.think)

    def to_job(self, share: Share, max_messages: int) -> JobRequest:
        """No messages only load the model, or unload it (Ollama API, chat)."""
        check_count("messages", len(self.messages), max_messages)
        messages = tuple(Message(m.role.lower(), m.content or "") for m in self.messages)
        return self.job(messages or None, share)


class EmbedBody(msgspec.Struct, kw_only=True):
    """POST /api/embed."""

    model: str = ""
    input: Any = None
    truncate: bool = True
    dimensions: int = 0  # 0: all
    keep_alive: Any = None
    options: dict[str, Any] = {}

    def to_embed(self, share: Share) -> EmbedRequest:
        """No input only loads the model; raises BadRequestError."""
        if self.dimensions < 0:
            raise BadRequestError(f"dimensions must be 0 or more, not {self.dimensions}")
        inputs = self._inputs()
        check_count("input", len(inputs), MAX_INPUTS)
        return EmbedRequest(
            model=self.model,
            inputs=inputs,
            options=options_of(self.options),
            keep_alive=keep_alive_of(self.keep_alive),
            truncate=self.truncate,
            dimensions=self.dimensions or None,
            share=share,
        )

    def _inputs(self) -> tuple[str, ...]:
        if self.input is None or self.input == "":
            return ()
        texts = self.input if isinstance(self.input, list) else [self.input]
        if not all(isinstance(text, str) for text in texts):
            raise BadRequestError("invalid input type")
        return tuple(texts)


class EmbeddingsBody(msgspec.Struct, kw_only=True):
    """POST /api/embeddings, the older form: one text, a vector that is not normalised."""

    model: str = ""
    prompt: str = ""
    keep_alive: Any = None
    options: dict[str, Any] = {}

    def to_embed(self, share: Share) -> EmbedRequest:
        if not self.model:
            raise BadRequestError("model is required")
        return EmbedRequest(
            model=self.model,
            inputs=(self.prompt,) if self.prompt else (),
            options=options_of(self.options),
            keep_alive=keep_alive_of(self.keep_alive),
            normalize=False,
            share=share,
        )


def refusal(ability: str, typed: str, name: ModelName) -> str:
    """Ollama's text for a model that lacks an ability; tools and insert name the model in full."""
    if ability in {"tools", "insert"}:
        return f"{name.full} does not support {ability}"
    return f'"{typed}" does not support {ability}'


def _ability(has_images: bool, think: Any) -> str | None:
    if has_images:
        return "vision"
    return "thinking" if think else None


# -- answers --------------------------------------------------------------------------------

Answer = dict[str, Any]
Encode = Callable[[str, str, bool, Mapping[str, Any]], Answer]


def generate_answer(model: str, text: str, done: bool, extra: Mapping[str, Any]) -> Answer:
    """One object of /api/generate, streamed or not."""
    head = {"model": model, "created_at": timestamp(time_ns()), "response": text, "done": done}
    return head | _set(extra)


def chat_answer(model: str, text: str, done: bool, extra: Mapping[str, Any]) -> Answer:
    """One object of /api/chat, streamed or not; `content` is always there."""
    reply = {"role": "assistant", "content": text}
    head = {"model": model, "created_at": timestamp(time_ns()), "message": reply, "done": done}
    return head | _set(extra)


def metrics_of(done: Done) -> dict[str, Any]:
    """The last object's fields. Durations are nanoseconds; the queue's and the cache's are ours."""
    return {
        "done_reason": done.reason,
        "context": done.context,
        "total_duration": done.total_ns,
        "load_duration": done.load_ns,
        "prompt_eval_count": done.prompt_tokens,
        "prompt_eval_duration": done.prompt_ns,
        "prompt_cached_count": done.cached_tokens,
        "eval_count": done.output_tokens,
        "eval_duration": done.decode_ns,
        "queue_position": done.queue_position,
        "queue_duration": done.queue_ns,
        "truncated_tokens": done.truncated_tokens,
        "truncated_messages": done.truncated_messages,
    }


def logprobs_of(found: Sequence[TokenLogprob], top: int) -> list[dict[str, Any]]:
    """Ollama's list; `top` alternatives per token, best first."""
    listed = []
    for entry in found:
        item = _logprob(entry.piece, entry.logprob)
        if top:
            best = [_logprob(piece, logprob) for _, piece, logprob in entry.top[:top]]
            item["top_logprobs"] = best
        listed.append(item)
    return listed


def timestamp(at_ns: int) -> str:
    """RFC 3339 in UTC with nanoseconds."""
    return f"{_second(at_ns // 1_000_000_000)}.{at_ns % 1_000_000_000:09d}Z"


@lru_cache(maxsize=8)  # every piece of every stream carries a time
def _second(at_s: int) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%S}"


def _set(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Without zero values, which Ollama leaves out."""
    return {key: value for key, value in extra.items() if value}


def _logprob(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}
