"""The `langchain-ollama` package, unchanged: chat, streams, tools, structure, thinking, vectors."""

import httpx
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from pydantic import BaseModel

from tests.fakes.scripted import NAME, calls, create_actor, says

THOUGHT = says("<think>\nHm, well.\n</think>\n\nBlue.")


class Echo(BaseModel):
    """What the echo engine says under any schema."""

    echo: bool


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture(scope="module")
def actor(service, tiny_gguf):
    create_actor(service, tiny_gguf)
    return service


@pytest.fixture
def place(actor):
    """Where the service is, over connections that end with the test: the package closes none."""
    with httpx.HTTPTransport() as transport:
        yield {"base_url": actor.url, "sync_client_kwargs": {"transport": transport}}


@pytest.fixture
def model(place):
    def make(name=NAME, **fields):
        return ChatOllama(model=name, **(place | fields))

    return make


def test_chat(model):
    answer = model("echo", temperature=0, num_ctx=1024, keep_alive=60).invoke("hello there")
    assert "hello there" in answer.content
    assert answer.response_metadata["done_reason"] == "stop"
    assert answer.usage_metadata["output_tokens"] > 0


def test_chat_in_a_stream(model):
    pieces = list(model("echo").stream("hello there"))
    assert "hello there" in "".join(piece.content for piece in pieces)
    assert len(pieces) > 2


async def test_chat_of_the_async_client(model):
    async with httpx.AsyncHTTPTransport() as transport:
        asked = model("echo", async_client_kwargs={"transport": transport})
        assert "hello there" in (await asked.ainvoke("hello there")).content


def test_a_completion(place):
    assert "hello" in OllamaLLM(model="echo", **place).invoke("hello")


def test_a_tool_is_called_and_its_result_is_read(model):
    bound = model().bind_tools([add])
    asked = HumanMessage(says(calls(("add", '{"a": 1, "b": 2}'))))
    first = bound.invoke([asked])
    (call,) = first.tool_calls
    assert (call["name"], call["args"]) == ("add", {"a": 1, "b": 2})
    result = ToolMessage(f"{add.invoke(call['args'])} {says('It is 3.')}", tool_call_id=call["id"])
    second = bound.invoke([asked, first, result])
    assert (second.content, second.tool_calls) == ("It is 3.", [])


def test_a_tool_in_a_stream(model):
    whole = None
    for piece in model().bind_tools([add]).stream(says(calls(("add", '{"a": 1, "b": 2}')))):
        whole = piece if whole is None else whole + piece
    assert [call["args"] for call in whole.tool_calls] == [{"a": 1, "b": 2}]


def test_structured_output(model):
    structured = model("echo").with_structured_output(Echo, method="json_schema")
    assert structured.invoke("hello") == Echo(echo=True)
    assert list(structured.stream("hello"))[-1] == Echo(echo=True)


def test_structured_output_by_a_tool(model):
    structured = model().with_structured_output(Echo, method="function_calling")
    assert structured.invoke(says(calls(("Echo", '{"echo": false}')))) == Echo(echo=False)


@pytest.mark.parametrize("reasoning", [True, "low"])
def test_thinking_comes_apart(model, reasoning):
    answer = model(reasoning=reasoning).invoke(THOUGHT)
    assert answer.content == "Blue."
    assert answer.additional_kwargs["reasoning_content"] == "Hm, well."


def test_thinking_in_a_stream(model):
    pieces = list(model(reasoning=True).stream(THOUGHT))
    thought = [piece.additional_kwargs.get("reasoning_content") or "" for piece in pieces]
    assert "".join(thought) == "Hm, well."
    assert "".join(piece.content for piece in pieces) == "Blue."


def test_embeddings(place):
    vectors = OllamaEmbeddings(model="echo", **place)
    assert [len(vector) for vector in vectors.embed_documents(["a", "b"])] == [16, 16]
    assert len(vectors.embed_query("a")) == 16


async def test_embeddings_of_the_async_client(place):
    async with httpx.AsyncHTTPTransport() as transport:
        vectors = OllamaEmbeddings(
            model="echo", async_client_kwargs={"transport": transport}, **place
        )
        assert [len(vector) for vector in await vectors.aembed_documents(["a", "b"])] == [16, 16]
