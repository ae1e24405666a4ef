"""OpenAI's Responses with the official `openai` package, unchanged, against the service."""

import openai
import pytest
from pydantic import BaseModel

from tests.fakes.chat_templates import QWEN, calling, saying
from tests.fakes.gguf_builder import tiny_llama_gguf

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    "strict": False,
}
OUTPUT = "<think>hm</think>I look." + calling("weather", '{"at": "Bonn"}')


@pytest.fixture(scope="module")
def service(service, tmp_path_factory):
    """With a second model, `agent`, that thinks and calls tools."""
    folder = tmp_path_factory.mktemp("agent")
    gguf = tiny_llama_gguf(folder / "agent.gguf", chat_template=QWEN, context=4096)
    service.create("agent", gguf, parameters={"num_ctx": 4096})
    return service


@pytest.fixture
def client(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def ask(client, **fields):
    return client.responses.create(**{"model": "echo", "input": "hello there", **fields})


def test_a_response(client):
    answer = ask(client, instructions="be brief", metadata={"a": "b"}, user="me", temperature=0)
    (message,) = answer.output
    assert answer.id.startswith("resp_")
    assert (answer.object, answer.status, answer.store) == ("response", "completed", False)
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert "be brief" in answer.output_text  # the echo says the whole prompt
    assert "hello there" in answer.output_text
    assert answer.metadata == {"a": "b"}
    usage = answer.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens > 0
    assert usage.input_tokens_details.cached_tokens == 0


def test_items_and_parts(client):
    answer = ask(
        client,
        input=[
            {"role": "developer", "content": "a rule"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "one"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
            {"role": "user", "content": "three"},
        ],
    )
    for words in ("system\na rule", "user\none", "assistant\ntwo", "user\nthree"):
        assert words in answer.output_text


def test_the_order_of_a_streams_events(client):
    events = list(ask(client, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    begin = ["created", "in_progress", "output_item.added", "content_part.added"]
    end = ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert kinds[:4] == begin
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert kinds[-4:] == end
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == events[-1].response.output_text == ask(client).output_text


def test_thinking_and_a_call(client):
    """Whole and in a stream, with the package's own snapshot of the response."""
    fields = {
        "model": "agent",
        "input": saying(OUTPUT),
        "tools": [WEATHER],
        "reasoning": {"effort": "high", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "store": False,
    }
    whole = client.responses.create(**fields)
    with client.responses.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_response()
    for answer in (whole, streamed):
        thought, message, call = answer.output
        assert (thought.type, thought.summary[0].text.strip()) == ("reasoning", "hm")
        assert message.content[0].text.strip() == "I look."
        assert (call.type, call.name, call.arguments) == (
            "function_call",
            "weather",
            '{"at": "Bonn"}',
        )
        assert call.call_id
        assert answer.usage.output_tokens_details.reasoning_tokens > 0
    order = [
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_text.delta",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.completed",
    ]
    assert sorted(order, key=kinds.index) == order


def test_a_conversation_goes_on_with_the_calls_output(client):
    first = client.responses.create(model="agent", input=saying(OUTPUT), tools=[WEATHER])
    call = first.output[-1]
    second = client.responses.create(
        model="agent",
        tools=[WEATHER],
        input=[
            {"role": "user", "content": "weather?"},
            *(item.model_dump(exclude_none=True) for item in first.output),
            {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
        ],
    )
    assert "rain" in second.output_text
    assert '"weather"' in second.output_text  # the call was rendered, too


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_a_call_that_must_be(client, choice):
    answer = ask(client, model="agent", tools=[WEATHER], tool_choice=choice)
    assert [item.type for item in answer.output] == ["function_call"]


def test_no_more_than_one_call_where_the_client_says_so(client):
    both = calling("weather", '{"at": "Bonn"}') + calling("weather", '{"at": "Rome"}')
    fields = {"model": "agent", "input": saying(both), "tools": [WEATHER]}
    assert len(client.responses.create(**fields).output) == 2
    (call,) = client.responses.create(**fields, parallel_tool_calls=False).output
    assert call.arguments == '{"at": "Bonn"}'


def test_structured_output(client):
    class Echo(BaseModel):
        echo: bool

    parsed = client.responses.parse(model="echo", input="x", text_format=Echo)
    assert isinstance(parsed.output_parsed, Echo)
    with client.responses.stream(model="echo", input="x", text_format=Echo) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Echo)
    in_json = ask(client, text={"format": {"type": "json_object"}})
    assert in_json.output_text == '{"echo": true}'


def test_an_answer_that_was_cut(client):
    answer = ask(client, max_output_tokens=2)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.output[0].status == "incomplete"
    assert list(ask(client, max_output_tokens=2, stream=True))[-1].type == "response.incomplete"


def test_too_long_an_input(client):
    long = "word " * 2000
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, input=long)
    assert caught.value.code == "context_length_exceeded"
    assert ask(client, input=long, truncation="auto", max_output_tokens=1).usage.input_tokens < 2000


@pytest.mark.parametrize(
    ("fields", "kind", "param", "words"),
    [
        ({"model": "nobody"}, openai.NotFoundError, None, "'nobody' not found"),
        ({"input": []}, openai.BadRequestError, "input", "input is required"),
        ({"store": True}, openai.BadRequestError, "store", "send false or leave it out"),
        (
            {"previous_response_id": "resp_1"},
            openai.BadRequestError,
            "previous_response_id",
            "send the whole conversation",
        ),
        ({"background": True}, openai.BadRequestError, "background", "read the stream"),
        ({"conversation": "c"}, openai.BadRequestError, "conversation", "whole conversation"),
        ({"tools": [{"type": "web_search"}]}, openai.BadRequestError, "tools", "'web_search'"),
        ({"tool_choice": "required"}, openai.BadRequestError, "tool_choice", "needs"),
        ({"reasoning": {"effort": "x"}}, openai.BadRequestError, "reasoning", "one of none"),
        ({"include": ["x"]}, openai.BadRequestError, "include", "'x' is not supported"),
        ({"truncation": "x"}, openai.BadRequestError, "truncation", "auto"),
        ({"max_output_tokens": 0}, openai.BadRequestError, "max_output_tokens", "1 or more"),
        ({"text": {"format": {"type": "xml"}}}, openai.BadRequestError, "text", "json_schema"),
        ({"input": [5]}, openai.BadRequestError, "input", r"input\[0\] must be an object"),
        ({"input": [{"role": "x"}]}, openai.BadRequestError, "input", r"input\[0\].role"),
        ({"input": [{"role": "user"}]}, openai.BadRequestError, "input", r"content must be text"),
        (
            {"input": [{"type": "item_reference", "id": "x"}]},
            openai.BadRequestError,
            "input",
            "'item_reference'",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]},
            openai.BadRequestError,
            "input",
            "not valid JSON",
        ),
    ],
)
def test_errors(client, fields, kind, param, words):
    with pytest.raises(kind, match=words) as caught:
        ask(client, **fields)
    assert caught.value.param == param


def test_what_breaks_in_mid_stream_is_a_state_of_the_response(start_service, tiny_gguf):
    service = start_service()
    service.create("echo", tiny_gguf)
    url = f"{service.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        last = list(ask(client, input="[[crash]] x", stream=True))[-1]
    assert last.type == "response.failed"
    assert (last.response.status, last.response.error.code) == ("failed", "server_error")
    assert "SIGKILL" in last.response.error.message
    assert last.response.output[0].status == "incomplete"
