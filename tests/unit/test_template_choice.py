"""templates/choice.py: which template renders, in Ollama's order, and what people are told."""

import pytest

from appliance.chat.events import Message
from appliance.chat.render.inputs import RenderInput
from appliance.chat.render.template import render
from appliance.templates.builtin import RENDERERS, renderer_text
from appliance.templates.choice import ChatTemplate, Sources, choose_template

GO = "{{ .System }} {{ .Prompt }}"
GO_TOOLS = "{{ .Tools }}{{ range .Messages }}{{ .Content }}{{ end }}"
GO_THINKS = (
    "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}"
    "{{ .Content }}{{ end }}"
)
GO_RESULTS = (
    '{{ .Tools }}{{ range .Messages }}{{ if eq .Role "tool" }}{{ .Content }}{{ end }}'
    "{{ .ToolCalls }}{{ end }}"
)
GO_BROKEN = "{{ .Tools"
JINJA = "{{ messages }}"
JINJA_TOOLS = "{{ tools }}{{ messages }}"
JINJA_BOTH = "{{ tools }}{{ messages }}<think></think>"
JINJA_RESULTS = (
    "{{ tools }}{% for m in messages %}{{ m.tool_calls }}"
    "{% if m.role == 'tool' %}{{ m.content }}{% endif %}{% endfor %}"
)
JINJA_ALL = JINJA_RESULTS + "<think></think>"


def chosen(**sources):
    return choose_template(Sources(**sources))


@pytest.mark.parametrize(
    ("template", "jinja", "is_go"),
    [
        (GO, "", True),
        (" \n", JINJA, False),
        (GO, JINJA, True),
        (GO, JINJA_TOOLS, False),
        (GO_TOOLS, JINJA_TOOLS, True),
        (GO_TOOLS, JINJA_BOTH, False),
        (GO_TOOLS, JINJA_RESULTS, False),
        (GO_RESULTS, JINJA_RESULTS, True),
        (GO_RESULTS, JINJA_BOTH, True),  # more words, but the way back from tools would be lost
        (GO_RESULTS, JINJA_ALL, False),
        (GO_THINKS, JINJA_TOOLS, True),  # as many words, others
        (GO_THINKS, JINJA_ALL, False),
        (GO_BROKEN, JINJA_TOOLS, False),
        (GO, "{% broken tools", True),
    ],
)
def test_a_gguf_that_can_do_more_goes_before_the_template(template, jinja, is_go):
    found = chosen(template=template, jinja=jinja)
    assert found == ChatTemplate(template if is_go else jinja, is_go=is_go)
    assert chosen(template=template, jinja=jinja, go_template="on").is_go == bool(template.strip())
    assert chosen(template=template, jinja=jinja, go_template="off").is_go == (not jinja)


@pytest.mark.parametrize("pin", [{"parser": "qwen3"}, {"architecture": "gptoss"}])
def test_a_parser_keeps_the_template_that_it_was_made_for(pin):
    assert chosen(template=GO, jinja=JINJA_ALL, **pin).is_go
    assert not chosen(jinja=JINJA_ALL, **pin).is_go


@pytest.mark.parametrize("name", RENDERERS)
def test_a_renderer_goes_before_what_the_model_brings(name):
    found = chosen(renderer=name, template=GO, jinja=JINJA_ALL)
    assert found == ChatTemplate(renderer_text(name), is_go=False)
    assert found.why == f"prompts: RENDERER {name}"


def test_a_request_goes_before_all():
    sources = Sources(renderer=RENDERERS[0], template=GO, jinja=JINJA)
    assert choose_template(sources, "mine") == ChatTemplate("mine")


def test_a_renderer_of_a_newer_ollama_is_replaced_if_anything_is_there():
    new = {"renderer": "qwen9", "template": "{{ .Prompt }}"}
    assert chosen(**new, jinja=JINJA) == ChatTemplate(JINJA, is_go=False)
    assert "for RENDERER qwen9 is none of deepseek3.1" in chosen(**new, jinja=JINJA).why
    assert chosen(renderer="qwen9", template=GO) == ChatTemplate(GO)
    problem = chosen(**new).problem
    assert problem.startswith("RENDERER qwen9 is none of deepseek3.1, functiongemma, qwen3-coder")
    assert problem.endswith("and the model has no other template")


def test_what_is_told():
    assert chosen(template=GO, jinja=JINJA).why == "prompts: the Modelfile's TEMPLATE"
    assert chosen(jinja=JINJA).why == "prompts: the GGUF's own template"
    assert chosen(template=GO, jinja=JINJA_ALL).why == (
        "prompts: the GGUF's own template, which has tools and thinking, the Modelfile's TEMPLATE"
        " not (setting go_template)"
    )
    assert "takes results of tools" in chosen(template=GO_TOOLS, jinja=JINJA_RESULTS).why
    assert "go_template is off" in chosen(template=GO, jinja=JINJA, go_template="off").why
    assert "no template" in chosen().why
    assert render(chosen(), RenderInput([Message("user", "hi")])) == "hi"
