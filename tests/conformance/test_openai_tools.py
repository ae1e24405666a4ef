"""The official `openai` package, unchanged: tools, structured output and reasoning."""

import json

import openai
import pytest
from pydantic import BaseModel

from tests.fakes.scripted import NAME, calls, create_actor, says

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
TOOLS = [
    {"type": "function", "function": {"name": "add", "description": "Adds", "parameters": SCHEMA}}
]
SUM = calls(("add", '{"a": 1, "b": 2}'))
TWO = calls(("add", '{"a": 1, "b": 2}'), ("add", '{"a": 3, "b": 4}'))


@pytest.fixture(scope="module")
def actor(service, tiny_gguf):
    create_actor(service, tiny_gguf)
    return service


@pytest.fixture
def client(actor):
    url = f"{actor.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as opened:
        yield opened


def ask(text):
    return [{"role": "user", "content": says(text)}]


def chat(client, text, **fields):
    return client.chat.completions.create(model=NAME, messages=ask(text), **fields)


def test_a_call_and_its_result(client):
    (choice,) = chat(client, SUM, tools=TOOLS).choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert (call.type, call.function.name) == ("function", "add")
    assert json.loads(call.function.arguments) == {"a": 1, "b": 2}
    conversation = [
        *ask(SUM),
        choice.message,
        {"role": "tool", "tool_call_id": call.id, "content": f"3 {says('It is 3.')}"},
    ]
    answer = client.chat.completions.create(model=NAME, messages=conversation, tools=TOOLS)
    assert answer.choices[0].message.content == "It is 3."
    assert answer.choices[0].finish_reason == "stop"


def test_calls_in_a_stream_come_in_pieces(client):
    chunks = list(
        chat(client, TWO, tools=TOOLS, stream=True, stream_options={"include_usage": True})
    )
    deltas = [
        call
        for chunk in chunks
        for choice in chunk.choices
        for call in choice.delta.tool_calls or ()
    ]
    begun = [delta for delta in deltas if delta.id]
    assert [(delta.index, delta.function.name) for delta in begun] == [(0, "add"), (1, "add")]
    texts = {0: "", 1: ""}
    for delta in deltas:
        texts[delta.index] += delta.function.arguments
    assert [json.loads(text)["b"] for text in texts.values()] == [2, 4]
    assert chunks[-2].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage.completion_tokens > 0


def test_the_packages_own_stream_of_tools(client):
    with client.chat.completions.stream(model=NAME, messages=ask(SUM), tools=TOOLS) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    pieces = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert json.loads("".join(piece.arguments_delta for piece in pieces)) == {"a": 1, "b": 2}
    (call,) = final.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"a": 1, "b": 2}


def test_arguments_are_parsed_into_a_model(client):
    class Add(BaseModel):
        a: int
        b: int

    tool = openai.pydantic_function_tool(Add)
    written = calls(("Add", '{"a": 1, "b": 2}'))
    answer = client.chat.completions.parse(model=NAME, messages=ask(written), tools=[tool])
    assert answer.choices[0].message.tool_calls[0].function.parsed_arguments == Add(a=1, b=2)


def test_one_call_where_several_are_not_wanted(client):
    (choice,) = chat(client, TWO, tools=TOOLS, parallel_tool_calls=False).choices
    assert len(choice.message.tool_calls) == 1
    chunks = list(chat(client, TWO, tools=TOOLS, parallel_tool_calls=False, stream=True))
    indices = {c.index for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()}
    assert indices == {0}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_every_choice_has_calls_of_its_own(client):
    answer = chat(client, SUM, tools=TOOLS, n=3)
    found = [choice.message.tool_calls[0].id for choice in answer.choices]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "add"}}], ids=["any", "named"]
)
def test_a_call_that_is_forced(client, choice):
    """Whatever the model would have said: the grammar leaves it no choice."""
    answer = chat(client, "Never.", tools=TOOLS, tool_choice=choice).choices[0]
    (call,) = answer.message.tool_calls
    assert answer.finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 0, "b": 0})


def test_a_form_behind_thinking(client):
    class Sky(BaseModel):
        blue: bool

    written = "<think>\nHm.\n</think>\n\nnot JSON at all"
    answer = client.chat.completions.parse(model=NAME, messages=ask(written), response_format=Sky)
    assert answer.choices[0].message.parsed == Sky(blue=True)
    assert answer.choices[0].message.reasoning == "Hm."


def test_the_choice_of_none_gives_text(client):
    (choice,) = chat(client, SUM, tools=TOOLS, tool_choice="none").choices
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)


@pytest.mark.parametrize("effort", [None, "low", "high"])
def test_reasoning_comes_apart(client, effort):
    written = "<think>\nHm, well.\n</think>\n\nBlue."
    wish = {} if effort is None else {"reasoning_effort": effort}
    message = chat(client, written, **wish).choices[0].message
    assert (message.reasoning, message.content) == ("Hm, well.", "Blue.")
    chunks = list(chat(client, written, stream=True, **wish))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning", None) or "" for delta in deltas) == "Hm, well."
    assert "".join(delta.content or "" for delta in deltas) == "Blue."


def test_reasoning_has_a_budget(client):
    """The engine says a byte a token."""
    written = f"<think>{'x' * 100}</think>Blue."
    whole = chat(client, written).choices[0].message
    short = chat(client, written, extra_body={"reasoning": {"max_tokens": 20}})
    assert whole.reasoning == "x" * 100
    assert set(short.choices[0].message.reasoning) == {"x"}
    assert len(short.choices[0].message.reasoning) <= 20


def test_infill(client):
    prompt = f"def f():{says(' return 1')}"
    answer = client.completions.create(model=NAME, prompt=prompt, suffix="# end")
    assert answer.choices[0].text == " return 1"
    with pytest.raises(openai.BadRequestError, match="echo:latest does not support insert"):
        client.completions.create(model="echo", prompt="a", suffix="b")


@pytest.mark.parametrize("model", ["echo", NAME])
def test_a_begun_answer_goes_on_where_it_ends(client, model):
    """vLLM's fields, as its users send them."""
    begun = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Well, I"}]
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    create = client.chat.completions.create
    answer = create(model=model, messages=begun, extra_body=fields)
    plain = create(model=model, messages=begun[:1], reasoning_effort="none")
    said = answer.choices[0].message.content  # the echo says the prompt
    assert said == plain.choices[0].message.content + "Well, I"
    stream = create(model=model, messages=begun, extra_body=fields, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == said
    without = create(model=model, messages=begun).choices[0].message.content
    assert not without.endswith("Well, I")  # a turn that is over, and a new one


def test_an_image_to_a_model_that_cannot_see(client):
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]
    with pytest.raises(openai.BadRequestError, match='"actor" does not support vision'):
        client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": parts}])


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"tools": TOOLS * 1000}, "'tools' has 1000 entries, 128 are allowed"),
        ({"tool_choice": "required"}, "tool_choice needs 'tools'"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, 'only "function" is supported'),
        ({"functions": [{"name": "x"}]}, "send 'tools'"),
        ({"extra_body": {"continue_final_message": True}}, "must be the assistant's"),
        ({"extra_body": {"add_generation_prompt": False}}, "leave it out"),
    ],
)
def test_one_clear_error(client, fields, text):
    with pytest.raises(openai.APIStatusError, match=text):
        chat(client, "x", **fields)


def test_a_call_with_broken_arguments_is_named(client):
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": '}}
    messages = [*ask("x"), {"role": "assistant", "tool_calls": [call]}]
    with pytest.raises(openai.BadRequestError, match=r"messages\[1\].tool_calls\[0\]"):
        client.chat.completions.create(model=NAME, messages=messages)
