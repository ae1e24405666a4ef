"""The official `anthropic` package, unchanged, against the service."""

import anthropic
import msgspec
import pytest
from pydantic import BaseModel

from tests.conformance.claude_code import AGENT_HEADERS, agent_requests
from tests.fakes.chat_templates import QWEN, calling, saying
from tests.fakes.gguf_builder import tiny_llama_gguf

IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
}
HELLO = [{"role": "user", "content": "hello there"}]


WEATHER = {
    "name": "weather",
    "description": "Tells the weather",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def service(service, tmp_path_factory):
    """With a second model, `agent`, that thinks and calls tools."""
    folder = tmp_path_factory.mktemp("agent")
    gguf = tiny_llama_gguf(folder / "agent.gguf", chat_template=QWEN, context=32768)
    service.create("agent", gguf, parameters={"num_ctx": 32768})
    return service


@pytest.fixture
def client(service):
    with anthropic.Anthropic(base_url=service.url, api_key="none", max_retries=0) as opened:
        yield opened


def say(client, **fields):
    known = {"model": "echo", "max_tokens": 100, "messages": HELLO}
    return client.messages.create(**{**known, **fields})


def test_a_message(client):
    sampling = {"temperature": 0, "top_k": 5}  # newer packages have no arguments for these
    metadata = {"user_id": "me"}
    answer = say(client, system="be brief", metadata=metadata, extra_body=sampling)
    (block,) = answer.content
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "echo")
    assert answer.id.startswith("msg_")
    assert block.type == "text"
    assert "be brief" in block.text  # the echo says the whole prompt
    assert "hello there" in block.text
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0
    assert answer.usage.cache_read_input_tokens == 0


@pytest.mark.parametrize("model", ["echo", "agent"])
def test_a_prefilled_answer_goes_on_where_it_ends(client, model):
    begun = [*HELLO, {"role": "assistant", "content": "Well, I"}]
    answer = say(client, model=model, messages=begun, max_tokens=500)
    assert answer.content[0].text.endswith("Well, I")  # the echo says the prompt
    plain = say(client, model=model, max_tokens=500)
    assert answer.content[0].text == plain.content[0].text + "Well, I"
    counts = [
        client.messages.count_tokens(model=model, messages=messages).input_tokens
        for messages in (HELLO, begun)
    ]
    assert counts[0] < counts[1]
    assert plain.usage.input_tokens < answer.usage.input_tokens
    with client.messages.stream(model=model, max_tokens=500, messages=begun) as stream:
        assert "".join(stream.text_stream) == answer.content[0].text


def test_a_stream_with_the_packages_helper(client):
    with client.messages.stream(model="echo", max_tokens=100, messages=HELLO) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == say(client).content[0].text
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens > 0


def test_the_order_of_a_streams_events(client):
    kinds = [event.type for event in say(client, stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


async def test_the_async_client(service):
    url = service.url
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client,
        client.messages.stream(model="echo", max_tokens=9, messages=HELLO) as stream,
    ):
        assert "".join([piece async for piece in stream.text_stream])


def test_limits_and_stops(client):
    assert say(client, max_tokens=2).stop_reason == "max_tokens"
    assert say(client, max_tokens=2).usage.output_tokens == 2
    stopped = say(client, stop_sequences=["nothing", "there"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "there")
    assert stopped.content[0].text.endswith("hello ")


def test_structured_output(client):
    schema = {"type": "object", "properties": {"echo": {"type": "boolean"}}}
    form = {"type": "json_schema", "schema": schema}
    for fields in ({"output_config": {"format": form}}, {"extra_body": {"output_format": form}}):
        text = say(client, **fields).content[0].text
        assert set(msgspec.json.decode(text)) <= {"echo"}


def test_structured_output_as_the_package_parses_it(client):
    class Echo(BaseModel):
        echo: bool

    answer = client.messages.parse(model="echo", max_tokens=100, messages=HELLO, output_format=Echo)
    assert isinstance(answer.parsed_output, Echo)


def test_structured_output_in_a_stream(client):
    schema = {"type": "object", "properties": {"echo": {"type": "boolean"}}}
    config = {"format": {"type": "json_schema", "schema": schema}}
    with client.messages.stream(
        model="echo", max_tokens=100, messages=HELLO, output_config=config
    ) as stream:
        assert set(msgspec.json.decode("".join(stream.text_stream))) <= {"echo"}


def test_tokens_are_counted(client):
    counted = client.messages.count_tokens(model="echo", messages=HELLO, system="be brief")
    assert counted.input_tokens == say(client, system="be brief").usage.input_tokens
    longer = [*HELLO, {"role": "assistant", "content": "hi"}, *HELLO]
    assert client.messages.count_tokens(model="echo", messages=longer).input_tokens > (
        client.messages.count_tokens(model="echo", messages=HELLO).input_tokens
    )


def test_thinking_and_a_call(client):
    """Whole and in a stream, with the package's own snapshot of the message."""
    output = "<think>hm</think>I look." + calling("weather", '{"at": "Bonn"}')
    fields = {
        "model": "agent",
        "messages": [{"role": "user", "content": saying(output)}],
        "tools": [WEATHER],
        "thinking": {"type": "enabled", "budget_tokens": 50},
        "max_tokens": 1000,
    }
    answer = client.messages.create(**fields)
    with client.messages.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    for message in (answer, streamed):
        thinking, text, call = message.content
        assert (thinking.type, thinking.thinking.strip()) == ("thinking", "hm")
        assert thinking.signature
        assert (text.type, text.text.strip()) == ("text", "I look.")
        assert (call.type, call.name, call.input) == ("tool_use", "weather", {"at": "Bonn"})
        assert call.id
        assert message.stop_reason == "tool_use"
    assert {"thinking", "text", "input_json", "signature"} <= set(kinds)


def test_a_conversation_goes_on_with_the_tools_result(client):
    first = client.messages.create(
        model="agent",
        messages=[{"role": "user", "content": saying(calling("weather", "{}"))}],
        tools=[WEATHER],
        max_tokens=1000,
    )
    (call,) = first.content
    second = client.messages.create(
        model="agent",
        messages=[
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": first.content},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}],
            },
        ],
        tools=[WEATHER],
        max_tokens=1000,
    )
    assert "rain" in second.content[0].text
    assert '"weather"' in second.content[0].text  # the call was rendered, too


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_call_that_must_be(client, choice):
    answer = client.messages.create(
        model="agent",
        messages=[{"role": "user", "content": "hello"}],
        tools=[WEATHER],
        tool_choice=choice,
        max_tokens=1000,
    )
    (call,) = answer.content
    assert (call.type, call.name) == ("tool_use", "weather")
    assert answer.stop_reason == "tool_use"


def test_no_more_than_one_call_where_the_client_says_so(client):
    both = calling("weather", '{"at": "Bonn"}') + calling("weather", '{"at": "Rome"}')
    fields = {
        "model": "agent",
        "messages": [{"role": "user", "content": saying(both)}],
        "tools": [WEATHER],
        "max_tokens": 1000,
    }
    assert len(client.messages.create(**fields).content) == 2
    one = {"type": "auto", "disable_parallel_tool_use": True}
    (call,) = client.messages.create(**fields, tool_choice=one).content
    assert call.input == {"at": "Bonn"}


def test_thinking_of_a_model_that_cannot_is_left_out(client):
    thinking = {"type": "adaptive"}
    assert [block.type for block in say(client, thinking=thinking).content] == ["text"]


def test_models(client):
    listed = client.models.list()
    assert "echo:latest" in [model.id for model in listed]
    one = client.models.retrieve("echo")
    assert (one.id, one.type, one.display_name) == ("echo:latest", "model", "echo:latest")
    assert one.created_at.year > 2000
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("nobody")


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"model": "nobody"}, anthropic.NotFoundError, "'nobody' not found"),
        (
            {"messages": [{"role": "user", "content": [IMAGE]}]},
            anthropic.BadRequestError,
            '"echo" does not support vision',
        ),
        ({"messages": []}, anthropic.BadRequestError, "messages is required"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            anthropic.BadRequestError,
            "server tool",
        ),
        (
            {"tools": [{"name": "f", "input_schema": {"type": "object"}}] * 1000},
            anthropic.RequestTooLargeError,
            "1000 entries",
        ),
    ],
)
def test_errors(client, fields, kind, words):
    with pytest.raises(kind, match=words) as caught:
        say(client, **fields)
    error = caught.value
    assert error.request_id == error.body["request_id"]
    assert error.body["type"] == "error"
    assert error.type == error.body["error"]["type"]


def test_too_long_a_prompt_is_said_so_that_agents_compact(client):
    long = [{"role": "user", "content": "word " * 200_000}]
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        say(client, messages=long)


def test_a_wrong_key(service):
    key = "hearth_aaaaaaaa_bbbb"
    with (
        anthropic.Anthropic(base_url=service.url, api_key=key, max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        say(client)
    assert caught.value.type == "authentication_error"


def test_an_error_in_mid_stream_is_raised(start_service, tiny_gguf):
    service = start_service()
    service.create("echo", tiny_gguf)
    crash = [{"role": "user", "content": "[[crash]]"}]
    with anthropic.Anthropic(base_url=service.url, api_key="none", max_retries=0) as client:
        events = say(client, messages=crash, stream=True)
        assert next(iter(events)).type == "message_start"
        with pytest.raises(anthropic.APIStatusError, match="api_error") as caught:
            list(events)
    assert caught.value.body["error"]["type"] == "api_error"


def test_a_coding_agents_session(service):
    """What Claude Code sends, from public captures: each request is understood as it is."""
    with anthropic.Anthropic(
        base_url=service.url, auth_token="none", api_key=None, max_retries=0
    ) as client:
        for path, body in agent_requests("agent"):
            answer = client.post(
                path, body=body, cast_to=object, options={"headers": AGENT_HEADERS}
            )
            assert answer
