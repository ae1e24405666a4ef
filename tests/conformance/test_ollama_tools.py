"""The official `ollama` package, unchanged: tools, thinking and infill, answered in every form."""

import ollama
import pytest
from pydantic import BaseModel

from tests.fakes.scripted import NAME, calls, create_actor, says

SUM = calls(("add", '{"a": 1, "b": 2}'), thinking="One and two.")


@pytest.fixture(scope="module")
def actor(service, tiny_gguf):
    create_actor(service, tiny_gguf)
    return service


@pytest.fixture
def client(actor):
    with_url = ollama.Client(host=actor.url)
    yield with_url
    with_url.close()


def ask(text):
    return [{"role": "user", "content": says(text)}]


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
      a: the first
      b: the second
    """
    return a + b


def test_abilities_are_shown(client):
    assert client.show(NAME).capabilities == ["completion", "tools", "insert", "thinking"]


def test_a_python_function_is_called_and_its_result_is_read(client):
    first = client.chat(NAME, ask(SUM), tools=[add])
    (call,) = first.message.tool_calls
    assert (call.function.name, dict(call.function.arguments)) == ("add", {"a": 1, "b": 2})
    assert first.message.thinking == "One and two."
    assert (first.message.content, first.done_reason) == ("", "stop")
    result = str(add(**call.function.arguments))
    conversation = [
        *ask(SUM),
        first.message,
        {"role": "tool", "content": f"{result} {says('It is 3.')}", "tool_name": "add"},
    ]
    second = client.chat(NAME, conversation, tools=[add])
    assert (second.message.content, second.message.tool_calls) == ("It is 3.", None)


def test_calls_in_a_stream_come_whole_and_before_the_end(client):
    written = calls(("add", '{"a": 1, "b": 2}'), ("add", '{"a": 3, "b": 4}'), text="Well. ")
    pieces = list(client.chat(NAME, ask(written), tools=[add], stream=True))
    assert "".join(piece.message.content or "" for piece in pieces).strip() == "Well."
    found = [call for piece in pieces for call in piece.message.tool_calls or ()]
    assert [dict(call.function.arguments) for call in found] == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert (pieces[-1].done, pieces[-1].message.tool_calls) == (True, None)


def test_calls_have_ids_and_indices(actor):
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    written = calls(("add", '{"a": 1}'), ("add", "{}"))
    body = {"model": NAME, "messages": ask(written), "tools": [tool], "stream": False}
    status, answer = actor.call("POST", "/api/chat", body)
    assert status == 200, answer
    found = answer["message"]["tool_calls"]
    assert [call["function"]["index"] for call in found] == [0, 1]
    assert len({call["id"] for call in found}) == 2
    assert all(call["id"].startswith("call_") and len(call["id"]) == 13 for call in found)


def test_calls_are_text_without_tools_or_with_the_choice_of_none(actor, client):
    written = calls(("add", '{"a": 1}'))
    assert "<tool_call>" in client.chat(NAME, ask(written), think=False).message.content
    tool = {"type": "function", "function": {"name": "add"}}
    body = {"model": NAME, "messages": ask(written), "tools": [tool], "tool_choice": "none"}
    _, answer = actor.call("POST", "/api/chat", body | {"stream": False})
    assert "tool_calls" not in answer["message"]


@pytest.mark.parametrize("think", [None, True, "low", "high"])
def test_thinking_comes_apart(client, think):
    written = "<think>\nHm, well.\n</think>\n\nBlue."
    answer = client.chat(NAME, ask(written), think=think)
    assert (answer.message.thinking, answer.message.content) == ("Hm, well.", "Blue.")
    pieces = list(client.chat(NAME, ask(written), think=think, stream=True))
    assert "".join(piece.message.thinking or "" for piece in pieces) == "Hm, well."
    assert "".join(piece.message.content or "" for piece in pieces) == "Blue."
    kinds = [bool(piece.message.thinking) for piece in pieces if not piece.done]
    assert kinds == sorted(kinds, reverse=True)  # all thinking before the first of the answer


def test_thinking_that_is_not_wanted_is_not_shown(client):
    """Also of a model that thinks all the same."""
    answer = client.chat(NAME, ask("<think>\nHm, well.\n</think>\n\nBlue."), think=False)
    assert (answer.message.thinking, answer.message.content) == (None, "Blue.")


def test_a_form_behind_thinking(client):
    class Sky(BaseModel):
        blue: bool

    written = "<think>\nHm.\n</think>\n\nnot JSON at all"
    answer = client.chat(NAME, ask(written), format=Sky.model_json_schema())
    assert answer.message.thinking == "Hm."
    assert Sky.model_validate_json(answer.message.content) == Sky(blue=True)


def test_thinking_of_generate(client):
    written = says("<think>\nHm.\n</think>\n\nBlue.")
    answer = client.generate(NAME, written, think=True)
    assert (answer.thinking, answer.response) == ("Hm.", "Blue.")
    pieces = list(client.generate(NAME, written, think=True, stream=True))
    assert "".join(piece.thinking or "" for piece in pieces) == "Hm."
    raw = client.generate(NAME, written, raw=True)
    assert "<think>" in raw.response


def test_a_broken_call_is_told_as_text(client):
    written = '<tool_call>\n{"name": "add", "arguments": {"a": 1\n</tool_call>'
    answer = client.chat(NAME, ask(written), tools=[add])
    assert answer.message.tool_calls is None
    assert '"name": "add"' in answer.message.content


def test_infill(client):
    prompt = f"def f():{says(' return 1')}"
    answer = client.generate(NAME, prompt, suffix="# end", options={"temperature": 0})
    assert answer.response == " return 1"


def test_a_thousand_tools_are_refused_in_one_sentence(client):
    with pytest.raises(ollama.ResponseError, match="'tools' has 1000 entries, 128 are allowed"):
        client.chat(NAME, ask("x"), tools=[add] * 1000)
