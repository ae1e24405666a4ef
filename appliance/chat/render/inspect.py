"""What a model's template says about its output: which tags its thinking and its calls stand in.

As in `template.py`, the languages are imported by the first who asks.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from appliance.chat.events import Message, ToolCall
from appliance.chat.render.inputs import RenderInput
from appliance.errors import BadRequestError, TemplateError

if TYPE_CHECKING:
    from appliance.templates.go.nodes import Tree

_QUESTION = Message("user", "?")
_NAME = "hearth_probe"
_CALL = ToolCall(_NAME, {"key": "value"}, "call00000")


def tool_call_tag(template: str, *, is_go: bool) -> str:
    """The text that stands before the JSON of a tool call: `<tool_call>`, `[TOOL_CALLS]`, or empty
    when the call begins the answer bare, or the template prints no calls or is broken."""
    if not is_go:
        return _jinja_tool_call_tag(template)
    from appliance.templates.facts import go_tool_call_tag

    tree = _go_tree(template)
    return go_tool_call_tag(tree) if tree else ""


def thinking_tags(template: str, *, is_go: bool) -> tuple[str, str] | None:
    """The tags around what the model thinks before it answers; None for one that does not."""
    from appliance.templates.facts import go_thinking_tags, jinja_facts

    if not is_go:
        found = jinja_facts(template)
        return found.thinking_tags if found.thinks else None
    tree = _go_tree(template)
    return go_thinking_tags(tree) if tree else None


def _go_tree(template: str) -> "Tree | None":
    from appliance.templates.go.errors import GoTemplateError
    from appliance.templates.go.program import compile_template

    try:
        return compile_template(template).tree
    except GoTemplateError:
        return None


@lru_cache(maxsize=32)
def _jinja_tool_call_tag(template: str) -> str:
    """What a turn with a call has before the call, compared with a turn of text alone.

    Templates of the same family write it in a dozen ways; what they print tells it every time.
    """
    from appliance.chat.render.jinja import render_jinja

    turns = (Message("assistant", "", tool_calls=(_CALL,)), Message("assistant", "~"))
    try:
        call, text = (
            render_jinja(template, RenderInput((_QUESTION, turn), add_generation_prompt=False))
            for turn in turns
        )
    except (TemplateError, BadRequestError):
        return ""
    shared = next((i for i, (a, b) in enumerate(zip(call, text, strict=False)) if a != b), 0)
    if _NAME not in call[shared:]:
        return ""
    before = call[shared:].partition(_NAME)[0].partition("{")[0].strip()
    return before.removesuffix("[").strip()
