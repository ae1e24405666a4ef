"""What a model can do, read off its template and header, in Ollama's words. Rules without IO.

A word of our own is "rerank", for models whose file has a classifier: Ollama runs none of them.
"""

from collections.abc import Sequence

from engine.gguf import Header


def of_model(header: Header, *, go_template: str, sees: bool, declared: Sequence[str]) -> list[str]:
    """The words in the order that Ollama lists them (server/images.go, Capabilities).

    Only the template that renders counts: a Modelfile's TEMPLATE where there is one, else the
    GGUF's own.
    """
    from appliance.templates.facts import abilities_of  # heavy: only when a model is looked at

    is_go = bool(go_template.strip())
    template = go_template if is_go else header.chat_template or ""
    abilities = abilities_of(template, is_go=is_go)
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
    if abilities.thinking:
        found.append("thinking")
    return found + [word for word in declared if word not in found]
