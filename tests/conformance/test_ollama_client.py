"""The official `ollama` package, unchanged, against the service."""

import base64
import hashlib

import ollama
import pytest
from pydantic import BaseModel

HELLO = [{"role": "user", "content": "hello there"}]


class Echo(BaseModel):
    """What the echo engine says under any schema."""

    echo: bool


TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}


@pytest.fixture
def client(service):
    with_url = ollama.Client(host=service.url)
    yield with_url
    with_url.close()


@pytest.fixture
async def async_client(service):
    with_url = ollama.AsyncClient(host=service.url)
    yield with_url
    await with_url.close()


def test_generate(client):
    answer = client.generate("echo", "one two", raw=True)
    assert answer.response == "one two"
    assert answer.done
    assert answer.done_reason == "stop"
    assert answer.eval_count == 2


def test_generate_in_a_stream(client):
    pieces = list(client.generate("echo", "one two three", raw=True, stream=True))
    assert "".join(piece.response for piece in pieces) == "one two three"
    assert [piece.done for piece in pieces] == [False, False, False, True]
    assert pieces[-1].total_duration > 0


def test_generate_with_options_and_context(client):
    first = client.generate("echo", "hi", options={"num_predict": 2, "seed": 1, "mirostat": 1})
    assert first.done_reason == "length"
    second = client.generate("echo", "again", context=list(first.context), keep_alive="1m")
    assert len(second.context) > len(first.context)


def test_chat(client):
    answer = client.chat("echo", HELLO, options={"temperature": 0})
    assert answer.message.role == "assistant"
    assert "hello there" in answer.message.content


def test_chat_in_a_stream(client):
    pieces = list(client.chat("echo", HELLO, stream=True, keep_alive=60))
    assert "hello there" in "".join(piece.message.content for piece in pieces)
    assert pieces[-1].done_reason == "stop"


@pytest.mark.parametrize(
    ("template", "is_gone_on_with"),
    [
        (
            "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
            "<{{ .Role }}>{{ .Content }}{{ if not $last }}</>{{ end }}"
            '{{ if and $last (ne .Role "assistant") }}</><assistant>{{ end }}{{ end }}',
            True,
        ),
        ("<user>{{ .Prompt }}</><assistant>{{ .Response }}</>", True),
        ("{{ range .Messages }}<{{ .Role }}>{{ .Content }}</>{{ end }}<assistant>", False),
    ],
    ids=["asks for the last", "one turn at a time", "closes each turn"],
)
def test_an_answer_that_has_begun(service, client, tiny_gguf, template, is_gone_on_with):
    """The template decides, as in Ollama: most of Ollama's own leave the last turn open."""
    service.create("begun", tiny_gguf, template=template)
    begun = [*HELLO, {"role": "assistant", "content": "Well, I"}]
    said = client.chat("begun", begun, keep_alive=0).message.content  # the echo says the prompt
    assert said.endswith("<assistant>Well, I" if is_gone_on_with else "Well, I</><assistant>")


def test_chat_with_a_format(client):
    answer = client.chat("echo", HELLO, format=Echo.model_json_schema())
    assert Echo.model_validate_json(answer.message.content).echo is True
    assert client.chat("echo", HELLO, format="json").message.content == '{"echo": true}'


def test_a_form_in_a_stream(client):
    pieces = client.chat("echo", HELLO, format=Echo.model_json_schema(), stream=True)
    Echo.model_validate_json("".join(piece.message.content for piece in pieces))


async def test_embed_of_the_async_client(async_client):
    answer = await async_client.embed("echo", ["a", "b"])
    assert [len(vector) for vector in answer.embeddings] == [16, 16]


def test_chat_with_logprobs(client):
    answer = client.generate("echo", "a b", raw=True, logprobs=True, top_logprobs=2)
    assert [entry.token for entry in answer.logprobs] == ["a", " b"]
    assert answer.logprobs[0].logprob < 0
    assert answer.logprobs[0].top_logprobs[0].token == "a"


async def test_chat_of_the_async_client(async_client):
    pieces = [piece async for piece in await async_client.chat("echo", HELLO, stream=True)]
    assert pieces[-1].done
    answer = await async_client.chat("echo", HELLO)
    assert "".join(piece.message.content for piece in pieces) == answer.message.content


def test_embed(client):
    answer = client.embed("echo", ["a", "b"], dimensions=8)
    assert [len(vector) for vector in answer.embeddings] == [8, 8]
    assert len(client.embeddings("echo", "a").embedding) == 16


def test_models(client):
    assert "echo:latest" in [model.model for model in client.list().models]
    client.generate("echo")
    (loaded,) = client.ps().models
    assert loaded.model == "echo:latest"
    assert loaded.context_length > 0
    shown = client.show("echo")
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.capabilities == ["completion"]
    assert shown.details.family == "llama"


def test_copy_create_and_delete(client):
    assert client.copy("echo", "twin").status == "success"
    statuses = [
        step.status
        for step in client.create(
            "child", from_="twin", system="Be brief.", parameters={"top_k": 3}, stream=True
        )
    ]
    assert statuses[-1] == "success"
    assert "Be brief." in client.show("child").modelfile
    for name in ("twin", "child"):
        assert client.delete(name).status == "success"
    assert not {"twin:latest", "child:latest"} & {model.model for model in client.list().models}


def test_create_from_an_uploaded_file(client, tiny_gguf):
    digest = client.create_blob(tiny_gguf)
    assert digest == f"sha256:{hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()}"
    assert client.create("uploaded", files={"tiny.gguf": digest}).status == "success"
    client.delete("uploaded")


def test_push_and_pull(client, docker_registry):
    name = f"{docker_registry.address}/library/echo"
    client.copy("echo", name)
    pushed = [step.status for step in client.push(name, insecure=True, stream=True)]
    assert (pushed[0], pushed[-1]) == ("retrieving manifest", "success")
    digest = next(model.digest for model in client.list().models if model.model.startswith(name))
    client.delete(name)
    steps = list(client.pull(name, stream=True))
    assert steps[-1].status == "success"
    weights = max(steps, key=lambda step: step.total or 0)
    assert weights.status == f"pulling {weights.digest.removeprefix('sha256:')[:12]}"
    assert client.pull(name).status == "success"
    assert client.push(name).status == "success"
    assert next(m.digest for m in client.list().models if m.model.startswith(name)) == digest
    assert "hello there" in client.chat(name, HELLO).message.content
    client.delete(name)


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        (lambda c: c.chat("nobody", HELLO), 404, "model 'nobody' not found"),
        (lambda c: c.show("nobody"), 404, "model 'nobody:latest' not found"),
        (lambda c: c.delete("nobody"), 404, "model 'nobody' not found"),
        (lambda c: c.copy("nobody", "x"), 404, 'model "nobody" not found'),
        (lambda c: c.pull("nobody"), 502, "pull model manifest"),
        (lambda c: c.generate("echo", "a", think=True), 400, '"echo" does not support thinking'),
        (lambda c: c.chat("echo", HELLO, tools=[TOOL]), 400, "support tools"),
        (
            lambda c: c.generate("echo", "a", images=[base64.b64encode(b"x").decode()]),
            400,
            '"echo" does not support vision',
        ),
        (lambda c: c.generate("echo", "a", suffix="b"), 400, "does not support insert"),
        (lambda c: c.generate("echo", "a", options={"top_k": "x"}), 500, "must be of type integer"),
    ],
)
def test_errors(client, call, status, text):
    with pytest.raises(ollama.ResponseError, match=text) as caught:
        call(client)
    assert caught.value.status_code == status


def test_an_error_in_mid_stream_is_raised(start_service, tiny_gguf):
    service = start_service()
    service.create("echo", tiny_gguf)
    client = ollama.Client(host=service.url)
    pieces = client.generate("echo", "[[crash]]", raw=True, stream=True)
    assert next(pieces).response == " on"
    with pytest.raises(ollama.ResponseError, match="SIGKILL"):
        list(pieces)
    client.close()
