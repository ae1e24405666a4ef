"""The one way to render a conversation, whatever the language of the template.

The languages are imported by the first rendering: an idle box has 4 MiB less to hold.
"""

import asyncio

from appliance.chat.render.inputs import RenderInput
from appliance.errors import UnsupportedError
from appliance.templates.choice import ChatTemplate


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
