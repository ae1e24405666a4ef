"""Any JSON in the bodies of Anthropic's messages and OpenAI's Responses: read, or one sentence.

The values are those that the bodies know, in places where they do not belong.
"""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.access.shares import BOX_SHARE
from appliance.errors import BadRequestError
from appliance.http import anthropic_wire, responses_wire
from appliance.http.body import to_struct

WORDS = [
    *("user", "assistant", "system", "developer", "tool", "message", "text", "input_text"),
    *("output_text", "image", "input_image", "base64", "url", "tool_use", "tool_result"),
    *("thinking", "redacted_thinking", "reasoning", "function", "function_call", "custom"),
    *("function_call_output", "enabled", "adaptive", "any", "required", "json_schema", "f", "{}"),
    *("low", "clear_thinking_20251015", "auto", "data:image/png;base64,aGk=", ""),
]
KEYS = [
    *("type", "role", "content", "text", "source", "data", "id", "name", "input", "tool_use_id"),
    *("is_error", "thinking", "budget_tokens", "display", "call_id", "arguments", "output"),
    *("summary", "image_url", "input_schema", "parameters", "schema", "format", "effort", "edits"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=14,
)
ANTHROPIC = (
    *("messages", "system", "tools", "tool_choice", "thinking", "output_config", "metadata"),
    *("context_management", "stop_sequences", "max_tokens", "mcp_servers", "output_format"),
)
RESPONSES = (
    *("input", "instructions", "tools", "tool_choice", "reasoning", "text", "truncation"),
    *("include", "store", "metadata", "max_output_tokens", "parallel_tool_calls"),
)


def fields_of(names):
    return st.dictionaries(st.sampled_from(names), JSON, max_size=4)


@given(fields_of(ANTHROPIC))
def test_messages(given_fields):
    known = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    with contextlib.suppress(BadRequestError):
        fields = known | given_fields
        anthropic_wire.refuse_fields(fields)
        to_struct(fields, anthropic_wire.MessagesRequest).to_job(BOX_SHARE, 100)


@given(fields_of(RESPONSES))
def test_responses(given_fields):
    with contextlib.suppress(BadRequestError):
        fields = {"model": "m", "input": "hello"} | given_fields
        responses_wire.refuse_fields(fields)
        to_struct(fields, responses_wire.ResponsesRequest).to_job(BOX_SHARE, 100)


@given(st.lists(JSON, max_size=4))
def test_turns(entries):
    """More often deep inside of a message than the above."""
    messages = [{"role": "user", "content": entries}, {"role": "assistant", "content": entries}]
    for fields in ({"messages": [m, messages[0]]} for m in messages):
        with contextlib.suppress(BadRequestError):
            body = to_struct({"model": "m", **fields}, anthropic_wire.CountRequest)
            body.to_job(BOX_SHARE, 100)
    with contextlib.suppress(BadRequestError):
        body = to_struct({"model": "m", "input": entries}, responses_wire.ResponsesRequest)
        body.to_job(BOX_SHARE, 100)


@pytest.mark.parametrize("odd", [[], {}, 5, True, None])
def test_a_word_that_is_none(odd):
    """What cannot be looked up in a table, where a word is looked up."""
    turns = [{"role": odd, "content": "x"}]
    edits = {"edits": [{"type": odd}]}
    for fields in ({"messages": turns}, {"context_management": edits}):
        known = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        with pytest.raises(BadRequestError):
            to_struct(known | fields, anthropic_wire.CountRequest).to_job(BOX_SHARE, 100)
    for item in ({"role": odd, "content": "x"}, {"role": "user", "content": [{"type": odd}]}):
        body = to_struct({"model": "m", "input": [item]}, responses_wire.ResponsesRequest)
        with pytest.raises(BadRequestError):
            body.to_job(BOX_SHARE, 100)
