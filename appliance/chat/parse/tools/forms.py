"""How the model families write calls of tools. Values, no code that runs on output."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.chat.events import Tool
from appliance.chat.parse.tools import written

Calls = list[tuple[str, Mapping[str, Any]]]
Reader = Callable[[str, Sequence[Tool]], Calls | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallForm:
    """One family's way.

    opens       marks that stand before a call, or before several
    closes      marks that may stand behind one
    is_bare     the answer may begin with the JSON of a call, without a mark
    must_know   what names no tool of the request is text
    header      for `name … {arguments}`: the text before the brace, with the groups `name` and `id`
    python      behind a mark may stand calls as Python writes them instead of JSON
    lists       a list may hold calls as Python writes them, each told when it is complete
    reader      for calls that are no JSON: from the text up to the closing mark to calls, or None
    prompt      what opens a call of `{"name": …, "arguments": …}` that is forced on the model
    named       what opens a forced call of the tool NAME, of which the arguments alone follow
    """

    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    is_bare: bool = False
    must_know: bool = False
    header: re.Pattern[str] | None = None
    python: bool = False
    lists: bool = False
    reader: Reader | None = None
    prompt: str = ""
    named: str = ""


HERMES = CallForm(opens=("<tool_call>",), closes=("</tool_call>",), prompt="<tool_call>\n")
QWEN_CODER = CallForm(
    opens=("<tool_call>", "<function="),
    closes=("</tool_call>",),
    reader=written.qwen_coder,
)
LLAMA = CallForm(opens=("<|python_tag|>",), is_bare=True, must_know=True, lists=True)
LLAMA_4 = CallForm(
    opens=("<|python_start|>",),
    closes=("<|python_end|>",),
    is_bare=True,
    must_know=True,
    lists=True,
)
LFM = CallForm(opens=("<|tool_call_start|>",), closes=("<|tool_call_end|>",), python=True)
# Possessive where white space may come: a header that does not match must cost little.
MISTRAL = CallForm(
    opens=("[TOOL_CALLS]",),
    header=re.compile(r"\s*+(?P<name>[\w.:-]+)(?:\[CALL_ID\](?P<id>\w+))?(?:\[ARGS\])?\s*+"),
    prompt="[TOOL_CALLS]",
    named="[TOOL_CALLS]NAME[ARGS]",
)
PHI = CallForm(
    opens=("<|tool_call|>", "functools"), closes=("<|/tool_call|>",), prompt="<|tool_call|>"
)
GEMMA = CallForm(
    opens=("```tool_code", "```tool_call", "```json"),
    closes=("```",),
    is_bare=True,
    must_know=True,
    python=True,
    prompt="```tool_code\n",
)
FUNCTION_GEMMA = CallForm(
    opens=("<start_function_call>",),
    closes=("<end_function_call>",),
    reader=written.function_gemma,
)
_BEGIN, _SEP, _END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"  # noqa: RUF001
DEEPSEEK = CallForm(
    opens=("<｜tool▁calls▁begin｜>", _BEGIN),  # noqa: RUF001
    closes=("```", _END, "<｜tool▁calls▁end｜>"),  # noqa: RUF001
    header=re.compile(
        rf"\s*+(?:{_BEGIN})?\s*+(?:function{_SEP})?(?P<id>)(?P<name>[\w.:-]+)"
        rf"\s*+(?:{_SEP})?\s*+(?:```(?:json)?)?\s*+"
    ),
    named=f"<｜tool▁calls▁begin｜>{_BEGIN}NAME{_SEP}",  # noqa: RUF001
)
BARE = CallForm(is_bare=True, must_know=True)


def tagged(tag: str) -> CallForm:
    """Ollama's generic way: JSON behind the text that the template prints before a call."""
    if tag.startswith("<"):
        return CallForm(opens=(tag,), closes=("</" + tag[1:],), prompt=tag)
    return CallForm(opens=(tag,), closes=("[/" + tag[1:],), prompt=tag)
