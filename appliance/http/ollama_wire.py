"""Ollama's bodies of generate, chat and embed, translated into jobs.

Source: Ollama API, api/types.go and server/routes.go. Unknown keys are ignored as Ollama does.
"""

from dataclasses import replace
from typing import Any

import msgspec

from appliance.access.shares import Share
from appliance.chat.events import Completion, EmbedRequest, JobRequest, Message
from appliance.errors import BadRequestError
from appliance.http.fields import (
    MAX_TOP_LOGPROBS,
    budget_of,
    check_count,
    constraint_of,
    keep_alive_of,
    options_of,
    token_ids_of,
)
from appliance.http.image_places import places_by_mark, places_by_number
from appliance.http.tools_wire import (
    MAX_IMAGES,
    calls_of,
    images_of,
    named_results,
    tool_choice_of,
    tools_of,
)

MAX_INPUTS = 4096
THINK_LEVELS = {"high": "high", "medium": "medium", "low": "low", "max": "high"}


class _Common(msgspec.Struct, kw_only=True):
    """What generate and chat share. `thinking_budget` is ours: most tokens of thinking."""

    model: str = ""
    stream: bool = True
    format: Any = None
    keep_alive: Any = None
    options: dict[str, Any] = {}
    think: Any = None
    thinking_budget: int | None = None
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
            think=self._think(),
            thinking_budget=budget_of("thinking_budget", self.thinking_budget),
            truncate=self.truncate,
            shift=self.shift,
            logprobs=self.top_logprobs if self.logprobs else None,
            render_only=self.render_only,
            share=share,
        )

    def _think(self) -> bool | str | None:
        """The level of `max` is the highest that models know."""
        if self.think is None or isinstance(self.think, bool):
            return self.think
        return THINK_LEVELS[self.think]


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

    def to_job(self, share: Share) -> JobRequest:
        """An empty prompt only loads the model, or unloads it (Ollama API, generate)."""
        work = None
        check_count("images", len(self.images), MAX_IMAGES)
        if self.prompt:
            images = images_of(self.images, "images")
            place = places_by_number if self.raw else places_by_mark
            prompt, places = place(self.prompt, len(images))
            work = Completion(
                prompt=prompt,
                raw=self.raw,
                system=self.system or None,
                template=self.template or None,
                context=token_ids_of("context", self.context),
                suffix=self.suffix,
                images=images,
                image_places=places,
            )
        return self.job(work, share)


class ChatMessage(msgspec.Struct, kw_only=True):
    """One message of POST /api/chat."""

    role: str = ""
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[Any] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None

    def to_message(self, place: str) -> Message:
        """`place` names the message for errors; raises BadRequestError."""
        images = images_of(self.images, f"{place}.images")
        content, places = places_by_mark(self.content or "", len(images))
        return Message(
            self.role.lower(),
            content,
            thinking=self.thinking or "",
            tool_calls=calls_of(self.tool_calls, place),
            tool_name=self.tool_name or "",
            tool_call_id=self.tool_call_id or "",
            images=images,
            image_places=places,
        )


class ChatRequest(_Common, kw_only=True):
    """POST /api/chat. `tool_choice` is ours, in OpenAI's form."""

    messages: list[ChatMessage] = []
    tools: list[Any] = []
    tool_choice: Any = None

    def check(self) -> None:
        if not self.model:
            raise BadRequestError("model is required")
        super().check()

    def to_job(self, share: Share, max_messages: int) -> JobRequest:
        """No messages only load the model, or unload it (Ollama API, chat)."""
        check_count("messages", len(self.messages), max_messages)
        check_count("images", sum(len(m.images or ()) for m in self.messages), MAX_IMAGES)
        messages = [m.to_message(f"messages[{n}]") for n, m in enumerate(self.messages)]
        tools = tools_of(self.tools)
        return replace(
            self.job(named_results(messages) or None, share),
            tools=tools,
            tool_choice=tool_choice_of(self.tool_choice, tools),
        )


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
