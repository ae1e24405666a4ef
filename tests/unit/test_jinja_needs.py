"""chat/render: conversations made to suit what a Jinja template demands, and only then."""

import pytest

from appliance.chat.events import Message, ToolCall
from appliance.chat.render.inputs import RenderInput
from appliance.chat.render.jinja import render_jinja
from appliance.chat.render.jinja_needs import Needs, needs_of
from appliance.errors import BadRequestError, TemplateError

PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    + PLAIN
)
CALLS = (
    "{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "<{{ c.function.name }}|%s|{{ c.id }}>{% endfor %}{% else %}[{{ m.role }}]{{ m.content }}"
    "{{ m.tool_call_id }}{% endif %}{% endfor %}"
)
OBJECTS = CALLS.replace("%s", "{{ c.function.arguments | tojson }}")
EITHER = CALLS.replace(
    "%s",
    "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}"
    "{{ c.function.arguments | tojson }}{% endif %}",
)
TEXT = CALLS.replace("%s", "{{ '!' + c.function.arguments }}")
PRINTED = CALLS.replace("%s", "{{ c.function.arguments }}")
SHORT = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}"
    "{{ raise_exception('nine') }}{% endif %}{% endfor %}{% endfor %}" + OBJECTS
)
BROKEN = "{{ raise_exception('never') }}"
CALL = ToolCall("weather", {"city": "Bern"}, "call_abc-defghijk")
TALK = (
    Message("user", "?"),
    Message("assistant", "", tool_calls=(CALL, ToolCall("weather", {}))),
    Message("tool", "1", tool_call_id="call_abc-defghijk"),
    Message("tool", "2"),
)


@pytest.mark.parametrize(
    ("template", "needs"),
    [
        (PLAIN, Needs()),
        (NO_SYSTEM, Needs(no_system=True)),
        (OBJECTS, Needs()),
        (EITHER, Needs()),
        (TEXT, Needs(text_arguments=True)),
        (PRINTED, Needs(text_arguments=True)),
        (SHORT, Needs(short_ids=True)),
        (BROKEN, Needs()),
        ("{% broken", Needs()),
    ],
)
def test_needs(template, needs):
    assert needs_of(template) == needs


@pytest.mark.parametrize("template", [OBJECTS, EITHER])
def test_arguments_are_objects_where_that_works(template):
    assert render_jinja(template, RenderInput(TALK)) == (
        '[user]?<weather|{"city": "Bern"}|call_abc-defghijk><weather|{}|>'
        "[tool]1call_abc-defghijk[tool]2"
    )


def test_arguments_are_text_where_the_template_joins_them():
    assert '<weather|!{"city": "Bern"}|' in render_jinja(TEXT, RenderInput(TALK))
    assert '<weather|{"city": "Bern"}|' in render_jinja(PRINTED, RenderInput(TALK))


def test_ids_are_cut_and_made_where_the_template_counts_their_letters():
    before = tuple(TALK)
    assert render_jinja(SHORT, RenderInput(TALK)) == (
        '[user]?<weather|{"city": "Bern"}|cdefghijk><weather|{}|call00001>'
        "[tool]1cdefghijk[tool]2call00001"
    )
    assert before == TALK


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([Message("system", "S"), Message("user", "a"), Message("user", "b")],
         "[user]S\n\na[user]b"),
        ([Message("system", "S"), Message("assistant", "a")], "[user]S[assistant]a"),
        ([Message("system", ""), Message("user", "a")], "[user]a"),
        ([Message("user", "a")], "[user]a"),
    ],
)  # fmt: skip
def test_a_system_message_goes_in_front_of_the_question_where_it_has_no_place(messages, text):
    assert render_jinja(NO_SYSTEM, RenderInput(messages)) == text


def test_a_refusal_for_another_reason_stays_one():
    with pytest.raises(BadRequestError, match="refuses this conversation: never"):
        render_jinja(BROKEN, RenderInput([Message("system", "S"), *TALK]))
    with pytest.raises(TemplateError):
        render_jinja("{% broken", RenderInput([Message("system", "S")]))
