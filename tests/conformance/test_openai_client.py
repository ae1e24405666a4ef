"""The official `openai` package, unchanged, against the service."""

import openai
import pytest
from pydantic import BaseModel

HELLO = [{"role": "user", "content": "hello there"}]
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}


@pytest.fixture
def client(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture
async def async_client(service):
    url = f"{service.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as opened:
        yield opened


def chat(client, **fields):
    return client.chat.completions.create(**{"model": "echo", "messages": HELLO, **fields})


def test_chat(client):
    answer = chat(client, temperature=0, seed=1, max_completion_tokens=50, user="me")
    (choice,) = answer.choices
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert choice.message.role == "assistant"
    assert "hello there" in choice.message.content
    assert choice.finish_reason == "stop"
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_ids_are_unique(client):
    assert len({chat(client).id for _ in range(5)}) == 5


def test_chat_in_a_stream(client):
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    *pieces, last = chunks
    assert pieces[0].choices[0].delta.role == "assistant"
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == chat(client).choices[0].message.content
    assert [p.choices[0].finish_reason for p in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    assert last.choices == []
    assert last.usage.completion_tokens > 0
    without = list(chat(client, stream=True))
    assert all(chunk.usage is None for chunk in without)


async def test_chat_of_the_async_client(async_client):
    stream = await async_client.chat.completions.create(model="echo", messages=HELLO, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert "hello there" in text


def test_limits_and_stops(client):
    assert chat(client, max_tokens=2).choices[0].finish_reason == "length"
    assert chat(client, max_completion_tokens=2).usage.completion_tokens == 2
    stopped = chat(client, stop=["there"]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content.endswith("hello ")


def test_several_choices(client):
    answer = chat(client, n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    one = chat(client, seed=7)
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens
    assert answer.usage.completion_tokens == 3 * one.usage.completion_tokens


def test_logprobs(client):
    content = chat(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert content[0].logprob < 0
    assert bytes(content[0].bytes).decode() == content[0].token
    assert content[0].top_logprobs[0].token == content[0].token
    plain = chat(client, logprobs=True).choices[0].logprobs.content
    assert plain[0].top_logprobs == []


def test_structured_output(client):
    class Echo(BaseModel):
        echo: bool

    parsed = client.chat.completions.parse(model="echo", messages=HELLO, response_format=Echo)
    assert parsed.choices[0].message.parsed == Echo(echo=True)
    with client.chat.completions.stream(
        model="echo", messages=HELLO, response_format=Echo
    ) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.parsed == Echo(echo=True)
    in_json = chat(client, response_format={"type": "json_object"})
    assert in_json.choices[0].message.content == '{"echo": true}'


def test_ollamas_fields_in_an_extra_body(client, service):
    extra = {"keep_alive": -1, "num_ctx": 256, "options": {"top_k": 3, "num_predict": 1}}
    assert chat(client, extra_body=extra).usage.completion_tokens == 1
    (loaded,) = service.call("GET", "/api/ps")[1]["models"]
    assert loaded["context_length"] == 256
    assert int(loaded["expires_at"][:4]) > 2200


def test_completions(client):
    answer = client.completions.create(model="echo", prompt="one two", logprobs=1)
    (choice,) = answer.choices
    assert answer.object == "text_completion"
    assert choice.text == "one two"
    assert choice.logprobs.tokens == ["one", " two"]
    assert choice.logprobs.text_offset == [0, 3]
    assert choice.logprobs.top_logprobs[0].keys() == {"one"}


def test_completions_of_several_prompts(client):
    answer = client.completions.create(model="echo", prompt=["a", "b"], n=2)
    assert [choice.text for choice in answer.choices] == ["a", "a", "b", "b"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_completions_of_tokens(client, service):
    body = {"model": "echo", "prompt": "one two", "stream": False}
    known = service.call("POST", "/api/generate", body)[1]
    answer = client.completions.create(model="echo", prompt=known["context"])
    # the context holds the prompt and its echo, and is echoed in turn
    assert answer.choices[0].text == known["response"] * 2


def test_completions_in_a_stream(client):
    chunks = list(client.completions.create(model="echo", prompt="one two", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "one two"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_completions_with_an_echo(client):
    answer = client.completions.create(model="echo", prompt=["one ", "two "], echo=True)
    assert [choice.text for choice in answer.choices] == ["one one ", "two two "]
    chunks = client.completions.create(model="echo", prompt="one ", echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "one one "


def test_embeddings(client):
    as_numbers = client.embeddings.create(model="echo", input=["a", "b"], encoding_format="float")
    as_base64 = client.embeddings.create(model="echo", input=["a", "b"])  # decoded by the package
    assert [entry.index for entry in as_numbers.data] == [0, 1]
    for left, right in zip(as_numbers.data, as_base64.data, strict=True):
        assert left.embedding == pytest.approx(right.embedding, rel=1e-6)
    assert as_numbers.usage.prompt_tokens == 2
    cut = client.embeddings.create(model="echo", input="a", dimensions=4)
    assert len(cut.data[0].embedding) == 4


async def test_embeddings_of_the_async_client(async_client):
    answer = await async_client.embeddings.create(model="echo", input=["a", "b"])
    assert [len(entry.embedding) for entry in answer.data] == [16, 16]


def test_models(client):
    assert "echo:latest" in [model.id for model in client.models.list()]
    one = client.models.retrieve("echo")
    assert (one.id, one.object, one.owned_by) == ("echo:latest", "model", "library")


@pytest.mark.parametrize(
    ("fields", "kind", "code", "param"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model_not_found", None),
        ({"messages": []}, openai.BadRequestError, "bad_field", "messages"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "bad_field", "tools"),
        ({"tools": [TOOL]}, openai.BadRequestError, "unsupported", None),
        ({"tools": [TOOL] * 1000}, openai.APIStatusError, "request_too_large", None),
        ({"n": 9}, openai.BadRequestError, "bad_field", "n"),
        ({"reasoning_effort": "high"}, openai.BadRequestError, "unsupported", None),
        ({"reasoning_effort": "deep"}, openai.BadRequestError, "bad_field", "reasoning_effort"),
        ({"extra_body": {"options": {"top_k": "x"}}}, openai.BadRequestError, "bad_option", None),
    ],
)
def test_errors(client, fields, kind, code, param):
    with pytest.raises(kind) as caught:
        chat(client, **fields)
    assert caught.value.code == code
    assert caught.value.param == param
    assert caught.value.type


def test_an_error_in_mid_stream_is_raised(start_service, tiny_gguf):
    service = start_service()
    service.create("echo", tiny_gguf)
    url = f"{service.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        chunks = client.completions.create(model="echo", prompt="[[crash]]", stream=True)
        assert next(chunks).choices[0].text == " on"
        with pytest.raises(openai.APIError, match="SIGKILL"):
            list(chunks)
