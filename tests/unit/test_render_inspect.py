"""chat/render/inspect.py: which tags a template's thinking and calls stand in."""

import pytest

from appliance.chat.render.inspect import thinking_tags, tool_call_tag
from tests.unit.test_render_go import CHATML, LEGACY

JINJA_CALLS = (
    "{%% for m in messages %%}[{{ m.role }}] {%% if m.tool_calls %%}{%% for c in m.tool_calls %%}"
    "%s{%% endfor %%}{%% else %%}{{ m.content }}{%% endif %%}\n{%% endfor %%}"
)
NAMED = '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'


@pytest.mark.parametrize(
    ("template", "tag"),
    [
        (CHATML, "<tool_call>"),
        (LEGACY, ""),
        ("{{ range .Messages }}{{ if .ToolCalls }}[TOOL_CALLS] [{{ range .ToolCalls }}"
         '{"name": 1}{{ end }}]{{ end }}{{ end }}', "[TOOL_CALLS] ["),
        ('{{ range .Messages }}{{ range .ToolCalls }}{"name": 1}{{ end }}{{ end }}', ""),
        ("{{ range .Messages }}{{ if .ToolCalls }}{{ .ToolCalls }}<x>{{ end }}{{ end }}", ""),
        ("{{ range .Messages }}{{ if .Content }}{{ .Content }}{{ else if .ToolCalls }}"
         "{{ range .ToolCalls }}<f>\n{{ end }}{{ end }}{{ end }}", "<f>"),
        ("{{ broken", ""),
    ],
)  # fmt: skip
def test_tool_call_tags_of_go_templates(template, tag):
    assert tool_call_tag(template, is_go=True) == tag


@pytest.mark.parametrize(
    ("template", "tag"),
    [
        (JINJA_CALLS % f"<tool_call>\n{NAMED}\n</tool_call>", "<tool_call>"),
        (JINJA_CALLS % f"[TOOL_CALLS] [{NAMED}]", "[TOOL_CALLS]"),
        (JINJA_CALLS % NAMED, ""),
        (JINJA_CALLS % "<function={{ c.function.name }}>", "<function="),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", ""),
        ("{{ raise_exception('no') }}", ""),
        ("{% broken", ""),
    ],
)
def test_tool_call_tags_of_jinja_templates(template, tag):
    assert tool_call_tag(template, is_go=False) == tag


@pytest.mark.parametrize(
    ("template", "is_go", "tags"),
    [
        (CHATML, True, ("<think>", "</think>")),
        ("{{ range .Messages }}{{ if 1 }}bot: [T]\n{{ .Thinking }}[/T] and more {{ end }}{{ end }}",
         True, ("[T]", "[/T]")),
        ("{{ range $m := .Messages }}{{ if 1 }}<t>{{ $m.Thinking }}</t>{{ end }}{{ end }}",
         True, ("<t>", "</t>")),
        ("{{ range .Messages }}{{ .Thinking }}{{ end }}", True, None),
        ("{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}", True, None),
        (LEGACY, True, None),
        ("{{ broken", True, None),
        ("{{ '<think>' + x + '</think>' }}", False, ("<think>", "</think>")),
        ("{{ x.split('</think>')[-1] }}", False, ("<think>", "</think>")),
        ("{{ x.split('</think>')[-1] }}{{ m.reasoning_content }}", False, None),
        ("[THINK]{{ x }}[/THINK]", False, ("[THINK]", "[/THINK]")),
        ("{# <think></think> #}{{ x }}", False, None),
        ("{% if reasoning_effort %}x{% endif %}", False, None),
        ("{% broken", False, None),
    ],
)  # fmt: skip
def test_thinking_tags(template, is_go, tags):
    assert thinking_tags(template, is_go=is_go) == tags
