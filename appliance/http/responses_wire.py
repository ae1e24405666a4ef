"""OpenAI's Responses: the body of a request, parsed here and translated into a job.

Source: OpenAI API reference, responses. This is the part without a memory: nothing is stored, so
that each request brings its whole conversation. Known fields that this release does not honour are
in `REFUSED`, with what to do instead. Labels without influence on the answer (user, metadata,
safety_identifier, prompt_cache_key) are accepted. A prompt that is too long is an error unless
`truncation` is "auto".
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.access.shares import Share
from appliance.chat.events import JobRequest
from appliance.chat.plan import MAX_TOOLS
from appliance.http.errors import FieldError, RefusedFieldError
from appliance.http.fields import check_count, schema_constraint
from appliance.http.openai_wire import DEFAULTS, EFFORTS
from appliance.http.responses_items import conversation_of
from appliance.http.tools_wire import ToolChoiceBody, tool_choice_of, tools_of
from engine.api import Constraint

_WHOLE = "this box stores no answers: send the whole conversation as 'input'"
# field -> what to do, and values besides null that ask for nothing and therefore pass
REFUSED: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "store": ("this box stores no answers: send false or leave it out", (False,)),
    "background": ("leave it out and read the stream", (False,)),
    "previous_response_id": (_WHOLE, ("",)),
    "conversation": (_WHOLE, ()),
    "prompt": ("send its text as 'instructions'", ()),
    "context_management": ("leave it out and shorten the input", ([],)),
    "max_tool_calls": ("leave it out: tools run at the client, which counts them", ()),
    "moderation": ("leave it out", ()),
    "service_tier": ("leave it out", ("auto", "default")),
    "top_logprobs": ("leave it out", (0,)),
}
_INCLUDES = frozenset({"reasoning.encrypted_content"})  # our thoughts are in the summary, readable

Json = dict[str, Any]


class Reasoning(msgspec.Struct, kw_only=True):
    effort: str | None = None


class TextConfig(msgspec.Struct, kw_only=True):
    format: Json = {}
    verbosity: str = "medium"

    def constraint(self) -> Constraint | None:
        """Raises FieldError for an unknown type or a missing schema."""
        kind = self.format.get("type", "text")
        if kind == "text":
            return None
        if kind == "json_object":
            return Constraint(kind="json")
        schema = self.format.get("schema")
        if kind == "json_schema" and isinstance(schema, dict):
            return schema_constraint(schema)
        raise FieldError(
            "text", "text.format must be of type text, json_object, or json_schema with a schema"
        )


class ResponsesRequest(msgspec.Struct, kw_only=True):
    """POST /v1/responses."""

    model: str = ""
    input: str | list[Any] | None = None
    instructions: str | None = None
    tools: list[Json] = []
    tool_choice: ToolChoiceBody = None
    parallel_tool_calls: bool = True
    reasoning: Reasoning = msgspec.field(default_factory=Reasoning)
    text: TextConfig = msgspec.field(default_factory=TextConfig)
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    truncation: str = "disabled"
    include: list[str] = []
    metadata: Json = {}
    stream: bool = False

    def to_job(self, share: Share, max_messages: int) -> JobRequest:
        """Raises BadRequestError."""
        if not self.model:
            raise FieldError("model", "model is required")
        if not self.input:
            raise FieldError("input", "input is required: a text or a list of items")
        if self.truncation not in {"auto", "disabled"}:
            raise FieldError("truncation", 'truncation must be "auto" or "disabled"')
        for name in self.include:
            if name not in _INCLUDES:
                raise RefusedFieldError(
                    "include", f"include of {name[:60]!r} is not supported; leave it out"
                )
        if self.text.verbosity != "medium":
            raise RefusedFieldError(
                "text", "text.verbosity is not supported; say in 'instructions' how long it may be"
            )
        check_count("tools", len(self.tools), MAX_TOOLS)
        tools = tools_of([_openai_form(tool, n) for n, tool in enumerate(self.tools)])
        return JobRequest(
            model=self.model,
            work=conversation_of(self.instructions or "", self.input, max_messages),
            options=self._options(),
            defaults=DEFAULTS,
            constraint=self.text.constraint(),
            tools=tools,
            tool_choice=tool_choice_of(self.tool_choice, tools),
            think=self._think(),
            truncate=self.truncation == "auto",
            shift=False,
            share=share,
        )

    def _options(self) -> Json:
        most = self.max_output_tokens
        if most is not None and most < 1:
            raise FieldError(
                "max_output_tokens", f"max_output_tokens must be 1 or more, not {most}"
            )
        named = {"num_predict": most, "temperature": self.temperature, "top_p": self.top_p}
        return {name: value for name, value in named.items() if value is not None}

    def _think(self) -> bool | str | None:
        effort = self.reasoning.effort
        if effort is None:
            return None
        if effort not in EFFORTS:
            raise FieldError(
                "reasoning",
                f"reasoning.effort must be one of {', '.join(EFFORTS)}, not {effort[:40]!r}",
            )
        return EFFORTS[effort]


def refuse_fields(fields: Mapping[str, Any]) -> None:
    """Raise FieldError for a field of `REFUSED` that asks for something."""
    for name, (cure, harmless) in REFUSED.items():
        value = fields.get(name)
        if value is not None and value not in harmless:
            raise RefusedFieldError(name, f"'{name}' is not supported in this release; {cure}")


def _openai_form(tool: Json, number: int) -> Json:
    """The tool as chat/completions and templates have it; here its parts are not wrapped."""
    kind = tool.get("type")
    if kind != "function":
        raise RefusedFieldError(
            "tools",
            f"tools[{number}] is of type {str(kind)[:60]!r}, which this box cannot run;"
            ' leave it out, or define a tool of type "function"',
        )
    kept = {"name": tool.get("name")}
    kept |= {key: tool[key] for key in ("description", "parameters") if tool.get(key) is not None}
    return {"type": "function", "function": kept}
