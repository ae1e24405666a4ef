"""Conversations in a GGUF's own chat template (Jinja), as Transformers renders them."""

from dataclasses import replace

from appliance.chat.render.inputs import RenderInput
from appliance.chat.render.jinja_needs import Needs, needs_of, suited
from appliance.chat.render.jinja_sandbox import run
from appliance.chat.render.jinja_values import variables


def render_jinja(template: str, given: RenderInput) -> str:
    """The prompt, with the opening of the assistant's answer at its end if that is asked for.

    Raises TemplateError when the template is broken or goes over a limit, BadRequestError when the
    template itself refuses the conversation (`raise_exception`).
    """
    needs = Needs()
    if any(m.role in {"system", "tool"} or m.tool_calls for m in given.messages):
        needs = needs_of(template)
        given = replace(given, messages=suited(given.messages, needs))
    return run(template, variables(given, arguments_as_text=needs.text_arguments))
