"""A GGUF's own chat template, rendered in a sandbox with limits.

The template is a stranger's program (CVE-2024-34359: a template that reached `os`). jinja2's
immutable sandbox keeps it away from Python; `bounds.py` keeps it from running for ever or building
values without end. Environment and helper functions are those that Transformers gives to chat
templates.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2

from appliance.chat.events import Message
from appliance.chat.render.bounds import BoundedEnvironment, Budget, LimitError
from appliance.errors import BadRequestError, TemplateError

MAX_TEMPLATE_CHARS = 256 * 1024


def local_now() -> datetime:
    """The wall clock with the box's own offset."""
    return datetime.now().astimezone()


def render_chat(
    template: str,
    messages: Sequence[Message],
    *,
    bos_token: str = "",
    eos_token: str = "",
    now: Callable[[], datetime] = local_now,
) -> str:
    """The prompt for `messages`, with the opening of the assistant's answer at its end.

    Raises TemplateError when the template is broken or goes over a limit, BadRequestError when the
    template itself refuses the conversation (`raise_exception`).
    """
    compiled = _compile(template)
    variables: dict[str, Any] = {
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "add_generation_prompt": True,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "tools": None,
        "raise_exception": _refuse,
        "strftime_now": lambda pattern: now().strftime(pattern),
    }
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
    return BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )


def _refuse(message: object = "") -> NoReturn:
    raise BadRequestError(f"the model's chat template refuses this conversation: {message}")
