"""Tools, calls and images of the bodies: what is read, and the one sentence for what is not."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.chat.events import Message, ToolCall, ToolChoice
from appliance.errors import BadRequestError, RequestTooLargeError
from appliance.http import tools_wire as wire


def tool(name="now", **fields):
    return {"type": "function", "function": {"name": name, **fields}}


def nested(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def test_a_tool_keeps_its_source_and_the_order_of_its_properties():
    schema = {"type": "object", "properties": {"z": {}, "a": {}}, "required": ["z"]}
    (read,) = wire.tools_of([tool(description="Tells", parameters=schema, strict=True)])
    assert (read.name, read.description) == ("now", "Tells")
    assert list(read.parameters["properties"]) == ["z", "a"]
    assert read.source["function"]["strict"] is True


def test_a_tool_may_have_a_name_alone():
    (read,) = wire.tools_of([{"function": {"name": "a.b/c:d-e_1", "description": None}}])
    assert (read.description, read.parameters) == ("", {})


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("now", r"tools\[0\] must be an object, not \"now\""),
        ({"type": "function"}, r"tools\[0\].function must be an object with a name"),
        ({"type": "custom"}, r"tools\[0\].type is \"custom\"; only \"function\""),
        (tool(name=None), "function.name must be 1 to 128 letters, digits"),
        (tool(name=""), "function.name must be"),
        (tool(name="two words"), 'not "two words"'),
        (tool(name="x" * 129), "function.name must be 1 to 128"),
        (tool(name="naïve"), "function.name must be"),
        (tool(description=1), "description must be text"),
        (tool(parameters=[1]), "parameters must be a JSON schema object"),
    ],
)
def test_a_tool_that_is_none_is_named(entry, text):
    with pytest.raises(BadRequestError, match=text):
        wire.tools_of([entry])


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([tool()] * 1000, "'tools' has 1000 entries, 128 are allowed"),
        ([tool(description="x" * 20_000)], "has 20000 characters, 16384 are allowed"),
        ([tool(parameters={"x": "y" * 70_000})], "larger than the 65536 bytes"),
        ([tool(parameters=nested(40))], "the 32 levels allowed"),
        ([tool(parameters={"x": "y" * 60_000})] * 10, "the schemas of all tools have"),
    ],
)
def test_limits_of_tools(entries, text):
    with pytest.raises(RequestTooLargeError, match=text):
        wire.tools_of(entries)


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "now"}}, ToolChoice("named", "now")),
    ],
)
def test_choices_of_a_tool(value, choice):
    assert wire.tool_choice_of(value, wire.tools_of([tool()])) == choice


@pytest.mark.parametrize("value", ["any", 1, True, [], {}, {"function": {"name": ["now"]}}])
def test_choices_that_are_none(value):
    with pytest.raises(BadRequestError, match="tool_choice"):
        wire.tool_choice_of(value, wire.tools_of([tool()]))


@pytest.mark.parametrize("value", ["required", {"function": {"name": "now"}}])
def test_a_choice_needs_tools(value):
    with pytest.raises(BadRequestError, match="tool_choice needs 'tools'"):
        wire.tool_choice_of(value, ())


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ({"a": 1}, {"a": 1}),
        ('{"a": [1, "x"]}', {"a": [1, "x"]}),
        ({}, {}),
        ("", {}),
        (None, {}),
    ],
)
def test_arguments_of_earlier_calls(arguments, read):
    call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
    assert wire.calls_of([call], "messages[0]") == (ToolCall("f", read, "1"),)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ({}, r"messages\[3\].tool_calls\[0\].function must be an object with a name"),
        ("f", "function must be an object"),
        ({"function": {"name": 1}}, "function must be an object with a name"),
        ({"id": 7, "function": {"name": "f"}}, "id must be text"),
        ({"function": {"name": "f", "arguments": '{"a": '}}, "arguments is not valid JSON"),
        ({"function": {"name": "f", "arguments": "[" * 5000}}, "arguments is not valid JSON"),
        ({"function": {"name": "f", "arguments": "[1]"}}, "arguments must be a JSON object"),
        ({"function": {"name": "f", "arguments": 3}}, "arguments must be a JSON object"),
    ],
)
def test_earlier_calls_that_are_none(call, text):
    with pytest.raises(BadRequestError, match=text):
        wire.calls_of([call], "messages[3]")


def test_results_get_the_names_of_their_calls():
    calls = (ToolCall("a", {}, "1"), ToolCall("b", {}, "2"))
    messages = [
        Message("assistant", "", tool_calls=calls),
        Message("tool", "of b", tool_call_id="2"),
        Message("tool", "of a", tool_call_id="1"),
        Message("user", "and"),
        Message("tool", "of nobody"),
        Message("tool", "known", tool_name="c"),
    ]
    named = wire.named_results(messages)
    assert [message.tool_name for message in named] == ["", "b", "a", "", "", "c"]


def test_results_without_ids_answer_the_calls_in_their_order():
    calls = (ToolCall("a"), ToolCall("b"))
    messages = [
        Message("assistant", "", tool_calls=calls),
        Message("tool", "1"),
        Message("tool", "2"),
    ]
    assert [message.tool_name for message in wire.named_results(messages)] == ["", "a", "b"]


@pytest.mark.parametrize("text", ["!", "a", "aGk", "data:image/png;base64,aGk="])
def test_an_image_that_is_not_base64(text):
    with pytest.raises(BadRequestError, match=r"images\[0\] is not base64"):
        wire.images_of([text], "images")


KEYS = st.sampled_from(["type", "function", "name", "id", "arguments", "parameters", "description"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["function", "now", "{", "[1]", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=3))
def test_any_json_is_read_or_refused_with_a_sentence(entries):
    for read in (
        wire.tools_of,
        lambda found: wire.calls_of(found, "messages[0]"),
        lambda found: wire.images_of(found, "images"),
        lambda found: [wire.tool_choice_of(value, wire.tools_of([tool()])) for value in found],
    ):
        with contextlib.suppress(BadRequestError, RequestTooLargeError):
            read(entries)
