"""appliance/chat/parse: what each family's output means, however it is cut into pieces."""
# ruff: noqa: E501 - the outputs are easier to read in one line

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.chat.events import CallArguments, CallDone, Message, Text, Thinking, Tool
from appliance.chat.parse.families import Family, choose_family
from appliance.chat.parse.thinking import without_old_thinking
from appliance.chat.parse.tools import forms, parser
from appliance.chat.parse.tools.python import python_calls

WEATHER = Tool(
    "get_weather",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "n": {"type": "integer"}},
    },
)
TOOLS = (WEATHER, Tool("get_time"))
PARIS = ("get_weather", {"city": "Paris"})
ARGUMENTS = '{"city": "Paris"}'
B, S, E = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"  # noqa: RUF001
BB, EE = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"  # noqa: RUF001

THINK = ("<think>", "</think>")
FAMILIES = {
    "hermes": Family("hermes", forms.HERMES),
    "qwen3": Family("hermes", forms.HERMES, THINK),
    "coder": Family("coder", forms.QWEN_CODER),
    "llama": Family("llama", forms.LLAMA),
    "llama4": Family("llama4", forms.LLAMA_4),
    "lfm": Family("lfm", forms.LFM, THINK),
    "mistral": Family("mistral", forms.MISTRAL),
    "phi": Family("phi", forms.PHI),
    "gemma": Family("gemma", forms.GEMMA),
    "functiongemma": Family("functiongemma", forms.FUNCTION_GEMMA),
    "deepseek": Family("deepseek", forms.DEEPSEEK, THINK),
    "harmony": Family("harmony", forms.BARE, is_harmony=True),
    "tagged": Family("tagged", forms.tagged("<toolcall>")),
    "bare": Family("bare", forms.BARE),
}


def call(name="get_weather", key="arguments", arguments=ARGUMENTS):
    return f'{{"name": "{name}", "{key}": {arguments}}}'


# (family, output, thinking, text, calls)
CASES = [
    ("gemma", '```tool_code\nget_weather(city="Paris")\n```', "", "", [PARIS]),
    ("gemma", "I look.\n```tool_code\nprint(get_weather('Paris'))\n```", "", "I look.", [PARIS]),
    (
        "gemma",
        '```tool_code\n[get_weather(city="Paris"), get_time()]\n```',
        "",
        "",
        [PARIS, ("get_time", {})],
    ),
    (
        "gemma",
        '```tool_code\nget_weather(city="Paris", n=-2)\nget_weather(city=null)\n```\nDone.',
        "",
        "Done.",
        [("get_weather", {"city": "Paris", "n": -2}), ("get_weather", {"city": None})],
    ),
    *(
        ("gemma", wrong := f"```tool_code\n{body}\n```", "", wrong, [])
        for body in (
            "import os",
            "unknown(city='Paris')",
            "get_weather(city=open('/etc/passwd'))",
            "get_weather(city='Paris'",
            "get_weather('a', 1, 2)",
            "get_weather('a', city='b')",
            "get_weather(**{})",
            "get_weather(n=1e999)",
        )
    ),
    ("hermes", f"<tool_call>\n{call()}\n</tool_call>", "", "", [PARIS]),
    ("hermes", f"I look.\n<tool_call>{call()}</tool_call>", "", "I look.", [PARIS]),
    (
        "hermes",
        f"<tool_call>\n{call()}\n</tool_call>\n<tool_call>\n{call('get_time', arguments='{}')}"
        "\n</tool_call>",
        "",
        "",
        [PARIS, ("get_time", {})],
    ),
    ("hermes", f"<tool_call>\n{call()}\n{call('other')}</tool_call>", "", "",
     [PARIS, ("other", {"city": "Paris"})]),
    ("hermes", f"<tool_call>{call()} done", "", "done", [PARIS]),
    ("hermes", f"<tool_call>{call()}</tool_call> That is all.", "", "That is all.", [PARIS]),
    ("hermes", '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call>',
     "", "", [PARIS]),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}',
     "", "", [PARIS]),
    ("hermes", '<tool_call>{"name": "get_time"}</tool_call>', "", "", [("get_time", {})]),
    ("hermes", '<tool_call>{"name": "get_time", "arguments": null}</tool_call>', "", "",
     [("get_time", {})]),
    ("hermes", "a <b> <tool", "", "a <b> <tool", []),
    ("hermes", "<tool_call>not JSON</tool_call>", "", "<tool_call>not JSON</tool_call>", []),
    ("hermes", '<tool_call>{"name": 3}</tool_call>', "", '<tool_call>{"name": 3}</tool_call>', []),
    ("hermes", '<tool_call>{"name": "x", oops', "", '<tool_call>{"name": "x", oops', []),
    ("hermes", f'<tool_call>{{"name" 1}}<tool_call>{call()}</tool_call>', "",
     '<tool_call>{"name" 1}', [PARIS]),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"t": "a\nb\\u00e9", "n": [1, -2.5e3, '
     'true, {}]}}</tool_call>', "", "",
     [("get_weather", {"t": "a\nbé", "n": [1, -2500.0, True, {}]})]),
    ("qwen3", f"<think>\nHm, <x>.\n</think>\n\n<tool_call>\n{call()}\n</tool_call>", "Hm, <x>.", "",
     [PARIS]),
    ("qwen3", "  <think>a </think> b <think>c</think>", "a", "b <think>c</think>", []),
    ("qwen3", "<think>never closed </thi", "never closed </thi", "", []),
    ("qwen3", "no <think>", "", "no <think>", []),
    ("qwen3", "<think>\n\n</think>\n\nanswer", "", "answer", []),
    ("qwen3", "<thi", "", "<thi", []),
    ("coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
     "<parameter=n>\n3\n</parameter>\n</function>\n</tool_call>", "", "",
     [("get_weather", {"city": "Paris", "n": 3})]),
    ("coder", "<tool_call>broken</tool_call> x", "", "<tool_call>broken</tool_call> x", []),
    ("llama", call(key="parameters"), "", "", [PARIS]),
    ("llama", f"<|python_tag|>{call(key='parameters')}; {call('get_time', arguments='{}')}", "", "",
     [PARIS, ("get_time", {})]),
    ("llama", '[get_weather(city="Paris", n=3), get_time()]', "", "",
     [("get_weather", {"city": "Paris", "n": 3}), ("get_time", {})]),
    ("llama", ' [get_weather(city="Par)is]\\"", n=[1, {"a": (2)}])] Done.', "", "Done.",
     [("get_weather", {"city": 'Par)is]"', "n": [1, {"a": 2}]})]),
    ("llama", "[get_weather('Paris')", "", "", [PARIS]),
    ("llama", f"[get_time(), {call()}]", "", "", [("get_time", {}), PARIS]),
    ("llama", "<|python_tag|>[get_time()]", "", "", [("get_time", {})]),
    ("llama", "[get_time(), then I look]", "", ", then I look]", [("get_time", {})]),
    *(
        ("llama", wrong, "", wrong, [])
        for wrong in (
            "[get_weather](https://example.org) tells",
            "[get_weather(city=open('/etc/passwd'))]",
            "[get_weather(city='Paris'",
            "[get_weather(city='Paris']",
            "[get_weather (city='Paris')]",
            "[get_weather(city=)]",
            "[get_weather(n=1e999)]",
            "[unknown(city='Paris')]",
            "[1, 2, 3]",
            "get_weather(city='Paris')",
        )
    ),
    ("llama4", "Well.<|python_start|>[get_weather(city='Paris')]<|python_end|>", "", "Well.", [PARIS]),
    ("llama4", '[get_time(), get_weather(city="Paris")]', "", "", [("get_time", {}), PARIS]),
    ("llama4", f"<|python_start|>{call(key='parameters')}<|python_end|> Done.", "", "Done.", [PARIS]),
    ("lfm", '<think>hm</think><|tool_call_start|>[get_weather(city="Paris"), get_time()]<|tool_call_end|>ok',
     "hm", "ok", [PARIS, ("get_time", {})]),
    ("llama", call("unknown"), "", call("unknown"), []),
    ("llama", '{"answer": 42} is it', "", '{"answer": 42} is it', []),
    ("llama", f"Here: {call()}", "", f"Here: {call()}", []),
    ("llama", "  [see](x)", "", "  [see](x)", []),
    ("mistral", f"[TOOL_CALLS] [{call()}, {call('get_time', arguments='{}')}]", "", "",
     [PARIS, ("get_time", {})]),
    ("mistral", f"Well. [TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}[TOOL_CALLS]get_time[ARGS]{{}}", "",
     "Well.", [PARIS, ("get_time", {})]),
    ("mistral", f"[TOOL_CALLS]get_weather[CALL_ID]abc123def[ARGS]{ARGUMENTS}", "", "", [PARIS]),
    ("mistral", "[TOOL_CALLS]a b c{}", "", "[TOOL_CALLS]a b c{}", []),
    ("mistral", f"[TOOL_CALLS] [{call()}", "", "", [PARIS]),
    ("mistral", f"[TOOL_CALLS] [{call()}, {{]", "", ", {]", [PARIS]),
    ("phi", f"<|tool_call|>[{call()}]<|/tool_call|>", "", "", [PARIS]),
    ("phi", f" functools[{call()}]", "", "", [PARIS]),
    ("phi", "use functools.reduce", "", "use functools.reduce", []),
    ("gemma", f"```tool_code\n{call(key='parameters')}\n```", "", "", [PARIS]),
    ("gemma", f"Sure.\n```json\n{call()}\n```\n```json\n{call('get_time')}\n```", "", "Sure.",
     [PARIS, ("get_time", {"city": "Paris"})]),
    ("gemma", '```json\n{"a": 1}\n```', "", '```json\n{"a": 1}\n```', []),
    ("functiongemma",
     "<start_function_call>call:get_weather{city:<escape>Paris<escape>,n:2,l:[1,x],o:{a:true}}"
     "<end_function_call>", "", "",
     [("get_weather", {"city": "Paris", "n": 2, "l": [1, "x"], "o": {"a": True}})]),
    ("functiongemma", "<start_function_call>call:x{a", "", "<start_function_call>call:x{a", []),
    ("deepseek", f"<think>hm</think>{BB}{B}function{S}get_weather\n```json\n{ARGUMENTS}\n```{E}\n{B}"
     f"function{S}get_time\n```json\n{{}}\n```{E}{EE}", "hm", "", [PARIS, ("get_time", {})]),
    ("deepseek", f"ok{BB}{B}get_weather{S}{ARGUMENTS}{E}{EE}", "", "ok", [PARIS]),
    ("harmony", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary "
     f"to=functions.get_weather <|constrain|>json<|message|>{ARGUMENTS}<|call|>", "Hm.", "", [PARIS]),
    ("harmony", f" to=functions.get_weather<|channel|>commentary json<|message|>{ARGUMENTS}", "", "",
     [PARIS]),
    ("harmony", "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b"
     "<|return|>", "a", "b", []),
    ("harmony", "<|channel|>commentary<|message|>I look.<|end|>", "", "I look.", []),
    ("harmony", "to be plain", "", "to be plain", []),
    ("harmony", "<|channel|>commentary to=functions.get_time<|message|><|call|>", "", "",
     [("get_time", {})]),
    ("harmony", '<|channel|>commentary to=functions.get_time<|message|>{"a" 1}<|call|>', "",
     '{"a" 1}', []),
    ("tagged", f"<toolcall>{call()}</toolcall>", "", "", [PARIS]),
    ("bare", f"[{call()}]", "", "", [PARIS]),
]  # fmt: skip


def run(family, pieces, tools=TOOLS, *, is_opened=False):
    """All events, runs of the same kind joined."""
    ids = itertools.count()
    machine = FAMILIES[family].parser(tools, is_opened=is_opened, new_id=lambda: f"id{next(ids)}")
    events = []
    for piece in pieces:
        events += machine.feed(piece)
    events += machine.finish()
    joined = []
    for event in events:
        last = joined[-1] if joined else None
        if type(last) is type(event) and isinstance(event, Text | Thinking):
            joined[-1] = type(event)(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments):
            joined[-1] = CallArguments(event.index, last.text + event.text)
        else:
            joined.append(event)
    return joined


def text_of(events, kind):
    return "".join(event.text for event in events if isinstance(event, kind))


@pytest.mark.parametrize(("family", "output", "thinking", "text", "calls"), CASES)
def test_what_an_output_means_in_every_cut(family, output, thinking, text, calls):
    whole = run(family, [output])
    done = [event.call for event in whole if isinstance(event, CallDone)]
    assert [(one.name, one.arguments) for one in done] == calls
    assert text_of(whole, Thinking) == thinking
    assert text_of(whole, Text) == text
    assert run(family, list(output)) == whole
    for at in range(1, len(output)):
        assert run(family, [output[:at], output[at:]]) == whole


MARKS = sorted(
    {mark for family in FAMILIES.values() for mark in family.special}
    | {call(), call("nobody"), '{"name": "get_time", ', "[", "]", "{", "}", " ", "\n" * 70, ",", "x",
       "get_time", "```", '"', "\\", "<", "<think>", "</think>", "to=functions.f", "1", "call:f{a:1}",
       "(", ")", "get_time(", "n=", "[get_time(n=1)", "'",
       "<function=f>", "</function>", "<parameter=a>", "</parameter>"}
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=150, deadline=None)
@given(parts=st.lists(st.sampled_from(MARKS), max_size=12), cuts=st.lists(st.integers(0, 200)))
def test_any_text_in_any_cut_gives_the_same_events(family, parts, cuts):
    output = "".join(parts)
    whole = run(family, [output])
    assert run(family, list(output)) == whole
    edges = [0, *sorted(cut for cut in cuts if cut < len(output)), len(output)]
    assert run(family, [output[a:b] for a, b in itertools.pairwise(edges)]) == whole


def test_a_call_is_told_piece_by_piece():
    machine = FAMILIES["hermes"].parser(TOOLS)
    assert machine.feed('<tool_call>{"name": "get_weather"')[0].name == "get_weather"
    assert machine.feed(', "arguments": {"ci') == [CallArguments(0, '{"ci')]
    assert machine.feed('ty": 1') == [CallArguments(0, 'ty": 1')]
    assert machine.feed("}") == [CallArguments(0, "}")]
    (done,) = machine.feed("}")
    assert done.call.arguments == {"city": 1}


def test_calls_of_a_list_are_told_one_by_one_and_what_is_no_list_at_once():
    machine = FAMILIES["llama"].parser(TOOLS)
    assert machine.feed("[get_time(") == []
    assert machine.feed("), get_w")[-1].call.name == "get_time"
    assert machine.feed("eather(n=1)")[-1].call.arguments == {"n": 1}
    machine = FAMILIES["llama"].parser(TOOLS)
    assert machine.feed("[get") == []
    assert machine.feed("ting") == [Text("[get"), Text("ting")]


def test_a_started_call_that_breaks_is_told_as_text():
    broken = '<tool_call>{"name": "f", "arguments": {"a": }}</tool_call>'
    started, arguments, text = run("hermes", [broken])
    assert (started.name, arguments.text, text.text) == ("f", '{"a": ', broken)


def test_a_template_that_opened_the_thinking():
    assert run("qwen3", ["\nhm\n</think>\n\nyes"], is_opened=True) == [Thinking("hm"), Text("yes")]


def test_a_header_without_end_is_text():
    output = "<|channel|>analysis<|message|>a<|start|>" + "x" * 400 + "<|start|>b"
    for pieces in ([output], list(output)):
        whole = run("harmony", pieces)
        assert text_of(whole, Thinking) == "a"
        assert text_of(whole, Text) == "<|start|>" + "x" * 400


def test_old_thinking_is_forgotten():
    old = Message("assistant", "<think>\nhm\n</think>\n\nyes")
    quoted = Message("assistant", "say </think> to end it")
    messages = [Message("user", "<think>a</think>b"), old, quoted, Message("user", "?"), old]
    bare = without_old_thinking(messages, THINK)
    assert [one.content for one in bare] == [
        "<think>a</think>b", "yes", quoted.content, "?", old.content
    ]  # fmt: skip


def test_without_tools_a_mark_is_text():
    output = f"<tool_call>{call()}</tool_call>"
    assert run("hermes", [output], tools=()) == [Text(output)]


@pytest.mark.parametrize(
    "value", ["1e999", "9" * 100, "nul", "01", "[1 2]", "{1: 2}", "\\", "[" * 70]
)
def test_what_is_no_json_breaks_the_call(value):
    output = call(arguments=f'{{"a": {value}}}')
    whole = run("hermes", ["<tool_call>" + output])
    assert not any(isinstance(event, CallDone) for event in whole)
    assert text_of(whole, Text) == "<tool_call>" + output


def test_a_lone_surrogate_becomes_a_character_that_can_be_sent():
    output = "<tool_call>" + call(arguments='{"a": "\\ud83d\\ude00 \\ud800"}')
    arguments = next(e for e in run("hermes", [output]) if isinstance(e, CallDone)).call.arguments
    assert arguments == {"a": "\U0001f600 \ufffd"}


def test_a_call_without_end_is_text_when_it_has_its_size(monkeypatch):
    monkeypatch.setattr(parser, "MAX_CALL_CHARS", 100)
    output = "<tool_call>" + call(arguments=json.dumps({"a": "b" * 200}))
    for pieces in ([output], list(output)):
        whole = run("hermes", pieces)
        assert text_of(whole, Text) == output
        assert len(text_of(whole, CallArguments)) < 100


@pytest.mark.parametrize(
    ("template", "architecture", "name"),
    [
        ("<|start|>assistant<|channel|>", "llama", "harmony"),
        ("", "gptoss", "harmony"),
        ("{{ '<tool_call>' }} <think> </think>", "qwen3", "hermes"),
        ("<|start_header_id|> tools", "llama", "llama"),
        ("<|header_start|> <|python_start|>", "llama4", "llama4"),
        ("<|im_start|> <|tool_call_start|>", "lfm2", "lfm"),
        ("[TOOL_CALLS]", "llama", "mistral"),
        ("<｜tool▁calls▁begin｜>", "deepseek2", "deepseek"),  # noqa: RUF001
        ("<start_of_turn>", "gemma3", "gemma"),
        ("<start_function_call>", "gemma3", "functiongemma"),
        ("<tool_call><function=", "qwen3", "qwen3-coder"),
        ("{{ message.tool_calls }}<|tool|><|tool_call|>", "phi3", "phi"),
        ("", "llama", "bare"),
    ],
)
def test_the_family_is_told_by_the_template(template, architecture, name):
    assert choose_family(template, is_go=False, architecture=architecture).name == name


@pytest.mark.parametrize(
    "text", ["f(" + "(" * 60_000, "f(" + "-" * 60_000 + "1)", "f" + ".f" * 30_000 + "()", "f(" * 90]
)
def test_python_that_nests_too_deep_is_no_call(text):
    assert python_calls(text, (Tool("f"),)) is None
