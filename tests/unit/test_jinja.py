"""chat/render: templates as models ship them, and templates as an attacker would."""

from datetime import UTC, datetime

import pytest

from appliance.chat.events import Message
from appliance.chat.render.inputs import RenderInput
from appliance.chat.render.jinja import render_jinja
from appliance.errors import BadRequestError, TemplateError


def render_chat(template, messages, **given):
    return render_jinja(template, RenderInput(messages, **given))


TALK = [Message("system", "Be brief."), Message("user", "<b>hi</b>"), Message("assistant", "Yes?")]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content"
    " + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

DOUBLE = "{{% set ns = namespace(x={start}) %}}{{% for i in range(64) %}}{{% set ns.x = {grow} %}}"
END = "{% endfor %}{{ ns.x }}"


def grow(start, step):
    return DOUBLE.format(start=start, grow=step) + END


def test_chatml():
    assert render_chat(CHATML, TALK) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<b>hi</b><|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ bos_token }}{{ messages[0].content | trim }}{{ eos_token }}", "<s>Be brief.</s>"),
        ("{% if tools is none %}no tools{% endif %}", "no tools"),
        ("{{ strftime_now('%d %b %Y') }}", "05 Mar 2026"),
        ("{{ messages[1] | tojson }}", '{"role": "user", "content": "<b>hi</b>"}'),
        ("{% for m in [1, 2] %}{% if loop.last %}{% break %}{% endif %}{% continue %}{% endfor %}x",
         "x"),
        ("{%- macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) ~ f('a') }}", "[1][a]"),
        ("{% set a, b = (1, [2]) %}{{ a + b[0] }}", "3"),
        ("{{ ['a', 'b'] | join(', ') }}{{ 'xyx'.replace('x', 'ab') }}", "a, babyab"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}",
         "['<b>hi</b>']"),
        ("{% for m in messages[::-1] %}{{ loop.index0 }}{% endfor %}", "012"),
        ("{{ 'a' * 3 + '%d' }}{{ 7 % 4 }}{{ 2 * 3 }}", "aaa%d36"),
        ("{{ messages[0]['content'].split(' ')[0].upper() }}", "BE"),
        ("{% set x %}in{{ 1 }}{% endset %}{{ x }}", "in1"),
    ],
)  # fmt: skip
def test_language(template, text):
    now = datetime(2026, 3, 5, tzinfo=UTC)
    assert render_chat(template, TALK, bos_token="<s>", eos_token="</s>", now=lambda: now) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ (messages|map(attribute='__class__')|list)[0].mro() }}",
        "{{ raise_exception.__globals__.values() }}",
        "{{ ''.format.__self__.__class__.mro() }}",
        "{% import 'os' as os %}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_python_is_out_of_reach(template):
    with pytest.raises(TemplateError):
        render_chat(template, TALK)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for m in messages recursive %}{{ loop([m]) }}{% endfor %}",
        "{{ range(10**9) | list }}",
        "{{ 'a' * 10000000000 }}",
        "{{ [0] * 10000000000 }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '{:>10000000000}'.format(1) }}",
        "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
        "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
        "{{ (['a'] * 100000) | join('b' * 100000) }}",
        grow("'a' * 1000", "ns.x ~ ns.x"),
        grow("'a' * 1000", "ns.x + ns.x"),
        grow("'a' * 1000", "(ns.x, ns.x) | join"),
        grow("'a' * 1000", "ns.x | list | string"),
        grow("[1]", "ns.x + ns.x"),
        grow("[1]", "[ns.x, ns.x]"),
        grow("[[1]]", "[ns.x, ns.x] | sum(start=[])"),
        grow("{'a': 1}", "{'a': ns.x, 'b': ns.x}"),
        grow("{'a': 1}", "dict(a=ns.x, b=ns.x)"),
        grow("9", "ns.x * ns.x"),
        grow("namespace(a=1)", "namespace(a=ns.x, b=ns.x)"),
        DOUBLE.format(start="'a'", grow="ns.x")
        + "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
        "{% for i in range(90000) %}{{ 'a' * 100000 }}{% endfor %}",
        "{" * 100_000,
        "{{ " + "(" * 5000 + ")" * 5000 + " }}",
        "{% for x in y %}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
    ],
    ids=lambda template: template[:40],
)
def test_bombs_and_mistakes_end_in_one_error(template):
    with pytest.raises(TemplateError):
        render_chat(template, TALK)


def test_template_may_refuse_a_conversation_in_its_own_words():
    with pytest.raises(BadRequestError, match="roles must alternate"):
        render_chat("{{ raise_exception('roles must alternate') }}", TALK)


def test_limits_are_per_rendering():
    loop = "{% for i in range(90000) %}{% endfor %}ok"
    assert [render_chat(loop, TALK) for _ in range(4)] == ["ok"] * 4


def test_long_conversation_is_far_from_the_limits():
    talk = [Message("user", "word " * 200) for _ in range(4000)]
    assert len(render_chat(CHATML, talk)) > 4_000_000
