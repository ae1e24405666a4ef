"""What does a prompt cost: rendering conversations, and compiling a template the first time?

In this process, without an engine. The templates are our own, in the shape of a family's: turns
between marks, tools, calls, thinking of old turns; and the built-in renderers.
"""

from __future__ import annotations

import argparse
import time

import harness

from appliance.chat.events import Message, Tool, ToolCall
from appliance.chat.render.inputs import RenderInput
from appliance.chat.render.template import render
from appliance.templates.builtin import RENDERERS, renderer_text
from appliance.templates.choice import ChatTemplate
from appliance.templates.go.compiler import compile_tree
from appliance.templates.go.functions import NAMES
from appliance.templates.go.parser import parse

GO = """\
{{- range $i, $m := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "system" }}<|im_start|>system
{{ .Content }}{{ if $.Tools }}{{ range $.Tools }}
{{ . }}{{ end }}{{ end }}<|im_end|>
{{ else if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if and .Thinking (and $.IsThinkSet $.Think) }}<think>{{ .Thinking }}</think>
{{ end }}{{ .Content }}{{ range .ToolCalls }}
<tool_call>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}{{ else if eq .Role "tool" }}<|im_start|>user
<tool_response>{{ .Content }}</tool_response><|im_end|>
{{ end }}{{ if and $last (ne .Role "assistant") }}<|im_start|>assistant
{{ end }}{{ end }}"""
JINJA = """\
{%- for message in messages -%}
{%- if message.role == 'tool' -%}<|im_start|>user
<tool_response>{{ message.content }}</tool_response><|im_end|>
{% else -%}<|im_start|>{{ message.role }}
{{ message.content }}
{%- if loop.first and tools %}{% for tool in tools %}
{{ tool | tojson }}{% endfor %}{% endif -%}
{%- for call in message.tool_calls or [] %}
<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
{%- endfor -%}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""
LEGACY = (
    "{{ if .System }}<<SYS>>{{ .System }}<</SYS>>\n{{ end }}[INST] {{ .Prompt }} [/INST] "
    "{{ .Response }}</s>"
)
WORDS = "The box keeps its models on disk and answers every device on the site. " * 4


def conversation(count: int) -> list[Message]:
    """`count` messages: a system text, then question, call, result, answer over and over."""
    call = ToolCall("weather", {"city": "Bern", "unit": "C", "days": 3}, "call_1")
    turns = [
        Message("user", WORDS),
        Message("assistant", "", thinking=WORDS, tool_calls=(call,)),
        Message("tool", '{"temperature": 21}', tool_name="weather", tool_call_id="call_1"),
        Message("assistant", WORDS),
    ]
    return [Message("system", WORDS), *(turns[i % 4] for i in range(count - 1))]


def tools(count: int) -> list[Tool]:
    properties = {"city": {"type": "string", "description": WORDS}, "days": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["city"]}
    return [Tool(f"tool_{i}", WORDS, schema) for i in range(count)]


def spread_ms(work: object, rounds: int) -> harness.Spread:
    assert callable(work)
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1e3)
    return harness.Spread.of(times)


def main(argv: list[str] | None = None) -> None:
    parser = harness.arguments("Cost of rendering prompts")
    options: argparse.Namespace = parser.parse_args(argv)
    rounds = 20 if options.quick else 200
    go, jinja, legacy = ChatTemplate(GO), ChatTemplate(JINJA, is_go=False), ChatTemplate(LEGACY)
    cases = {
        "Go, 100 messages": (go, RenderInput(conversation(100))),
        "Go, 100 messages, 20 tools": (go, RenderInput(conversation(100), tools(20), think=True)),
        "Go, 1000 messages": (go, RenderInput(conversation(1000))),
        "Go, .Prompt and .Response, 100 messages": (legacy, RenderInput(conversation(100))),
        "Jinja, 100 messages": (jinja, RenderInput(conversation(100))),
        "Jinja, 100 messages, 20 tools": (jinja, RenderInput(conversation(100), tools(20))),
    }
    for renderer in RENDERERS:
        built_in = ChatTemplate(renderer_text(renderer), is_go=False)
        cases |= {
            f"{renderer}, 100 messages": (built_in, RenderInput(conversation(100))),
            f"{renderer}, 100 messages, 20 tools": (
                built_in,
                RenderInput(conversation(100), tools(20)),
            ),
        }
    rows, measured = [], {}
    for name, (template, given) in cases.items():
        render(template, given)  # compiled now, and kept
        spread = spread_ms(lambda t=template, g=given: render(t, g), rounds)
        rows.append([name, f"{spread.text(2)} ms"])
        measured[f"{name}, ms"] = spread.median
    spread = spread_ms(lambda: compile_tree(parse(GO, NAMES)), rounds)
    rows.append([f"compiling the Go template ({len(GO)} characters)", f"{spread.text(2)} ms"])
    measured["compile, ms"] = spread.median
    conditions = harness.machine() | {"rounds": rounds}
    harness.report("render", conditions, ["rendering", "measured"], rows, measured)


if __name__ == "__main__":
    main()
