"""Which way a model writes thinking and calls, by its template and its architecture. Pure."""

import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.chat.events import Tool
from appliance.chat.parse import harmony
from appliance.chat.parse.base import NewId, Parser
from appliance.chat.parse.thinking import PlainParser, ThinkingParser
from appliance.chat.parse.tools import forms
from appliance.chat.parse.tools.forms import CallForm
from appliance.chat.parse.tools.parser import ToolParser
from appliance.chat.render.inspect import thinking_tags, tool_call_tag
from appliance.templates.builtin import PARSERS

_ID_CHARS = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True)
class Family:
    """How a model writes. `calls` is unused for harmony, which has a parser of its own."""

    name: str
    calls: CallForm
    thinking: tuple[str, str] | None = None
    is_harmony: bool = False

    @property
    def special(self) -> list[str]:
        """Tokens whose text the engine must print, though they are no text to the model."""
        if self.is_harmony:
            return list(harmony.SPECIAL)
        inner = ("[ARGS]", "[CALL_ID]", "<｜tool▁sep｜>", "<escape>")  # noqa: RUF001
        return [*self.calls.opens, *self.calls.closes, *inner, *(self.thinking or ())]

    @property
    def can_think(self) -> bool:
        return self.is_harmony or self.thinking is not None

    def close_thinking(self) -> str:
        """What ends the thinking in the model's stead."""
        if self.is_harmony:
            return harmony.CLOSE_THINKING + harmony.NEXT
        return f"\n{self.thinking[1]}\n\n" if self.thinking else ""

    def after_thinking(self) -> str:
        """What stands between thinking that the model has ended and the answer."""
        return harmony.NEXT if self.is_harmony else "\n\n"

    def answer_prefix(self) -> str:
        """What stands before an answer that must have a form, behind thinking or without any."""
        return harmony.FINAL if self.is_harmony else ""

    def call_prefix(self, name: str) -> str:
        """What stands before the arguments of a forced call of `name`; empty: it has no such."""
        named = harmony.NAMED if self.is_harmony else self.calls.named
        return named.replace("NAME", name)

    def parser(
        self, tools: Sequence[Tool], *, is_opened: bool = False, new_id: NewId | None = None
    ) -> Parser:
        """A parser for one answer; `is_opened`: the prompt ends inside of the thinking."""
        new_id = new_id or call_id
        if self.is_harmony:
            return harmony.HarmonyParser(new_id, has_tools=bool(tools))
        answer: Parser = ToolParser(self.calls, tools, new_id) if tools else PlainParser()
        if self.thinking is None:
            return answer
        return ThinkingParser(self.thinking, answer, is_opened=is_opened)


def call_id() -> str:
    """A new id for a call, in Ollama's form."""
    return "call_" + "".join(secrets.choice(_ID_CHARS) for _ in range(8))


# What of a template tells the family, the most telling first.
_TELLING: tuple[tuple[str, str, CallForm], ...] = (
    ("<｜tool▁call", "deepseek", forms.DEEPSEEK),  # noqa: RUF001
    ("[TOOL_CALLS]", "mistral", forms.MISTRAL),
    ("<start_function_call>", "functiongemma", forms.FUNCTION_GEMMA),
    ("<function=", "qwen3-coder", forms.QWEN_CODER),
    ("<tool_call>", "hermes", forms.HERMES),
    ("<|tool_call_start|>", "lfm", forms.LFM),
    ("<|python_start|>", "llama4", forms.LLAMA_4),
    ("<|header_start|>", "llama4", forms.LLAMA_4),
    ("<|python_tag|>", "llama", forms.LLAMA),
    ("<|start_header_id|>", "llama", forms.LLAMA),
    ("<|tool_call|>", "phi", forms.PHI),
    ("functools[", "phi", forms.PHI),
    ("tool_code", "gemma", forms.GEMMA),
    ("<start_of_turn>", "gemma", forms.GEMMA),
)


_HARMONY = Family("harmony", forms.BARE, is_harmony=True)
_FORMS = {name: form for _, name, form in _TELLING} | {"none": CallForm()}


def choose_family(template: str, *, is_go: bool, architecture: str, parser: str = "") -> Family:
    """The family that the Modelfile's PARSER names, else by what the template (Go's or Jinja's
    syntax) prints, else Ollama's generic way: JSON behind the tag that it prints before a call."""
    facts = PARSERS.get(parser)
    if facts is not None and facts.calls != "harmony":
        is_plain = facts.calls == "none"
        thinking = facts.thinking or (None if is_plain else thinking_tags(template, is_go=is_go))
        return Family(facts.calls, _FORMS[facts.calls], thinking)
    if facts is not None:
        return _HARMONY
    if "<|channel|>" in template or architecture in ("gpt-oss", "gptoss"):
        return _HARMONY
    thinking = thinking_tags(template, is_go=is_go)
    for mark, name, form in _TELLING:
        if mark in template:
            return Family(name, form, thinking)
    tag = tool_call_tag(template, is_go=is_go)
    if tag:
        return Family("tagged", forms.tagged(tag), thinking)
    return Family("bare", forms.BARE, thinking)
