"""A GGUF's own chat template, rendered in a sandbox with limits.

The template is a stranger's program (CVE-2024-34359: a template that reached `os`). jinja2's
immutable sandbox keeps it away from Python; `bounds.py` keeps it from running for ever or building
values without end. Environment and helper functions are those that Transformers gives to chat
templates.
"""

from functools import lru_cache
from typing import Any, NoReturn

import jinja2

from appliance.chat.events import Message, ToolCall
from appliance.chat.render.bounds import BoundedEnvironment, Budget, LimitError
from appliance.chat.render.inputs import RenderInput
from appliance.chat.render.jinja_values import message_value, think_variables, tool_source
from appliance.errors import BadRequestError, TemplateError
from appliance.templates.jinja_syntax import EXTENSIONS

MAX_TEMPLATE_CHARS = 256 * 1024


def render_jinja(template: str, given: RenderInput) -> str:
    """The prompt, with the opening of the assistant's answer at its end if that is asked for.

    Raises TemplateError when the template is broken or goes over a limit, BadRequestError when the
    template itself refuses the conversation (`raise_exception`).
    """
    calls = any(message.tool_calls for message in given.messages)
    as_text = calls and _wants_text_arguments(template)
    return _render(template, _variables(given, arguments_as_text=as_text))


def _variables(given: RenderInput, *, arguments_as_text: bool) -> dict[str, Any]:
    return {
        "messages": [
            message_value(message, arguments_as_text=arguments_as_text)
            for message in given.messages
        ],
        "add_generation_prompt": given.add_generation_prompt,
        "bos_token": given.bos_token,
        "eos_token": given.eos_token,
        "tools": [dict(tool_source(tool)) for tool in given.tools] or None,
        "documents": None,
        "raise_exception": _refuse,
        "strftime_now": lambda pattern: given.now().strftime(pattern),
        **think_variables(given.think),
    }


def _render(template: str, variables: dict[str, Any]) -> str:
    compiled = _compile(template)
    try:
        with Budget():
            return compiled.render(variables)
    except LimitError as error:
        raise TemplateError(f"the model's chat template was stopped: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise TemplateError("the model's chat template was stopped: it nests too deep") from error
    except (
        jinja2.TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise TemplateError(f"the model's chat template failed: {error}") from error


_PROBE = (
    Message("user", "?"),
    Message("assistant", "", tool_calls=(ToolCall("probe", {"key": "value"}, "call00000"),)),
    Message("tool", "!", tool_name="probe", tool_call_id="call00000"),
)


@lru_cache(maxsize=32)
def _wants_text_arguments(template: str) -> bool:
    """Whether the template takes a call's arguments for JSON text: given an object it fails, or
    prints it as Python does."""

    def attempt(*, as_text: bool) -> str | None:
        try:
            given = RenderInput(_PROBE)
            return _render(template, _variables(given, arguments_as_text=as_text))
        except (TemplateError, BadRequestError):
            return None

    as_object = attempt(as_text=False)
    if as_object is not None and "{'key': 'value'}" not in as_object:
        return False
    as_text = attempt(as_text=True)
    return as_text is not None and '{"key": "value"}' in as_text


@lru_cache(maxsize=32)
def _compile(template: str) -> jinja2.Template:
    if len(template) > MAX_TEMPLATE_CHARS:
        raise TemplateError(
            f"the model's chat template has {len(template)} characters;"
            f" {MAX_TEMPLATE_CHARS} are allowed"
        )
    try:
        return _environment().from_string(template)
    except (jinja2.TemplateError, RecursionError, MemoryError, SyntaxError) as error:
        raise TemplateError(f"the model's chat template cannot be parsed: {error}") from error


@lru_cache(maxsize=1)
def _environment() -> BoundedEnvironment:
    return BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=EXTENSIONS)


def _refuse(message: object = "") -> NoReturn:
    raise BadRequestError(f"the model's chat template refuses this conversation: {message}")
