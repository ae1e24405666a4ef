"""Anthropic's request bodies: parsed here and translated into jobs.

Source: Anthropic API reference, messages and count_tokens. Known fields that this release does not
honour are in `REFUSED` and refused by name. `cache_control` is accepted wherever it stands: the
prefix cache does that by itself and costs nothing. Labels without influence on the answer
(service_tier, diagnostics, inference_geo) are accepted. A prompt that is too long is an error, as
there: cutting it in silence would break a coding agent.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.access.shares import Share
from appliance.chat.events import JobRequest, Tool, ToolChoice
from appliance.chat.plan import MAX_TOOLS
from appliance.http.anthropic_messages import conversation_of
from appliance.http.errors import FieldError, RefusedFieldError
from appliance.http.fields import check_count, schema_constraint
from appliance.http.tools_wire import tools_of
from engine.api import Constraint

MAX_STOPS = 16
DEFAULTS: Mapping[str, Any] = {"temperature": 1.0}  # a model's PARAMETERs win

# field -> values besides null that ask for nothing and therefore pass
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "container": (),
    "mcp_servers": ([],),
    "speed": ("standard",),
}
_LEVELS = {"low": "low", "medium": "medium"} | dict.fromkeys(("high", "xhigh", "max"), "high")
_NO_EDITS = ("clear_thinking_20251015",)  # what a template does with old thoughts anyway


class Thinking(msgspec.Struct, kw_only=True):
    """`display` "omitted": think, but do not tell."""

    type: str = ""
    budget_tokens: int | None = None
    display: str = "summarized"


class Metadata(msgspec.Struct, kw_only=True):
    user_id: str | None = None


class Choice(msgspec.Struct, kw_only=True):
    type: str = ""
    name: str = ""
    disable_parallel_tool_use: bool = False


class OutputConfig(msgspec.Struct, kw_only=True):
    effort: str | None = None
    format: dict[str, Any] | None = None


class CountRequest(msgspec.Struct, kw_only=True):
    """POST /v1/messages/count_tokens, and what it shares with /v1/messages."""

    model: str = ""
    messages: list[Any] | None = None
    system: str | list[Any] = ""
    tools: list[Any] = []
    tool_choice: Choice = msgspec.field(default_factory=Choice)
    thinking: Thinking | None = None
    output_config: OutputConfig = msgspec.field(default_factory=OutputConfig)
    output_format: dict[str, Any] | None = None  # where output_config.format was in the beta
    context_management: dict[str, Any] = {}

    def to_job(self, share: Share, max_messages: int) -> JobRequest:
        """The job that only renders; raises BadRequestError."""
        return self._job(share, max_messages, {}, render_only=True)

    def _job(
        self, share: Share, max_messages: int, options: Mapping[str, Any], *, render_only: bool
    ) -> JobRequest:
        if not self.model:
            raise FieldError("model", "model is required")
        if not self.messages:
            raise FieldError("messages", "messages is required: at least one message")
        check_count("messages", len(self.messages), max_messages)
        self._check_edits()
        check_count("tools", len(self.tools), MAX_TOOLS)
        tools = tools_of([_openai_form(entry, n) for n, entry in enumerate(self.tools)])
        think = self._think()
        conversation, begun = conversation_of(self.system, self.messages)
        if begun and think:
            raise FieldError(
                "messages",
                "the last message is the assistant's: an answer that has begun cannot be thought"
                " about; end with a user message or leave thinking out",
            )
        return JobRequest(
            model=self.model,
            work=conversation,
            begun=begun,
            options=options,
            defaults=DEFAULTS,
            constraint=self._constraint(),
            tools=tools,
            tool_choice=self._choice(tools),
            think=think,
            thinking_budget=self.thinking.budget_tokens if self.thinking and think else None,
            truncate=False,
            shift=False,
            render_only=render_only,
            share=share,
        )

    def _think(self) -> bool | str:
        """Thinking is off unless it is asked for (Anthropic API, thinking)."""
        effort = self.output_config.effort
        if effort is not None and effort not in _LEVELS:
            raise FieldError(
                "output_config",
                f"output_config.effort must be one of {', '.join(_LEVELS)}, not {effort[:40]!r}",
            )
        wanted = self.thinking
        if wanted is None or wanted.type == "disabled":
            return False
        if wanted.display not in {"summarized", "omitted"}:
            raise FieldError("thinking", "thinking.display must be summarized or omitted")
        if wanted.type == "adaptive":
            return _LEVELS[effort] if effort else True
        if wanted.type != "enabled":
            raise FieldError(
                "thinking",
                f"thinking.type must be enabled, disabled or adaptive, not {wanted.type[:40]!r}",
            )
        if wanted.budget_tokens is None or wanted.budget_tokens < 1:
            raise FieldError("thinking", "thinking.budget_tokens must be 1 or more")
        return True

    def _constraint(self) -> Constraint | None:
        wanted = self.output_config.format or self.output_format
        if wanted is None:
            return None
        schema = wanted.get("schema")
        if wanted.get("type") != "json_schema" or not isinstance(schema, dict):
            raise FieldError(
                "output_config", "output_config.format must be of type json_schema with a schema"
            )
        return schema_constraint(schema)

    def _choice(self, tools: tuple[Tool, ...]) -> ToolChoice:
        kind = self.tool_choice.type or "auto"
        if kind in {"auto", "none"}:
            return ToolChoice("auto" if kind == "auto" else "none")
        if kind not in {"any", "tool"}:
            raise FieldError(
                "tool_choice",
                f"tool_choice.type must be auto, any, tool or none, not {kind[:40]!r}",
            )
        if not tools:
            raise FieldError("tool_choice", f"tool_choice {kind} needs tools, there are none")
        if kind == "any":
            return ToolChoice("required")
        if self.tool_choice.name not in {tool.name for tool in tools}:
            raise FieldError(
                "tool_choice",
                f"tool_choice.name {self.tool_choice.name[:60]!r} is not among the tools",
            )
        return ToolChoice("named", self.tool_choice.name)

    def _check_edits(self) -> None:
        edits = self.context_management.get("edits") or []
        for edit in edits if isinstance(edits, list) else [edits]:
            kind = edit.get("type") if isinstance(edit, dict) else None
            if kind not in _NO_EDITS:
                raise RefusedFieldError(
                    "context_management",
                    f"context_management with {str(kind)[:60]!r} is not supported in this release;"
                    " leave it out and shorten the messages instead",
                )


class MessagesRequest(CountRequest, kw_only=True):
    """POST /v1/messages."""

    max_tokens: int | None = None
    stream: bool = False
    stop_sequences: list[str] = []
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata = msgspec.field(default_factory=Metadata)

    def to_job(self, share: Share, max_messages: int) -> JobRequest:
        """The job; raises BadRequestError."""
        if self.max_tokens is None or self.max_tokens < 1:
            raise FieldError("max_tokens", "max_tokens is required and must be positive")
        budget = self.thinking.budget_tokens if self.thinking else None
        if budget is not None and budget >= self.max_tokens:
            raise FieldError(
                "thinking",
                f"thinking.budget_tokens {budget} must be less than max_tokens {self.max_tokens}",
            )
        check_count("stop_sequences", len(self.stop_sequences), MAX_STOPS)
        if not all(text.strip() for text in self.stop_sequences):
            raise FieldError("stop_sequences", "each stop sequence must contain non-whitespace")
        named = {
            "num_predict": self.max_tokens,
            "stop": self.stop_sequences or None,
            "temperature": _within("temperature", self.temperature, 1.0),
            "top_p": _within("top_p", self.top_p, 1.0),
            "top_k": self.top_k,
        }
        options = {name: value for name, value in named.items() if value is not None}
        return self._job(share, max_messages, options, render_only=False)

    @property
    def tells_thinking(self) -> bool:
        return self.thinking is None or self.thinking.display != "omitted"


def refuse_fields(fields: Mapping[str, Any]) -> None:
    """Raise FieldError for a field of `REFUSED` that asks for something."""
    for name, harmless in REFUSED.items():
        value = fields.get(name)
        if value is not None and value not in harmless:
            raise RefusedFieldError(
                name, f"'{name}' is not supported in this release; leave it out"
            )


def _openai_form(entry: Any, number: int) -> dict[str, Any]:
    """The tool as templates want it; raises FieldError for tools that run at Anthropic's."""
    if not isinstance(entry, dict):
        raise FieldError("tools", f"tools[{number}] must be an object")
    kind = entry.get("type") or "custom"
    if kind != "custom":
        raise RefusedFieldError(
            "tools",
            f"tools[{number}] is the server tool {str(kind)[:60]!r}, which this box cannot run;"
            " leave it out, or define a tool of your own with name and input_schema",
        )
    schema = entry.get("input_schema")
    if not isinstance(schema, dict):
        raise FieldError("tools", f"tools[{number}].input_schema must be a JSON schema object")
    function = {"name": entry.get("name"), "parameters": schema}
    if entry.get("description") is not None:
        function["description"] = entry["description"]
    return {"type": "function", "function": function}


def _within(name: str, value: float | None, most: float) -> float | None:
    if value is not None and not 0 <= value <= most:
        raise FieldError(name, f"{name} must be from 0 to {most:g}, not {value:g}")
    return value
