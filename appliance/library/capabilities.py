"""What a model can do, read off its template and header, in Ollama's words. Rules without IO.

A word of our own is "rerank", for models whose file has a classifier: Ollama runs none of them.
"""

from collections.abc import Sequence

from appliance.templates.builtin import parser_thinks
from appliance.templates.choice import ChatTemplate
from engine.gguf import Header


def of_model(
    header: Header, *, template: ChatTemplate, parser: str, sees: bool, declared: Sequence[str]
) -> list[str]:
    """The words in the order that Ollama lists them (server/images.go, Capabilities).

    Only the template that renders counts, and that the PARSER knows thinking.
    """
    from appliance.templates.facts import abilities_of  # heavy: only when a model is looked at

    abilities = abilities_of(template.text, is_go=template.is_go)
    if header.is_reranker:
        found = ["rerank"]
    else:
        found = ["embedding" if header.is_embedding else "completion"]
    if abilities.tools:
        found.append("tools")
    if abilities.insert or (header.has_infill and not header.is_embedding):
        found.append("insert")
    if sees:
        found.append("vision")
    if abilities.thinking or parser_thinks(parser):
        found.append("thinking")
    return found + [word for word in declared if word not in found]
