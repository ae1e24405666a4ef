"""What a model can do, read off its templates and header, in Ollama's words. Rules without IO."""

import re
from collections.abc import Sequence

from engine.gguf import Header

_GO_FIELD = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_JINJA_SPLIT = re.compile(r"split\(\s*['\"]</think>")


def of_model(
    header: Header, *, go_template: str, has_projector: bool, declared: Sequence[str]
) -> list[str]:
    """The words in the order that Ollama lists them (server/images.go, Capabilities)."""
    jinja = header.chat_template or ""
    fields = "".join(_GO_FIELD.findall(go_template))
    found = ["embedding" if header.is_embedding else "completion"]
    if ".Tools" in fields or _jinja_tools(jinja):
        found.append("tools")
    if ".Suffix" in fields:
        found.append("insert")
    if has_projector:
        found.append("vision")
    if ".Thinking" in fields or _jinja_thinks(jinja):
        found.append("thinking")
    return found + [word for word in declared if word not in found]


def _jinja_tools(template: str) -> bool:
    return "tools" in template or "tool_call" in template


def _jinja_thinks(template: str) -> bool:
    if "<think>" in template and "</think>" in template:
        return True
    return bool(_JINJA_SPLIT.search(template)) and "reasoning_content" not in template
