"""chat/render: conversations in Go templates, in the three ways of Ollama. Renderings by hand."""

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.chat.events import Message, Tool, ToolCall
from appliance.chat.render.go import collate
from appliance.chat.render.inputs import RenderInput
from appliance.chat.render.template import render
from appliance.errors import ApplianceError, TemplateError, UnsupportedError
from appliance.templates.choice import ChatTemplate

# Our own templates, in the shapes that models come with.
CHATML = """\
{{- range $i, $m := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "system" }}<|im_start|>system
{{ .Content }}
{{- if $.Tools }}

Tools:
{{- range $.Tools }}
{{ . }}
{{- end }}
{{- end }}<|im_end|>
{{ else if eq .Role "tool" }}<|im_start|>user
<tool_response>{{ .Content }}</tool_response><|im_end|>
{{ else }}<|im_start|>{{ .Role }}
{{ if and .Thinking $.Think }}<think>
{{ .Thinking }}
</think>
{{ end }}{{ .Content }}
{{- range .ToolCalls }}
<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>
{{- end }}{{ if not (and $last (eq .Role "assistant")) }}<|im_end|>
{{ end }}{{ end }}
{{- if and $last (ne .Role "assistant") }}<|im_start|>assistant
{{ if and $.IsThinkSet (not $.Think) }}<think></think>{{ end }}
{{- end }}
{{- end }}"""
LEGACY = (
    "{{ if .System }}<<{{ .System }}>>\n{{ end }}{{ if .Prompt }}[user] {{ .Prompt }}\n{{ end }}"
    "[bot] {{ .Response }}</s>\n"
)
INFILL = (
    "{{ if .Suffix }}<pre>{{ .Prompt }}<suf>{{ .Suffix }}<mid>"
    "{{ else }}[{{ .Prompt }}]{{ end }}{{ .Response }}"
)
PARAMETERS = {
    "type": "object",
    "required": ["city"],
    "properties": {
        "unit": {"type": ["string", "null"], "enum": ["C", "F"]},
        "city": {"type": "string", "description": "where <it> is"},
    },
}
WEATHER = Tool("weather", "Tell the weather.", PARAMETERS)
CALL = ToolCall("weather", {"unit": "C", "city": "Bern & Zug"}, "call_1")


def go(template, *messages, **more):
    return render(ChatTemplate(template), RenderInput(messages, **more))


def user(text):
    return Message("user", text)


def bot(text, **more):
    return Message("assistant", text, **more)


SYSTEM = Message("system", "Be brief.")


def test_messages_mode_with_tools_calls_and_results():
    prompt = go(
        CHATML,
        SYSTEM,
        user("Bern?"),
        bot("", tool_calls=(CALL,)),
        Message("tool", "21", tool_name="weather"),
        Message("tool", "22", tool_name="weather"),
        tools=[WEATHER],
    )
    assert prompt == (
        "<|im_start|>system\nBe brief.\n\nTools:\n"
        '{"type":"function","function":{"name":"weather","description":"Tell the weather.",'
        '"parameters":{"type":"object","required":["city"],"properties":{'
        '"city":{"type":"string","description":"where \\u003cit\\u003e is"},'
        '"unit":{"type":["string","null"],"enum":["C","F"]}}}}}<|im_end|>\n'
        "<|im_start|>user\nBern?<|im_end|>\n"
        "<|im_start|>assistant\n\n<tool_call>\n"
        '{"name": "weather", "arguments": {"city":"Bern \\u0026 Zug","unit":"C"}}\n'
        "</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>21</tool_response><|im_end|>\n"
        "<|im_start|>user\n<tool_response>22</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("think", "end"),
    [
        (None, "<|im_start|>assistant\n"),
        (True, "<|im_start|>assistant\n"),
        (False, "<|im_start|>assistant\n<think></think>"),
    ],
)
def test_thinking_is_switched(think, end):
    old = bot("4", thinking="2+2")
    prompt = go(CHATML, user("2+2?"), old, user("why?"), think=think)
    assert prompt.endswith(end)
    assert ("<think>\n2+2\n</think>\n4" in prompt) == bool(think)


@pytest.mark.parametrize(
    ("think", "text"),
    [(None, "false  false"), (True, "true medium true"), (False, "false  true"),
     ("high", "true high true")],
)  # fmt: skip
def test_levels_of_thinking(think, text):
    template = "{{ if .Messages }}{{ .Think }} {{ .ThinkLevel }} {{ .IsThinkSet }}{{ end }}"
    assert go(template, user("x"), think=think) == text


def test_an_answer_that_has_begun_goes_on():
    assert go(CHATML, user("Count."), bot("1, 2,")).endswith("<|im_start|>assistant\n1, 2,")


def test_turns_of_one_role_are_joined_without_touching_the_callers():
    given = (SYSTEM, user("a"), user("b"), bot(""), bot("c", tool_calls=(CALL,)), SYSTEM)
    before = tuple(given)
    system, messages = collate(given)
    assert given == before
    assert system == "Be brief.\n\nBe brief."
    assert [(m.role, m.content) for m in messages] == [
        ("system", "Be brief."), ("user", "a\n\nb"), ("assistant", "c"), ("system", "Be brief.")
    ]  # fmt: skip
    assert messages[2].tool_calls == (CALL,)


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([user("hi")], "[user] hi\n[bot] "),
        ([SYSTEM, user("hi")], "<<Be brief.>>\n[user] hi\n[bot] "),
        ([SYSTEM, user("hi"), bot("yo"), user("bye")],
         "<<Be brief.>>\n[user] hi\n[bot] yo</s>\n[user] bye\n[bot] "),
        ([user("hi"), bot("yo"), SYSTEM, user("bye")],
         "[user] hi\n[bot] yo</s>\n<<Be brief.>>\n[user] bye\n[bot] "),
        ([user("hi"), SYSTEM], "[user] hi\n[bot] </s>\n<<Be brief.>>\n[bot] "),
        ([user("hi"), bot("yo, ")], "[user] hi\n[bot] yo, "),
        ([bot("yo"), user("hi")], "[bot] yo</s>\n[user] hi\n[bot] "),
        ([user("hi"), Message("tool", "?"), Message("odd", "!")], "[user] hi\n[bot] "),
        ([], "[bot] "),
    ],
)  # fmt: skip
def test_legacy_mode(messages, text):
    assert go(LEGACY, *messages) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ .Prompt }}", "hiyobye"),
        ("{{ if .System }}{{ .System }} {{ end }}Q: {{ .Prompt }} A: ", "Q: hi A: yoQ: bye A: "),
        ("{{ if .Prompt }}{{ .Prompt }}>{{ .Response }};{{ else }}?{{ end }}END",
         "hi>yo;ENDbye>"),
        ("{{ if .System }}x{{ else }}{{ .Prompt }}|{{ .Response }}|{{ end }}!", "hi|yo|!bye|"),
        ('{{ define "r" }}!{{ end }}{{ .Prompt }}{{ template "r" }}{{ .Response }}', "hi!yobye!"),
        ("{{ .Prompt }}{{ .Tools }}{{ .Response }}",
         "hi<no value>yobye<no value>"),
    ],
)  # fmt: skip
def test_legacy_mode_has_its_response_somewhere(template, text):
    assert go(template, user("hi"), bot("yo"), user("bye")) == text


def test_suffix_mode():
    assert go(INFILL, SYSTEM, user("def f("), suffix="return x") == (
        "<pre>def f(<suf>return x<mid>"
    )
    assert go(INFILL, user("def f(")) == "[def f(]"
    for template in (ChatTemplate("{{ .Prompt }}"), ChatTemplate("{{ messages }}", is_go=False)):
        with pytest.raises(UnsupportedError, match="no place for a suffix"):
            render(template, RenderInput([user("a")], suffix="b"))


def test_the_parts_of_tools_and_messages():
    template = (
        "{{ range .Tools }}{{ .Type }} {{ .Function.Name }}: {{ .Function.Description }}"
        "{{ range $name, $p := .Function.Parameters.Properties }}"
        " {{ $name }}={{ $p.Type }}/{{ toTypeScriptType $p }}{{ $p.Enum }}{{ end }}"
        " {{ json .Function.Parameters.Required }}{{ end }}"
        "{{ range .Messages }}{{ range .ToolCalls }}|{{ .ID }} {{ .Function.Index }}"
        "{{ range $k, $v := .Function.Arguments }} {{ $k }}:{{ $v }}{{ end }}{{ end }}"
        "{{ .ToolName }}{{ .ToolCallID }}{{ len .Images }}{{ end }} {{ currentDate }}"
    )
    now = datetime(2026, 3, 1, tzinfo=UTC)
    prompt = go(
        template,
        bot("", tool_calls=(CALL,)),
        Message("tool", "1", tool_name="weather", tool_call_id="call_1", images=(b"x",)),
        tools=[WEATHER],
        now=lambda: now,
    )
    assert prompt == (
        "function weather: Tell the weather. city=string/string[]"
        ' unit=[string null]/string | null[C F] ["city"]'
        "|call_1 0 city:Bern & Zug unit:C0weathercall_11 2026-03-01"
    )


@pytest.mark.parametrize(
    "source",
    [{}, {"type": 1, "function": []}, {"function": {"parameters": {"properties": {"a": 1}}}},
     {"function": {"parameters": {"properties": {"a": {"type": {}, "anyOf": 3, "enum": {}}}}}}],
)  # fmt: skip
def test_odd_tools_render(source):
    tool = Tool("x", source=source)
    assert go("{{ if .Messages }}{{ .Tools }}{{ end }}", user("x"), tools=[tool]).startswith("[{")


def test_tools_and_arguments_that_nest_without_end_are_one_error():
    schema, arguments = {"type": "object"}, {}
    for _ in range(5000):
        schema = {"type": "object", "properties": {"a": schema}}
        arguments = {"a": arguments}
    for inputs in (
        {"tools": [Tool("x", parameters=schema)]},
        {"messages": [bot("", tool_calls=(ToolCall("x", arguments),))]},
    ):
        messages = inputs.pop("messages", [user("x")])
        with pytest.raises(TemplateError, match="too deep"):
            go("{{ json .Messages }}", *messages, **inputs)


def test_without_a_template_it_is_the_contents():
    assert render(ChatTemplate(), RenderInput([SYSTEM, user("hi")])) == "hi"


def test_a_broken_template_says_where():
    with pytest.raises(TemplateError, match=r"template: :2: unclosed action"):
        go("\n{{ .Prompt", user("x"))
    with pytest.raises(TemplateError, match=r"<\.Nope>: can't evaluate field Nope in type api"):
        go("{{ range .Messages }}{{ .Nope }}{{ end }}", user("x"))


def test_a_long_conversation_in_an_old_template_stays_within_one_budget():
    greedy = "{{ range 9999 }}{{ end }}{{ .Prompt }}{{ .Response }}"
    turns = [user("a"), bot("b")] * 200
    with pytest.raises(TemplateError, match="steps"):
        go(greedy, *turns)


PIECES = st.sampled_from(
    ["{{", "}}", "{{-", "-}}", " ", "\n", "if ", "else", "end", "range ", "with ", "define ",
     "template ", "block ", "break", "continue", '"a"', "`b`", "'c'", "$x", "$", ":=", "=", "|",
     "(", ")", ",", ".", ".Messages", ".Content", ".Role", ".Tools", ".Response", ".Prompt", "1",
     "-2.5", "999999999", "nil", "true", "and ", "or ", "eq ", "len ", "index ", "slice ",
     "printf ", '"%*d%v"', "print ", "json ", "/*", "*/", "text", "é", "\\", "{{ end }}",
     "{{ range .Messages }}", "{{ .Content }}", "{{ if .Role }}", "{{ else }}"]
)  # fmt: skip
TALK = [SYSTEM, user("hi"), bot("yo", thinking="hm", tool_calls=(CALL,)), Message("tool", "1")]


@settings(max_examples=400, deadline=2000)
@given(st.lists(PIECES, max_size=30).map("".join))
def test_no_text_makes_it_crash_or_hang(template):
    with contextlib.suppress(ApplianceError):
        go(template, *TALK, tools=[WEATHER], think="low")


@settings(max_examples=100, deadline=2000)
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool", ""]),
                          st.sampled_from(["", "a", "b\n"])), max_size=8))  # fmt: skip
def test_any_order_of_roles_renders(turns):
    messages = [Message(role, content) for role, content in turns]
    for template in (CHATML, LEGACY, "{{ .Prompt }}"):
        go(template, *messages)
