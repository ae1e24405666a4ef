"""What is forced on one answer, and how it is read: tools, thinking, structured output. Pure.

A forced call is a prefix that opens the call as the model's family writes it, put behind the
prompt, and a schema for the JSON that follows; prefix and JSON go through the family's own parser.
Where the model thinks first, both come into force when it has thought (`chat/run.py`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from appliance.chat.events import Completion, JobRequest, Tool
from appliance.chat.parse.base import Parser
from appliance.chat.parse.families import Family
from appliance.chat.parse.thinking import PlainParser
from appliance.chat.parse.tools import forms
from appliance.errors import BadRequestError, UnsupportedError
from engine.api import Constraint

MAX_TOOLS = 128  # OpenAI's own limit; more would not fit a small model's context anyway
_MAX_DEPTH = 64  # nested schemas, as the engines have it (engine/llama/schema.py)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one answer comes about. Without a family the output is text as it is."""

    family: Family | None = None
    tools: Sequence[Tool] = ()
    constraint: Constraint | None = None
    prefix: str = ""  # what the answer begins with, in the model's stead
    begun: str = ""  # what the request has of the answer already; not told again
    closing: str = ""  # ends thinking that the prompt has opened; no part of the answer
    is_opened: bool = False  # the prompt ends inside of the thinking
    thinks_first: bool = False  # run free until it has thought, or has thought enough
    hides_thinking: bool = False
    budget: int | None = None  # most tokens of thinking

    def parser(self) -> Parser:
        """A new parser for the answer, behind the prompt."""
        if self.family is None:
            return PlainParser()
        return self.family.parser(self.tools, is_opened=self.is_opened)

    @property
    def special(self) -> list[str]:
        return self.family.special if self.family is not None else []


def offered_tools(request: JobRequest) -> tuple[Tool, ...]:
    """The tools that the model is shown. Raises BadRequestError for what cannot be offered."""
    tools, choice = request.tools, request.tool_choice
    if len(tools) > MAX_TOOLS:
        raise BadRequestError(
            f"the request has {len(tools)} tools; at most {MAX_TOOLS} are allowed: a model reads"
            " them all before each answer, so offer those that this conversation needs"
        )
    if choice.kind in ("required", "named") and not tools:
        raise BadRequestError("tool_choice asks for a call, but the request has no tools")
    if choice.kind == "named" and choice.name not in {tool.name for tool in tools}:
        raise BadRequestError(
            f'tool_choice names "{choice.name[:100]}", which is none of the request\'s tools'
        )
    return () if choice.kind == "none" else tuple(tools)


def abilities_of(request: JobRequest) -> list[str]:
    """What the request asks of a model besides text, in Ollama's words and order of checks."""
    if isinstance(request.work, Completion):
        inserts, has_images = bool(request.work.suffix), bool(request.work.images)
    else:
        inserts, has_images = False, any(message.images for message in request.work or ())
    wanted = {
        "insert": inserts,
        "tools": bool(offered_tools(request)),
        "vision": has_images,
        "thinking": bool(request.think),
    }
    return [ability for ability, is_wanted in wanted.items() if is_wanted]


def check_abilities(request: JobRequest, full_name: str, abilities: Sequence[str]) -> None:
    """Raise UnsupportedError for what the model has no place for, in Ollama's words: there, tools
    and insert name the model in full."""
    for wanted in abilities_of(request):
        if wanted not in abilities:
            is_full = wanted in ("tools", "insert")
            name = full_name if is_full else f'"{request.model}"'
            raise UnsupportedError(f"{name} does not support {wanted}")


def make_plan(request: JobRequest, family: Family, prompt: str) -> Plan:
    """The plan of an answer to `prompt`, the rendered text. Raises BadRequestError."""
    plan = _plan(request, family, prompt)
    if not request.begun:
        return plan
    if plan.constraint is not None or plan.thinks_first:
        raise BadRequestError(
            "an answer that has begun can neither be forced into a form or a call nor thought"
            " about; leave out either the one or the other"
        )
    return replace(plan, prefix=family.answer_prefix(), begun=request.begun, is_opened=False)


def _plan(request: JobRequest, family: Family, prompt: str) -> Plan:
    tools = offered_tools(request)
    plan = Plan(
        family,
        tools if request.constraint is None else (),  # output in a form is no call
        request.constraint,
        prefix=family.answer_prefix() if request.constraint is not None else "",
        hides_thinking=request.think is False,
        budget=request.thinking_budget,
    )
    if request.tool_choice.kind in ("required", "named"):
        plan = _forced(replace(plan, tools=tools), request)
    family = plan.family or family
    if not family.can_think:
        return plan
    opening = family.thinking[0] if family.thinking is not None else None
    is_opened = opening is not None and prompt.rstrip().endswith(opening)
    if request.think is False or request.thinking_budget == 0:
        # A template that opens the thinking whatever it is told: close it in the model's stead.
        closing = family.close_thinking() if is_opened else ""
        return replace(plan, closing=closing)
    has_reason = plan.constraint is not None or plan.budget is not None
    return replace(plan, is_opened=is_opened, thinks_first=has_reason)


def _forced(plan: Plan, request: JobRequest) -> Plan:
    """The plan with a call that the model must make."""
    family, tools = plan.family, plan.tools
    assert family is not None
    if request.tool_choice.kind == "named":
        tools = [tool for tool in tools if tool.name == request.tool_choice.name]
    named = family.call_prefix(tools[0].name) if len(tools) == 1 else ""
    if named:
        return replace(plan, prefix=named, constraint=_constraint(_arguments(tools[0], "#")))
    form, prefix = family.calls, family.calls.prompt
    if family.is_harmony or form.reader is not None or not (prefix or form.is_bare):
        # No place for JSON that holds a name: for once the model writes Ollama's generic form.
        family, prefix = replace(family, calls=forms.BARE, is_harmony=False), ""
    schemas = [
        _call_schema(tool, "#" if len(tools) == 1 else f"#/anyOf/{i}")
        for i, tool in enumerate(tools)
    ]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return replace(plan, family=family, prefix=prefix, constraint=_constraint(schema))


def _constraint(schema: Mapping[str, Any]) -> Constraint:
    return Constraint(kind="schema", source=json.dumps(schema))


def _call_schema(tool: Tool, place: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool.name},
            "arguments": _arguments(tool, f"{place}/properties/arguments"),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _arguments(tool: Tool, place: str) -> dict[str, Any]:
    """The schema of a tool's arguments, at `place` in a larger one: its references are moved."""
    found = _moved(dict(tool.parameters), place, 0)
    return {"type": "object", **found} if isinstance(found, dict) else {"type": "object"}


def _moved(schema: Any, place: str, depth: int) -> Any:
    if depth > _MAX_DEPTH * 2:  # two levels of JSON for each schema: `properties` and its entries
        raise BadRequestError(f"a tool's parameters are nested more than {_MAX_DEPTH} deep")
    if isinstance(schema, Mapping):
        moved = {key: _moved(value, place, depth + 1) for key, value in schema.items()}
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            moved["$ref"] = place + reference[1:]
        return moved
    if isinstance(schema, list):
        return [_moved(value, place, depth + 1) for value in schema]
    return schema
