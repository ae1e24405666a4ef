"""What RENDERER and PARSER of a Modelfile may name: Ollama's names, our templates and parsers.

The templates in `renderers/` are Jinja and print what the models were trained on; where Ollama's
renderer departs from that, they follow the training. Names that Ollama has and we do not are
refused where a model is made (`library/create.py`); in a model that was pulled, a RENDERER is
replaced (`choice.py`) and a PARSER passed over, as Ollama does with names that it does not know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

RENDERERS = (
    "deepseek3.1",
    "functiongemma",
    "qwen3-coder",
    "qwen3-vl-instruct",
    "qwen3-vl-thinking",
    "qwen3.5",
)


@dataclass(frozen=True, slots=True)
class ParserFacts:
    """How a model writes. `calls` names a form of calls (`chat/parse/families.py`)."""

    calls: str
    thinking: tuple[str, str] | None = None


_THINK = ("<think>", "</think>")
PARSERS: Mapping[str, ParserFacts] = {
    "cogito": ParserFacts("deepseek", _THINK),
    "deepseek3": ParserFacts("deepseek", _THINK),
    "functiongemma": ParserFacts("functiongemma"),
    "harmony": ParserFacts("harmony"),
    "lfm2": ParserFacts("lfm"),
    "lfm2-thinking": ParserFacts("lfm", _THINK),
    "ministral": ParserFacts("mistral"),
    "passthrough": ParserFacts("none"),
    "qwen3": ParserFacts("hermes"),
    "qwen3-coder": ParserFacts("qwen3-coder"),
    "qwen3-thinking": ParserFacts("hermes", _THINK),
    "qwen3-vl-instruct": ParserFacts("hermes"),
    "qwen3-vl-thinking": ParserFacts("hermes", _THINK),
    "qwen3.5": ParserFacts("qwen3-coder", _THINK),
}


@cache
def renderer_text(name: str) -> str:
    """The template of a built-in renderer; empty for a name that is none."""
    if name not in RENDERERS:
        return ""
    path = Path(__file__).with_name("renderers") / f"{name}.jinja"
    return path.read_text(encoding="utf-8")


def parser_thinks(name: str) -> bool:
    """Whether the parser of that name, if there is one, takes thinking out of an answer."""
    facts = PARSERS.get(name)
    return facts is not None and (facts.thinking is not None or facts.calls == "harmony")
