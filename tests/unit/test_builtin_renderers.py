"""The templates behind RENDERER: what they print, to the byte, and which parser reads the answer."""
# ruff: noqa: E501 - prompts are easier to read in one line

import pytest

from appliance.chat.events import CallDone, Message, Text, Thinking, Tool, ToolCall
from appliance.chat.parse.families import choose_family
from appliance.chat.parse.tools import forms
from appliance.chat.render.inputs import RenderInput
from appliance.chat.render.jinja import render_jinja
from appliance.templates.builtin import PARSERS, RENDERERS, renderer_text
from appliance.templates.facts import abilities_of

WEATHER = Tool(
    "weather",
    "Tells weather",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where"},
            "days": {"type": "integer", "enum": [1, 2]},
        },
        "required": ["city"],
    },
)
WEATHER_JSON = (
    '{"type": "function", "function": {"name": "weather", "description": "Tells weather", "parameters":'
    ' {"type": "object", "properties": {"city": {"type": "string", "description": "Where"}, "days":'
    ' {"type": "integer", "enum": [1, 2]}}, "required": ["city"]}}}'
)
SYSTEM, ASK = Message("system", "Be brief."), Message("user", "Hi")
CALL = ToolCall("weather", {"city": "Bern", "days": 2})
CALLING = (
    ASK,
    Message("assistant", "I look.", thinking="Ask it.", tool_calls=(CALL, CALL)),
    Message("tool", "21", tool_name="weather"),
    Message("tool", "22", tool_name="weather"),
)


def rendered(name, *messages, **more):
    more.setdefault("bos_token", "<bos>")
    return render_jinja(renderer_text(name), RenderInput(messages, **more))


CHATML = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
DEEP = "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜>"  # noqa: RUF001


@pytest.mark.parametrize(
    ("name", "think", "prompt"),
    [
        ("qwen3-vl-instruct", None, CHATML),
        ("qwen3-vl-thinking", None, CHATML + "<think>\n"),
        ("qwen3-vl-thinking", True, CHATML + "<think>\n"),
        ("qwen3-vl-thinking", False, CHATML),
        ("qwen3.5", True, CHATML + "<think>\n"),
        ("qwen3.5", False, CHATML + "<think>\n\n</think>\n\n"),
        ("qwen3-coder", None, CHATML),
        ("deepseek3.1", True, DEEP + "<think>"),
        ("deepseek3.1", False, DEEP + "</think>"),
        ("functiongemma", None,
         "<bos><start_of_turn>developer\nBe brief.<end_of_turn>\n<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"),
    ],
)  # fmt: skip
def test_a_question(name, think, prompt):
    assert rendered(name, SYSTEM, ASK, think=think) == prompt


HERMES = """\
<|im_start|>user
Hi<|im_end|>
<|im_start|>assistant
@I look.
<tool_call>
{"name": "weather", "arguments": {"city": "Bern", "days": 2}}
</tool_call>
<tool_call>
{"name": "weather", "arguments": {"city": "Bern", "days": 2}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
21
</tool_response>
<tool_response>
22
</tool_response><|im_end|>
<|im_start|>assistant
"""
XML = """\
<tool_call>
<function=weather>
<parameter=city>
Bern
</parameter>
<parameter=days>
2
</parameter>
</function>
</tool_call>"""
THOUGHT = "<think>\nAsk it.\n</think>\n\n"


def test_calls_and_their_results():
    assert rendered("qwen3-vl-instruct", *CALLING) == HERMES.replace("@", "")
    thinking = rendered("qwen3-vl-thinking", *CALLING, think=True)
    assert thinking == HERMES.replace("@", THOUGHT) + "<think>\n"
    head = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    answers = "<tool_response>\n21\n</tool_response>\n<tool_response>\n22\n</tool_response>"
    assert rendered("qwen3.5", *CALLING, think=True) == (
        f"{head}{THOUGHT}I look.\n\n{XML}\n{XML}<|im_end|>\n<|im_start|>user\n{answers}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )
    assert rendered("qwen3-coder", *CALLING) == (
        f"{head}I look.\n\n{XML}\n{XML}<|im_end|>\n<|im_start|>user\n{answers}\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    call = (
        '<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Bern", "days": 2}<｜tool▁call▁end｜>'  # noqa: RUF001
    )
    assert rendered("deepseek3.1", *CALLING) == (
        "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜></think>I look.<｜tool▁calls▁begin｜>"  # noqa: RUF001
        f"{call}{call}<｜tool▁calls▁end｜><｜end▁of▁sentence｜>"  # noqa: RUF001
        "<｜tool▁output▁begin｜>21<｜tool▁output▁end｜><｜tool▁output▁begin｜>22<｜tool▁output▁end｜>"  # noqa: RUF001
    )
    call = "<start_function_call>call:weather{city:<escape>Bern<escape>,days:2}<end_function_call>"
    assert rendered("functiongemma", *CALLING) == (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nI look."
        f"{call}{call}<start_function_response>response:weather{{<escape>21<escape>}}<end_function_response>"
        "<start_function_response>response:weather{<escape>22<escape>}<end_function_response>"
    )


@pytest.mark.parametrize(
    "name", ["qwen3-vl-instruct", "qwen3-vl-thinking", "qwen3.5", "qwen3-coder"]
)
def test_calls_without_a_word(name):
    call = (
        XML
        if name in ("qwen3.5", "qwen3-coder")
        else '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern", "days": 2}}\n</tool_call>'
    )
    silent = Message("assistant", "", tool_calls=(CALL, CALL))
    assert rendered(name, silent, ASK, think=False, add_generation_prompt=False) == (
        f"<|im_start|>assistant\n{call}\n{call}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    )


def test_tools():
    vl = rendered("qwen3-vl-instruct", SYSTEM, ASK, tools=[WEATHER])
    assert vl.startswith(
        "<|im_start|>system\nBe brief.\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{WEATHER_JSON}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n"
        '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n<|im_start|>user\n'
    )
    qwen35 = rendered("qwen3.5", SYSTEM, ASK, tools=[WEATHER])
    assert f"following functions:\n\n<tools>\n{WEATHER_JSON}\n</tools>\n\nIf you choose" in qwen35
    assert "</IMPORTANT>\n\nBe brief.<|im_end|>\n<|im_start|>user\n" in qwen35
    coder = rendered("qwen3-coder", ASK, tools=[WEATHER])
    assert coder.startswith("<|im_start|>system\nYou are Qwen, a helpful AI assistant that can")
    assert (
        "<tools>\n<function>\n<name>weather</name>\n<description>Tells weather</description>\n<parameters>"
        "\n<parameter>\n<name>city</name>\n<type>string</type>\n<description>Where</description>\n</parameter>"
        "\n<parameter>\n<name>days</name>\n<type>integer</type>\n<enum>[1, 2]</enum>\n</parameter>"
        '\n<required>["city"]</required>\n</parameters>\n</function>\n</tools>\n\nIf you choose'
    ) in coder
    deep = rendered("deepseek3.1", SYSTEM, ASK, tools=[WEATHER])
    assert (
        "Be brief.\n\n## Tools\nYou have access to the following tools:\n\n### weather\nDescription: Tells weather\n\nParameters: {"
        in deep
    )
    assert "{{additional_tool_calls}}<｜tool▁calls▁end｜>\n\nWhere:\n\n- `tool_call_name`" in deep  # noqa: RUF001
    assert rendered("functiongemma", SYSTEM, ASK, tools=[WEATHER]).startswith(
        "<bos><start_of_turn>developer\nBe brief.\nYou can do function calling with the following functions:"
        "<start_function_declaration>declaration:weather{description:<escape>Tells weather<escape>,parameters:{properties:{"
        "city:{description:<escape>Where<escape>,type:<escape>STRING<escape>},days:{description:<escape><escape>,type:<escape>INTEGER<escape>}},"
        "required:[<escape>city<escape>],type:<escape>OBJECT<escape>}}<end_function_declaration><end_of_turn>\n"
    )


@pytest.mark.parametrize("name", RENDERERS)
def test_an_answer_that_has_begun_goes_on(name):
    begun = Message("assistant", "Once upon")
    prompt = rendered(name, ASK, begun, think=False)
    assert (
        prompt.endswith("Once upon<end_of_turn>\n<start_of_turn>model\n")
        if name == "functiongemma"
        else prompt.endswith("Once upon")
    )
    closed = rendered(name, ASK, begun, think=False, add_generation_prompt=False)
    assert closed.rstrip().endswith(("<|im_end|>", "<｜end▁of▁sentence｜>", "<end_of_turn>"))  # noqa: RUF001


@pytest.mark.parametrize("name", RENDERERS)
def test_odd_conversations_render(name):
    odd = [
        Tool("x", source={"type": "function", "function": {"name": "x"}}),
        Tool("y", parameters={"properties": {"a": {}}}),
    ]
    call = ToolCall("x", {"a": None, "b": [1.5, {"c": True}]})
    tool = Message("tool", "1")
    for messages in (
        [ASK],
        [SYSTEM],
        [tool, ASK],
        [ASK, Message("assistant", "", tool_calls=(call,)), tool, tool, ASK],
    ):
        assert rendered(name, *messages, tools=odd)


@pytest.mark.parametrize("name", RENDERERS)
def test_each_renderer_is_what_its_parser_reads(name):
    """The call in the prompt of a later turn is read back by the family of that name."""
    parser = "deepseek3" if name == "deepseek3.1" else name
    text = renderer_text(name)
    whole = rendered(name, *CALLING[:2], add_generation_prompt=False, think=False)
    answer = (
        whole.partition("I look.")[2].removesuffix("<|im_end|>\n").removesuffix("<end_of_turn>\n")
    )
    answer = answer.removesuffix("<｜end▁of▁sentence｜>")  # noqa: RUF001
    for family in (
        choose_family(text, is_go=False, architecture="llama", parser=parser),
        choose_family(text, is_go=False, architecture="llama"),
    ):
        machine = family.parser((WEATHER,))
        events = [*machine.feed("Yes. " + answer), *machine.finish()]
        calls = [event.call for event in events if isinstance(event, CallDone)]
        assert [(call.name, call.arguments) for call in calls] == [("weather", CALL.arguments)] * 2
        assert family.can_think == abilities_of(text, is_go=False).thinking
    assert abilities_of(text, is_go=False).tools


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_is_chosen_by_its_name(name):
    family = choose_family("<start_of_turn>", is_go=True, architecture="gemma", parser=name)
    assert family.is_harmony == (name == "harmony")
    thought = "<think>a</think>b"
    events = [*(machine := family.parser((WEATHER,))).feed(thought), *machine.finish()]
    takes_thinking = PARSERS[name].thinking is not None
    assert events == ([Thinking("a"), Text("b")] if takes_thinking else [Text(thought)])


def test_passthrough_changes_nothing_and_an_unknown_parser_counts_as_none():
    text = '<tool_call>{"name": "weather"}</tool_call><think>'
    machine = choose_family(text, is_go=True, architecture="llama", parser="passthrough").parser(
        (WEATHER,)
    )
    told = [*machine.feed(text), *machine.finish()]
    assert "".join(event.text for event in told) == text
    assert choose_family(text, is_go=True, architecture="llama", parser="new").calls == forms.HERMES
