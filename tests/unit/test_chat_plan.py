"""appliance/chat/plan: what is forced on an answer is what the family's own parser reads."""

import json

import pytest

from appliance.chat.events import CallDone, CallStarted, JobRequest, Text, Tool, ToolChoice
from appliance.chat.plan import make_plan, offered_tools
from appliance.errors import BadRequestError
from engine.api import Constraint
from engine.llama.gbnf import check
from engine.llama.schema import schema_to_gbnf
from tests.unit.test_parse_tools import FAMILIES, TOOLS, WEATHER

REQUIRED, NAMED = ToolChoice("required"), ToolChoice("named", "get_weather")


def plan_of(family, prompt="p", **request):
    return make_plan(JobRequest(model="m", work=None, **request), FAMILIES[family], prompt)


def said(plan, answer):
    parser = plan.parser()
    return [*parser.feed(plan.prefix), *parser.feed(answer), *parser.finish()]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("tools", "choice"), [(TOOLS, REQUIRED), (TOOLS, NAMED), ((WEATHER,), REQUIRED)]
)
def test_a_forced_call_is_read_by_the_familys_parser(family, tools, choice):
    plan = plan_of(family, tools=tools, tool_choice=choice)
    schema = json.loads(plan.constraint.source)
    check(schema_to_gbnf(plan.constraint.source))
    is_named = "get_weather" in plan.prefix
    assert is_named != ("get_weather" in json.dumps(schema))
    arguments = {"city": "Bern"}
    whole = arguments if is_named else {"name": "get_weather", "arguments": arguments}
    events = said(plan, json.dumps(whole))
    (call,) = (event.call for event in events if isinstance(event, CallDone))
    assert (call.name, call.arguments) == ("get_weather", arguments)
    assert not any(isinstance(event, Text) for event in events)


def test_references_of_parameters_lead_to_where_they_stand_now():
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    parameters = {"properties": {"list": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}}
    tools = tuple(Tool(name, parameters=parameters) for name in ("a", "b"))
    plan = plan_of("hermes", tools=tools, tool_choice=REQUIRED)
    check(schema_to_gbnf(plan.constraint.source))
    second = json.loads(plan.constraint.source)["anyOf"][1]["properties"]["arguments"]
    assert second["properties"]["list"] == {"$ref": "#/anyOf/1/properties/arguments/$defs/node"}


def test_parameters_without_end_are_refused():
    deep = {"type": "string"}
    for _ in range(400):
        deep = {"items": deep}
    tool = Tool("a", parameters={"properties": {"x": deep}})
    with pytest.raises(BadRequestError, match="more than 64 deep"):
        plan_of("hermes", tools=(tool,), tool_choice=REQUIRED)


def test_thinking_comes_first_where_something_is_forced():
    form = Constraint(kind="json")
    assert plan_of("qwen3", constraint=form).thinks_first
    assert plan_of("harmony", constraint=form).thinks_first
    assert plan_of("qwen3", thinking_budget=9).thinks_first
    assert not plan_of("qwen3").thinks_first
    assert not plan_of("qwen3", constraint=form, think=False).thinks_first
    assert not plan_of("hermes", constraint=form).thinks_first


@pytest.mark.parametrize("wish", [{"think": False}, {"thinking_budget": 0}])
def test_thinking_that_the_template_opened_is_closed(wish):
    plan = plan_of("qwen3", "assistant\n<think>\n", **wish)
    assert (plan.closing.strip(), plan.is_opened) == ("</think>", False)
    assert plan_of("qwen3", "assistant\n", **wish).closing == ""
    assert plan_of("qwen3", "assistant\n<think>\n").is_opened


def test_an_answer_in_a_form_is_no_call():
    plan = plan_of("bare", tools=TOOLS, constraint=Constraint(kind="json"))
    answer = '{"name": "get_time", "arguments": {}}'
    assert said(plan, answer) == [Text(answer)]


def test_a_harmony_answer_in_a_form_stands_in_the_final_channel():
    plan = plan_of("harmony", constraint=Constraint(kind="json"), think=False)
    assert said(plan, '{"a": 1}') == [Text('{"a": 1}')]
    plan = plan_of("harmony", tools=TOOLS, tool_choice=NAMED)
    assert isinstance(said(plan, "{}")[0], CallStarted)


def test_none_offers_nothing():
    request = JobRequest(model="m", work=None, tools=TOOLS, tool_choice=ToolChoice("none"))
    assert offered_tools(request) == ()
