"""A GGUF's own chat template, rendered in a sandbox with limits.

The template is a stranger's program (CVE-2024-34359: a template that reached `os`). jinja2's
immutable sandbox keeps it away from Python; `bounds.py` keeps it from running for ever or building
values without end. Environment and helper functions are those that Transformers gives to chat
templates.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

import jinja2

from appliance.chat.render.bounds import BoundedEnvironment, Budget, LimitError
from appliance.errors import BadRequestError, TemplateError
from appliance.templates.jinja_syntax import EXTENSIONS

MAX_TEMPLATE_CHARS = 256 * 1024


def run(template: str, variables: Mapping[str, Any]) -> str:
    """The template's output for `variables`, with the functions that chat templates call.

    Raises TemplateError when the template is broken or goes over a limit, BadRequestError when the
    template itself refuses (`raise_exception`).
    """
    compiled = _compile(template)
    try:
        with Budget():
            return compiled.render(variables, raise_exception=_refuse)
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
    return BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=EXTENSIONS)


def _refuse(message: object = "") -> NoReturn:
    raise BadRequestError(f"the model's chat template refuses this conversation: {message}")
