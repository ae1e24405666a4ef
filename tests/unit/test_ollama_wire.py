"""Ollama's bodies: from JSON to jobs, from events to JSON."""

import math

import pytest

from appliance.access.shares import Share
from appliance.chat.events import Completion, Done, Message
from appliance.errors import BadRequestError, RequestTooLargeError
from appliance.http import ollama_wire as wire
from appliance.http.body import to_struct
from appliance.http.errors import OptionError
from appliance.http.fields import constraint_of, keep_alive_of
from appliance.library.names import ModelName
from engine.api import Constraint, TokenLogprob

ME = Share(path=("key:me", ""))


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


@pytest.mark.parametrize(
    ("fields", "ability"),
    [
        ({}, None),
        ({"think": False}, None),
        ({"think": True}, "thinking"),
        ({"think": "low"}, "thinking"),
        ({"images": ["aGk="]}, "vision"),
        ({"images": []}, None),
        ({"suffix": "x"}, "insert"),
    ],
)
def test_abilities_that_generate_lacks(fields, ability):
    assert to_struct(fields, wire.GenerateRequest).refused_ability() == ability


@pytest.mark.parametrize(
    ("fields", "ability"),
    [
        ({"tools": []}, None),
        ({"tools": [{}]}, "tools"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "tools"),
        ({"messages": [{"role": "tool", "tool_name": "f", "content": "x"}]}, "tools"),
        ({"messages": [{"role": "user", "images": ["aGk="]}]}, "vision"),
        ({"messages": [{"role": "assistant", "thinking": "hm", "content": "x"}]}, None),
    ],
)
def test_abilities_that_chat_lacks(fields, ability):
    assert to_struct(fields, wire.ChatRequest).refused_ability() == ability


def test_texts_of_refusals():
    name = ModelName.parse("x")
    full = "registry.ollama.ai/library/x:latest does not support"
    assert wire.refusal("tools", "x", name) == f"{full} tools"
    assert wire.refusal("insert", "x", name) == f"{full} insert"
    assert wire.refusal("thinking", "x", name) == '"x" does not support thinking'


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


def test_zero_values_are_left_out_of_answers():
    done = Done(reason="stop", total_ns=5, output_tokens=2, prompt_tokens=0)
    answer = wire.generate_answer("m", "", True, wire.metrics_of(done))
    assert answer.keys() == {
        "model",
        "created_at",
        "response",
        "done",
        "done_reason",
        "total_duration",
        "eval_count",
    }
    assert wire.chat_answer("m", "", False, {})["message"] == {"role": "assistant", "content": ""}


def test_logprobs_of_an_answer():
    entry = TokenLogprob(7, b"\xe2\x82", -0.5, [(7, b"\xe2\x82", -0.5), (8, b"a", -1.0)])
    token = {"token": "\ufffd", "logprob": -0.5, "bytes": [0xE2, 0x82]}
    assert wire.logprobs_of([entry], 0) == [token]
    assert wire.logprobs_of([entry], 1) == [token | {"top_logprobs": [token]}]


def test_timestamps_have_nanoseconds_and_utc():
    assert wire.timestamp(1_700_000_000_000_000_042) == "2023-11-14T22:13:20.000000042Z"
