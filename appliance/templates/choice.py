"""Which template a model's conversations are rendered with, and why. Pure; no template is run.

Ollama's order (server/routes.go, shouldUseGoTemplate; server/images.go, shouldPreferChatTemplate):

    request    a template that comes with the request, in Go's language
    RENDERER   one that is built in, named by the Modelfile
    TEMPLATE   the Modelfile's, in Go's language
    GGUF       the file's own, in Jinja; goes before TEMPLATE when it can do more
    none       the contents, turn by turn
"""

from dataclasses import dataclass, field
from functools import lru_cache

from appliance.templates.builtin import RENDERERS, renderer_text

_PLACEHOLDER = "{{ .Prompt }}"  # also what Ollama's own models with a RENDERER have as TEMPLATE
_HARMONY = ("gptoss", "gpt-oss")


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template's text and its language.

    why      how it was chosen, for people
    problem  why the model cannot be talked to; empty: it can
    """

    text: str = _PLACEHOLDER
    is_go: bool = True
    why: str = field(default="", compare=False)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Sources:
    """What of a model has a say. `go_template` is the setting: auto, on or off."""

    renderer: str = ""
    parser: str = ""
    template: str = ""
    jinja: str = ""
    architecture: str = ""
    go_template: str = "auto"


def choose_template(sources: Sources, requested: str = "") -> ChatTemplate:
    """The template that renders, by the order above."""
    if requested.strip():
        return ChatTemplate(requested, why="prompts: the request's own template")
    return _of_model(sources)


@lru_cache(maxsize=32)
def _of_model(sources: Sources) -> ChatTemplate:
    text = renderer_text(sources.renderer)
    if text:
        return ChatTemplate(text, is_go=False, why=f"prompts: RENDERER {sources.renderer}")
    if sources.renderer:
        return _instead_of_renderer(sources)
    if not sources.template.strip():
        return _from_gguf(sources, "")
    why_not = _why_not_template(sources)
    if why_not:
        return _from_gguf(sources, why_not)
    return ChatTemplate(sources.template, why="prompts: the Modelfile's TEMPLATE")


def _from_gguf(sources: Sources, why: str) -> ChatTemplate:
    if not sources.jinja:
        return ChatTemplate(why="prompts: the messages as they are, for the model has no template")
    return ChatTemplate(
        sources.jinja, is_go=False, why=f"prompts: the GGUF's own template{why and f', {why}'}"
    )


def _instead_of_renderer(sources: Sources) -> ChatTemplate:
    """A model of a newer Ollama. Its TEMPLATE is seldom more than a placeholder."""
    known = f"RENDERER {sources.renderer} is none of {', '.join(RENDERERS)}"
    if sources.jinja:
        return _from_gguf(sources, f"for {known}")
    if sources.template.strip() not in ("", _PLACEHOLDER):
        return ChatTemplate(sources.template, why=f"prompts: the Modelfile's TEMPLATE, for {known}")
    return ChatTemplate(
        why=f"prompts: none, for {known}", problem=f"{known}, and the model has no other template"
    )


def _why_not_template(sources: Sources) -> str:
    """Why the GGUF's own template goes before the Modelfile's; empty: it does not."""
    if not sources.jinja or sources.go_template == "on":
        return ""
    if sources.go_template == "off":
        return "for the setting go_template is off"
    if sources.parser or sources.architecture in _HARMONY:
        return ""  # what the model writes is read by a parser that goes with the TEMPLATE
    from appliance.templates.facts import abilities_of, answers_calls  # heavy: only with both

    own = abilities_of(sources.template, is_go=True).words
    other = abilities_of(sources.jinja, is_go=False).words
    has_results = answers_calls(sources.template, is_go=True)
    takes_results = answers_calls(sources.jinja, is_go=False)
    if len(other) > len(own) and (takes_results or not has_results):
        more = " and ".join(word for word in other if word not in own)
        return f"which has {more}, the Modelfile's TEMPLATE not (setting go_template)"
    if other == own and "tools" in own and takes_results and not has_results:
        return "which takes results of tools, the Modelfile's TEMPLATE not (setting go_template)"
    return ""
