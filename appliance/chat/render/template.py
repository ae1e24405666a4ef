"""Which template a model's conversations are rendered with, and the one way to render them.

The languages are imported by the first rendering: an idle box has 4 MiB less to hold.
"""

import asyncio
from dataclasses import dataclass

from appliance.chat.render.inputs import RenderInput
from appliance.errors import UnsupportedError

_NONE = "{{ .Prompt }}"  # what Ollama uses where there is no template: contents, turn by turn


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template's text and its language."""

    text: str = _NONE
    is_go: bool = True


def choose_template(requested: str, stored: str, jinja: str) -> ChatTemplate:
    """Ollama's order: the request's template, the Modelfile's TEMPLATE (both Go), the GGUF's own
    (Jinja), none.

    A TEMPLATE is the word of who made the model and always wins over the GGUF's. Ollama adds one at
    create when it knows the GGUF's Jinja text; we do not: we run the Jinja itself, which is what
    the model was trained with and has tools and thinking where the known Go ones have neither.
    """
    for text in (requested, stored):
        if text.strip():
            return ChatTemplate(text)
    return ChatTemplate(jinja, is_go=False) if jinja else ChatTemplate()


async def has_insert(template: ChatTemplate) -> bool:
    """Whether it has a place for a suffix."""
    from appliance.templates.facts import abilities_of

    found = await asyncio.to_thread(abilities_of, template.text, is_go=template.is_go)
    return found.insert


def render(template: ChatTemplate, given: RenderInput) -> str:
    """The prompt for `given`; blocks for milliseconds.

    Raises TemplateError for a template that is broken or does too much, BadRequestError when it
    refuses the conversation, UnsupportedError for a suffix that it has no place for.
    """
    from appliance.chat.render.go import render_go
    from appliance.chat.render.jinja import render_jinja
    from appliance.templates.facts import abilities_of

    if given.suffix and not abilities_of(template.text, is_go=template.is_go).insert:
        raise UnsupportedError("the model's template has no place for a suffix")
    if template.is_go:
        return render_go(template.text, given)
    return render_jinja(template.text, given)
