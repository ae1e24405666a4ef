"""What a model's template says about its output: which tags its thinking and its calls stand in."""

import re

_PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)


def tool_call_tag(template: str, *, is_go: bool) -> str:
    """The text that stands before the JSON of a tool call: `<tool_call>`, `[TOOL_CALLS]`, or empty
    when the call begins the answer bare or the template prints no calls."""
    name = "ToolCalls" if is_go else "tool_calls"
    after = template.partition(name)[2]
    found = re.search(r"(<[^<>{}%\s]+>|\[[A-Z_]+\])\s*(?:\\n)?\s*['\"]?\s*[{\[-]", after)
    return found[1] if found else ""


def thinking_tags(template: str, *, is_go: bool) -> tuple[str, str] | None:
    """The tags around what the model thinks before it answers; None for one that does not."""
    if is_go and ".Thinking" not in template:
        return None
    return next((pair for pair in _PAIRS if pair[1] in template), None)
