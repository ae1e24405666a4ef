"""Ollama's bodies: from JSON to jobs, from events to JSON."""

import math

import pytest

from appliance.access.shares import Share
from appliance.chat.events import Completion, Message, ToolCall, ToolChoice
from appliance.chat.plan import abilities_of, check_abilities
from appliance.errors import BadRequestError, RequestTooLargeError, UnsupportedError
from appliance.http import ollama_wire as wire
from appliance.http.body import to_struct
from appliance.http.errors import OptionError
from appliance.http.fields import constraint_of, keep_alive_of
from engine.api import Constraint

ME = Share(path=("key:me", ""))
TOOL = {
    "type": "function",
    "function": {"name": "now", "description": "Tells the time", "parameters": {"type": "object"}},
}


def generate_job(**fields):
    body = to_struct({"model": "m", **fields}, wire.GenerateRequest)
    body.check()
    return body.to_job(ME)


def chat_job(**fields):
    body = to_struct({"model": "m", **fields}, wire.ChatRequest)
    body.check()
    return body.to_job(ME, max_messages=10)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        (300, 300),
        (2.5, 2.5),
        (-1, math.inf),
        (-0.5, math.inf),
        ("5m", 300),
        ("1h30m", 5400),
        ("-1s", math.inf),
        ("0", 0),
        (1e300, math.inf),
        ("999999999h", math.inf),
    ],
)
def test_keep_alive_forms(value, seconds):
    assert keep_alive_of(value) == seconds


@pytest.mark.parametrize("value", [True, [], {}])
def test_keep_alive_of_a_wrong_type(value):
    with pytest.raises(BadRequestError, match=r"^Unsupported type: '"):
        keep_alive_of(value)


@pytest.mark.parametrize("value", ["", "soon", "5 m", "5x", "m5"])
def test_keep_alive_that_is_no_duration(value):
    with pytest.raises(BadRequestError, match="invalid duration"):
        keep_alive_of(value)


def test_format_forms():
    assert constraint_of(None) is None
    assert constraint_of("") is None
    assert constraint_of("json") == Constraint(kind="json")
    assert constraint_of({"type": "object"}) == Constraint(
        kind="schema", source='{"type":"object"}'
    )


@pytest.mark.parametrize("value", ["yaml", 1, True, [], ["json"]])
def test_a_bad_format_is_named(value):
    with pytest.raises(OptionError, match=r'^invalid format: .*; expected "json" or a valid JSON'):
        constraint_of(value)


def test_huge_and_deep_schemas_are_refused():
    with pytest.raises(RequestTooLargeError, match="bytes"):
        constraint_of({"description": "x" * 70_000})
    schema = {"type": "string"}
    for _ in range(40):
        schema = {"items": schema}
    with pytest.raises(RequestTooLargeError, match="deeper"):
        constraint_of(schema)


def test_a_prompt_becomes_a_completion():
    job = generate_job(prompt="hi", system="be", context=[1, 2], options={"top_k": 3.0, "odd": 1})
    assert job.work == Completion(prompt="hi", system="be", context=(1, 2))
    assert job.options == {"top_k": 3}
    assert job.share is ME
    assert job.logprobs is None


def test_an_empty_prompt_only_loads():
    assert generate_job().work is None
    assert chat_job(messages=[]).work is None
    assert generate_job(keep_alive=0).keep_alive == 0


def test_null_fields_are_absent():
    job = generate_job(prompt="hi", system=None, options=None, keep_alive=None, format=None)
    assert job.work == Completion(prompt="hi")


def test_roles_are_lower_case_and_content_may_be_null():
    job = chat_job(messages=[{"role": "User", "content": "a"}, {"role": "x", "content": None}])
    assert job.work == (Message("user", "a"), Message("x", ""))


def test_too_many_messages_are_refused():
    with pytest.raises(RequestTooLargeError, match="11 entries, 10 are allowed"):
        chat_job(messages=[{"role": "user", "content": "a"}] * 11)


@pytest.mark.parametrize("number", [-1, 21])
def test_top_logprobs_out_of_range(number):
    with pytest.raises(BadRequestError, match=r"^top_logprobs must be between 0 and 20$"):
        generate_job(top_logprobs=number)


def test_logprobs():
    assert generate_job(prompt="a", logprobs=True).logprobs == 0
    assert generate_job(prompt="a", logprobs=True, top_logprobs=4).logprobs == 4
    assert generate_job(prompt="a", top_logprobs=4).logprobs is None


@pytest.mark.parametrize("extra", [{"template": "t"}, {"system": "s"}, {"context": [1]}])
def test_raw_excludes_what_a_template_would_use(extra):
    text = "^raw mode does not support template, system, or context$"
    with pytest.raises(BadRequestError, match=text):
        generate_job(prompt="a", raw=True, **extra)


@pytest.mark.parametrize("token_id", [-1, 2**31])
def test_impossible_token_ids_are_refused(token_id):
    with pytest.raises(BadRequestError, match="token id in 'context'"):
        generate_job(prompt="a", context=[token_id])


@pytest.mark.parametrize("think", ["deep", 1, {}, []])
def test_a_bad_think_value(think):
    with pytest.raises(BadRequestError, match=r'^invalid think value: .*must be "high", "medium"'):
        generate_job(think=think)


@pytest.mark.parametrize("think", [None, True, False, "low", "medium", "high"])
def test_think_goes_into_the_job(think):
    assert chat_job(think=think).think is think
    assert generate_job(prompt="a", think=think).think is think


def test_a_budget_of_thinking():
    assert chat_job(thinking_budget=64).thinking_budget == 64
    with pytest.raises(BadRequestError, match="thinking_budget must be 1 or more tokens, not 0"):
        generate_job(prompt="a", thinking_budget=0)


def test_the_level_max_is_the_highest_that_models_know():
    assert chat_job(think="max").think == "high"


@pytest.mark.parametrize(
    ("fields", "abilities"),
    [
        ({}, []),
        ({"think": False}, []),
        ({"think": True}, ["thinking"]),
        ({"think": "low"}, ["thinking"]),
        ({"images": ["aGk="]}, ["vision"]),
        ({"images": []}, []),
        ({"suffix": "x", "think": True}, ["insert", "thinking"]),
    ],
)
def test_abilities_that_generate_needs(fields, abilities):
    assert abilities_of(generate_job(prompt="a", **fields)) == abilities


@pytest.mark.parametrize(
    ("fields", "abilities"),
    [
        ({"tools": []}, []),
        ({"tools": [TOOL]}, ["tools"]),
        ({"tools": [TOOL], "tool_choice": "none"}, []),
        ({"tools": [TOOL], "think": True}, ["tools", "thinking"]),
        ({"messages": [{"role": "tool", "tool_name": "f", "content": "x"}]}, []),
        ({"messages": [{"role": "user", "images": ["aGk="]}]}, ["vision"]),
        ({"messages": [{"role": "assistant", "thinking": "hm", "content": "x"}]}, []),
    ],
)
def test_abilities_that_chat_needs(fields, abilities):
    assert abilities_of(chat_job(**fields)) == abilities


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"suffix": "x"}, "^full/m:latest does not support insert$"),
        ({"think": True}, '^"m" does not support thinking$'),
        ({"images": ["aGk="]}, '^"m" does not support vision$'),
    ],
)
def test_texts_of_refusals(fields, text):
    with pytest.raises(UnsupportedError, match=text):
        check_abilities(generate_job(prompt="a", **fields), "full/m:latest", ["tools"])
    check_abilities(generate_job(prompt="a", suffix="x", think=True), "", ["insert", "thinking"])


def test_a_model_that_sees_is_asked():
    job = chat_job(messages=[{"role": "user", "images": ["aGk="]}])
    check_abilities(job, "full/m:latest", ["vision"])


def test_everything_of_a_message_is_read():
    call = {"id": "call_1", "function": {"index": 0, "name": "now", "arguments": {"zone": "UTC"}}}
    job = chat_job(
        messages=[
            {"role": "user", "content": "look", "images": ["aGk="]},
            {"role": "assistant", "thinking": "hm", "tool_calls": [call]},
            {"role": "tool", "content": "12:00", "tool_call_id": "call_1"},
        ]
    )
    assert job.work == (
        Message("user", "look", images=(b"hi",)),
        Message("assistant", "", "hm", (ToolCall("now", {"zone": "UTC"}, "call_1"),)),
        Message("tool", "12:00", tool_name="now", tool_call_id="call_1"),
    )


def test_a_prompt_with_a_suffix_and_images():
    job = generate_job(prompt="def f():", suffix="return 1", images=["aGk="])
    assert job.work == Completion(prompt="def f():", suffix="return 1", images=(b"hi",))


def test_tools_and_the_choice_among_them():
    job = chat_job(tools=[TOOL], tool_choice="required")
    (tool,) = job.tools
    assert (tool.name, tool.description) == ("now", "Tells the time")
    assert tool.source == TOOL
    assert job.tool_choice == ToolChoice("required")


@pytest.mark.parametrize(
    ("given", "inputs"),
    [(None, ()), ("", ()), ([], ()), ("a", ("a",)), (["a", "b"], ("a", "b")), ([""], ("",))],
)
def test_inputs_of_embed(given, inputs):
    assert to_struct({"model": "m", "input": given}, wire.EmbedBody).to_embed(ME).inputs == inputs


@pytest.mark.parametrize("given", [1, [1], [None], {"a": 1}, [["a"]]])
def test_bad_inputs_of_embed(given):
    with pytest.raises(BadRequestError, match=r"^invalid input type$"):
        to_struct({"model": "m", "input": given}, wire.EmbedBody).to_embed(ME)


def test_the_older_embeddings_are_not_normalised():
    wanted = to_struct({"model": "m", "prompt": "a"}, wire.EmbeddingsBody).to_embed(ME)
    assert wanted.inputs == ("a",)
    assert not wanted.normalize
