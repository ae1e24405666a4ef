"""Anthropic's bodies: from JSON to jobs."""

import pytest

from appliance.access.caller import Caller, KeyFacts, Ring
from appliance.access.shares import Share
from appliance.chat.events import Message, ToolCall, ToolChoice
from appliance.errors import BadRequestError, RequestTooLargeError
from appliance.http import anthropic_wire as wire
from appliance.http.anthropic import believed
from appliance.http.body import to_struct
from appliance.http.errors import FieldError
from engine.api import Constraint

ME = Share(path=("key:me", ""))
HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"name": "weather", "description": "Tells it", "input_schema": {"type": "object"}}
BILLING = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=abcde;"}


def job(**fields):
    fields = {"model": "m", "messages": HELLO, "max_tokens": 9, **fields}
    wire.refuse_fields(fields)
    return to_struct(fields, wire.MessagesRequest).to_job(ME, max_messages=10)


def said(*messages, **fields):
    return job(messages=list(messages), **fields).work


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks):
    return {"role": "assistant", "content": list(blocks)}


def text(words):
    return {"type": "text", "text": words, "cache_control": {"type": "ephemeral"}}


def test_everything_of_a_request():
    made = job(
        system="be brief",
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        stop_sequences=["END"],
        tools=[TOOL],
        tool_choice={"type": "tool", "name": "weather"},
        metadata={"user_id": "me"},
    )
    assert made.work == (Message("system", "be brief"), Message("user", "hello"))
    assert made.options == {
        "num_predict": 9,
        "stop": ["END"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
    }
    (tool,) = made.tools
    assert (tool.name, tool.description, tool.parameters) == (
        "weather",
        "Tells it",
        {"type": "object"},
    )
    assert tool.source["function"]["parameters"] == {"type": "object"}
    assert made.tool_choice == ToolChoice("named", "weather")
    assert made.share is ME
    assert not made.truncate  # as there: too long a prompt is an error
    assert made.think is False


@pytest.mark.parametrize(
    ("choice", "kind"), [("auto", "auto"), ("any", "required"), ("none", "none")]
)
def test_choices(choice, kind):
    assert job(tools=[TOOL], tool_choice={"type": choice}).tool_choice == ToolChoice(kind)


@pytest.mark.parametrize(
    ("fields", "think", "budget"),
    [
        ({}, False, None),
        ({"thinking": {"type": "disabled"}}, False, None),
        ({"thinking": {"type": "adaptive"}}, True, None),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
            "high",
            None,
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, True, 5),
    ],
)
def test_thinking(fields, think, budget):
    made = job(**fields)
    assert (made.think, made.thinking_budget) == (think, budget)


def test_structured_output():
    form = {"type": "json_schema", "schema": {"type": "object"}}
    assert job(output_config={"format": form}).constraint == Constraint(
        kind="schema", source='{"type":"object"}'
    )


def test_blocks_of_a_turn_are_one_message():
    assert said(user(text("a"), text("b"))) == (Message("user", "a\nb"),)
    assert said({"role": "user", "content": "a"}, {"role": "user", "content": "b"}) == (
        Message("user", "a\nb"),
    )


def test_what_a_coding_agent_says_to_its_maker_is_left_out():
    """Its hash changes with each request, which would defeat the prefix cache."""
    made = job(system=[BILLING, text("You are an agent."), text("Be brief.")])
    assert made.work[0] == Message("system", "You are an agent.\nBe brief.")


def test_a_conversation_with_tools():
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"at": "Bonn"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("rain")]}
    thoughts = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    hidden = {"type": "redacted_thinking", "data": "abc"}
    made = said(
        {"role": "user", "content": "weather?"},
        assistant(thoughts, hidden, text("I look."), call),
        user(result, text("and?")),
    )
    assert made == (
        Message("user", "weather?"),
        Message(
            "assistant",
            "I look.",
            thinking="hm",
            tool_calls=(ToolCall("weather", {"at": "Bonn"}, "toolu_1"),),
        ),
        Message("tool", "rain", tool_name="weather", tool_call_id="toolu_1"),
        Message("user", "and?"),
    )


def test_results_of_two_calls_stay_apart():
    calls = [{"type": "tool_use", "id": i, "name": f"f{i}", "input": {}} for i in "ab"]
    results = [{"type": "tool_result", "tool_use_id": i, "content": f"of {i}"} for i in "ba"]
    made = said(user(text("x")), assistant(*calls), user(*results))
    assert [(m.content, m.tool_name, m.tool_call_id) for m in made[2:]] == [
        ("of b", "fb", "b"),
        ("of a", "fa", "a"),
    ]


def test_a_tool_that_failed_says_so():
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "no net", "is_error": True}
    assert said(user(text("x")), assistant(call), user(result))[-1].content == "Error:\nno net"
    empty = {"type": "tool_result", "tool_use_id": "t"}
    assert said(user(text("x")), assistant(call), user(empty))[-1].content == ""


def test_tokens_are_counted_without_a_limit_of_them():
    fields = {"model": "m", "messages": HELLO}
    made = to_struct(fields, wire.CountRequest).to_job(ME, max_messages=10)
    assert made.render_only
    assert not made.truncate


def image_of(kind, data="aGk="):
    return {"type": "image", "source": {"type": kind, "media_type": "image/png", "data": data}}


IMAGE = image_of("base64")


def test_a_tool_may_show_an_image():
    call = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [text("seen"), IMAGE]}
    made = said(user(text("x")), assistant(call), user(result))
    assert made[-1] == Message(
        "tool", "seen", tool_name="look", tool_call_id="t", images=(b"hi",), image_places=(4,)
    )


def test_an_image_stands_beside_its_text():
    assert said(user(IMAGE, text("what is it?"))) == (
        Message("user", "what is it?", images=(b"hi",)),
    )


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"model": ""}, "model", "model is required"),
        ({"messages": []}, "messages", "messages is required"),
        ({"max_tokens": None}, "max_tokens", "max_tokens is required"),
        ({"max_tokens": 0}, "max_tokens", "positive"),
        ({"messages": [5]}, "messages", "messages.0 must be an object"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages", "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages", "messages.0.content must be text or"),
        ({"messages": [user(5)]}, "messages", "messages.0.content.0 must be an object"),
        ({"messages": [user({"type": "text"})]}, "messages", "content.0.text must be text"),
        ({"messages": [user(IMAGE | {"source": 5})]}, "messages", "source must be an object"),
        ({"messages": [user(image_of("url"))]}, "messages", "fetches no images from 'url'"),
        ({"messages": [user(image_of("base64", "!"))]}, "images", "is not base64"),
        ({"messages": [assistant(IMAGE)]}, "messages", "type 'image' is not supported here"),
        ({"messages": [user({"type": "document"})]}, "messages", "document"),
        ({"messages": [assistant(text("a"))]}, "messages", "prefilled"),
        ({"messages": [user({"type": "tool_result"})]}, "messages", "tool_use_id"),
        ({"system": [{"type": "image"}]}, "messages", "system.0"),
        ({"system": 5}, None, "system"),
        ({"tools": [5]}, "tools", "tools[0] must be an object"),
        ({"tools": [{"name": "f"}]}, "tools", "input_schema"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "tools",
            "server tool 'web_search_20250305'",
        ),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "needs tools"),
        ({"tool_choice": {"type": "some"}}, "tool_choice", "auto, any, tool or none"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}},
            "tool_choice",
            "not among the tools",
        ),
        ({"thinking": {"type": "deep"}}, "thinking", "enabled, disabled or adaptive"),
        ({"thinking": {"type": "enabled"}}, "thinking", "budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking", "less than max_tokens"),
        ({"output_config": {"effort": "huge"}}, "output_config", "effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config", "json_schema"),
        ({"temperature": 1.5}, "temperature", "from 0 to 1"),
        ({"stop_sequences": [" "]}, "stop_sequences", "non-whitespace"),
        ({"container": "c"}, "container", "not supported"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers", "not supported"),
        (
            {"context_management": {"edits": [{"type": "compact_x"}]}},
            "context_management",
            "shorten",
        ),
    ],
)
def test_bad_input_is_named(fields, field, words):
    with pytest.raises(BadRequestError) as caught:
        job(**fields)
    assert words in str(caught.value)
    if field is not None:
        assert isinstance(caught.value, FieldError)
        assert caught.value.field_name == field


def test_too_much_of_it():
    with pytest.raises(RequestTooLargeError, match="'messages' has 11"):
        job(messages=HELLO * 11)
    with pytest.raises(RequestTooLargeError, match="'stop_sequences' has 17"):
        job(stop_sequences=["x"] * 17)
    with pytest.raises(RequestTooLargeError, match=r"'messages\.content' has 32769"):
        job(messages=[user(*[text("x")] * 32_769)])
    with pytest.raises(RequestTooLargeError, match="'images' has 65"):
        job(messages=[user(*[IMAGE] * 65)])
    with pytest.raises(RequestTooLargeError, match="'tools' has 1000"):
        job(tools=[TOOL] * 1000)


def test_what_asks_for_nothing_passes():
    job(
        speed="standard",
        mcp_servers=[],
        service_tier="auto",
        cache_control={"type": "ephemeral"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    )


@pytest.mark.parametrize(
    ("ring", "key", "header", "user"),
    [
        (Ring.LAN, KeyFacts("k", "n", frozenset()), "", "alice"),
        (Ring.HERE, None, "", "alice"),
        (Ring.LAN, None, "", ""),  # a guest is its address, whatever it says
        (Ring.HERE, None, "bob", "bob"),  # the header is a proxy's
    ],
)
def test_whom_the_body_may_name(ring, key, header, user):
    caller = Caller(address="192.168.1.9", ring=ring, key=key, user=header)
    assert believed(caller, "alice").user == user
    assert believed(caller, None) is caller
