"""A model that sees, asked through the official packages, all four unchanged."""

import base64
import json
import zlib
from contextlib import contextmanager

import anthropic
import httpx
import ollama
import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_ollama import ChatOllama

from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.fakes.seeing import bmp, png, png_of, tiny_projector_gguf
from tests.integration.cli_process import Command

CAT, DOG = png(seed=1), png(seed=2)
MODEL = "eye"


def b64(data):
    return base64.b64encode(data).decode()


@contextmanager
def ollama_client(service):
    client = ollama.Client(host=service.url)
    yield client
    client.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eye")
    tiny_llama_gguf(folder / "model.gguf", context=2048, seed=6)
    tiny_projector_gguf(folder / "mmproj.gguf", side=112)
    (folder / "cat.png").write_bytes(CAT)
    (folder / "dog.png").write_bytes(DOG)
    (folder / "notes.txt.png").write_bytes(b"no picture")
    (folder / "Modelfile").write_text(
        "FROM ./model.gguf\nFROM ./mmproj.gguf\nPARAMETER temperature 0\nPARAMETER num_predict 8\n"
    )
    return folder


@pytest.fixture(scope="module")
def served(module_service, folder):
    service = module_service(engine="llama", context_length=2048)
    Command(service.url)("create", MODEL, "-f", str(folder / "Modelfile"))
    service.create("blind", folder / "model.gguf", parameters={"temperature": 0, "num_predict": 8})
    return service


@pytest.fixture(scope="module")
def echo(module_service, folder):
    service = module_service(engine="echo")
    Command(service.url)("create", MODEL, "-f", str(folder / "Modelfile"))
    return service


@pytest.fixture(scope="module")
def hearth(served):
    return Command(served.url)


@pytest.fixture
def by_ollama(served):
    with ollama_client(served) as client:
        yield client


@pytest.fixture
def by_openai(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client:
        yield client


@pytest.fixture
def by_anthropic(served):
    with anthropic.Anthropic(base_url=served.url, api_key="x", max_retries=0) as client:
        yield client


def chat(client, *images, text="what is it?", **fields):
    message = {"role": "user", "content": text, "images": [b64(image) for image in images]}
    answer = client.chat(model=MODEL, messages=[message], **fields)
    return answer.message.content


def test_a_model_with_a_projector_says_that_it_sees(by_ollama, hearth, served):
    shown = by_ollama.show(MODEL)
    assert "vision" in shown.capabilities
    assert "vision" not in by_ollama.show("blind").capabilities
    assert shown.details.families == ["llama", "clip"]
    _, body = served.call("POST", "/api/show", {"model": MODEL})
    assert body["projector_info"]["clip.vision.embedding_length"] == 32
    why = hearth("show", "--why", MODEL).stdout
    assert "its projector lets it see images" in why
    assert "Projector" in hearth("show", MODEL).stdout


def test_ollama_sees_one_picture_as_one_and_another_as_another(by_ollama):
    cat = chat(by_ollama, CAT)
    assert chat(by_ollama, CAT) == cat
    assert chat(by_ollama, DOG) != cat
    assert chat(by_ollama, CAT, DOG) != chat(by_ollama, DOG, CAT)
    assert chat(by_ollama, CAT, text="what is [img] it?") != cat
    assert chat(by_ollama, bmp()) != cat


def test_ollamas_generate_and_raw_prompts(by_ollama):
    def generate(prompt, *images, **fields):
        images = [b64(image) for image in images]
        return by_ollama.generate(model=MODEL, prompt=prompt, images=images, **fields)

    assert generate("what is it?", CAT).response == chat(by_ollama, CAT)
    first = generate("[img-1] x [img-0] y", CAT, DOG, raw=True).response
    assert first == generate("[img-0] x [img-1] y", DOG, CAT, raw=True).response
    assert first != generate("[img-0] x [img-1] y", CAT, DOG, raw=True).response
    told = generate("what?", CAT)
    assert all(token >= 0 for token in told.context)
    again = by_ollama.generate(model=MODEL, prompt="and?", context=told.context)
    assert again.response


def test_the_prompt_cache_tells_pictures_apart(by_ollama, served):
    def cached(image):
        message = {"role": "user", "content": "[img] is what?", "images": [b64(image)]}
        body = {"model": MODEL, "messages": [message], "stream": False}
        answer = served.call("POST", "/api/chat", body)[1]
        return answer["prompt_cached_count"], answer["prompt_eval_count"]

    cached(DOG)
    some, total = cached(CAT)
    whole, again = cached(CAT)
    assert (again, whole) == (total, total - 1)
    assert some < total - 64  # the picture takes 64 tokens


def test_openai_keeps_the_order_of_parts(by_openai, by_ollama):
    def ask(*parts):
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {
                "type": "image_url",
                "image_url": {"url": f"data:image/png;base64,{b64(part)}"},
            }
            for part in parts
        ]
        messages = [{"role": "user", "content": content}]
        # the package's temperature is the API's: the model's own is 0
        answer = by_openai.chat.completions.create(
            model=MODEL, messages=messages, temperature=0, max_tokens=8
        )
        return answer.choices[0].message.content

    assert ask(CAT, "what is it?") == chat(by_ollama, CAT)
    assert ask("what is ", CAT, "it?") == chat(by_ollama, CAT, text="what is [img]it?")
    assert ask("a", CAT, "b", DOG) != ask("a", DOG, "b", CAT)


def test_openais_responses(by_openai, by_ollama):
    content = [
        {"type": "input_image", "image_url": f"data:image/png;base64,{b64(CAT)}", "detail": "auto"},
        {"type": "input_text", "text": "what is it?"},
    ]
    answer = by_openai.responses.create(
        model=MODEL,
        input=[{"role": "user", "content": content}],
        temperature=0,
        max_output_tokens=8,
        store=False,
    )
    assert answer.output_text == chat(by_ollama, CAT)


def test_anthropic(by_anthropic, by_ollama):
    def ask(*parts):
        return [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": b64(part)},
            }
            for part in parts
        ]

    def say(*parts):
        answer = by_anthropic.messages.create(
            model=MODEL,
            max_tokens=8,
            messages=[{"role": "user", "content": ask(*parts)}],
            extra_body={"temperature": 0},
        )
        return "".join(block.text for block in answer.content)

    def count(*parts):
        messages = [{"role": "user", "content": ask(*parts)}]
        return by_anthropic.messages.count_tokens(model=MODEL, messages=messages).input_tokens

    assert say(CAT, "what is it?") == chat(by_ollama, CAT)
    assert say("what is ", CAT, "it?") == chat(by_ollama, CAT, text="what is [img]it?")
    assert count(CAT, "what is it?") == count("what is it?") + 64


def test_langchain(served, by_ollama):
    """Whole and in a stream, the picture as a data: URL and as a standard block."""
    blocks = [
        {"type": "image_url", "image_url": f"data:image/png;base64,{b64(CAT)}"},
        {"type": "image", "base64": b64(CAT), "mime_type": "image/png"},
    ]
    with httpx.HTTPTransport() as transport:  # closed with the test: the package closes none
        model = ChatOllama(
            model=MODEL, base_url=served.url, sync_client_kwargs={"transport": transport}
        )
        for block in blocks:
            text = {"type": "text", "text": "what is it?"}
            message = HumanMessage(content=[text, block])
            answer = model.invoke([message])
            # the package puts a line break before each part
            assert answer.content == chat(by_ollama, CAT, text="\nwhat is it?")
            assert "".join(piece.content for piece in model.stream([message])) == answer.content


def test_pictures_with_streams(by_ollama, by_openai, by_anthropic):
    said = chat(by_ollama, CAT)
    text = {"type": "text", "text": "what is it?"}
    message = {"role": "user", "content": "what is it?", "images": [b64(CAT)]}
    pieces = by_ollama.chat(model=MODEL, messages=[message], stream=True)
    assert "".join(piece.message.content for piece in pieces) == said
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64(CAT)}"}}
    chunks = by_openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": [url, text]}],
        temperature=0,
        max_tokens=8,
        stream=True,
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said
    source = {"type": "base64", "media_type": "image/png", "data": b64(CAT)}
    with by_anthropic.messages.stream(
        model=MODEL,
        max_tokens=8,
        messages=[{"role": "user", "content": [{"type": "image", "source": source}, text]}],
        extra_body={"temperature": 0},
    ) as stream:
        assert "".join(stream.text_stream) == said


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (b"no picture", "image 0 of the request: it is not an image; allowed are PNG, JPEG"),
        (CAT[:-20], "truncated"),
        (png_of(50_000, 50_000, b""), "50000x50000 pixels; at most"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP, which this box cannot decode"),
        (CAT[:45] + bytes(15) + CAT[60:], "damaged"),
        (png_of(40, 30, zlib.compress(bytes(90_000_000))), "more are packed in it"),
    ],
    ids=["text", "truncated", "bomb", "webp", "damaged", "unfolding"],
)
def test_bad_pictures_are_one_clear_error(by_ollama, image, words):
    with pytest.raises(ollama.ResponseError) as caught:
        chat(by_ollama, image)
    assert caught.value.status_code == 400
    assert words in str(caught.value)
    assert chat(by_ollama, CAT)  # and it goes on


def test_too_many_pictures_and_addresses_of_them(by_ollama, by_openai):
    with pytest.raises(ollama.ResponseError, match="65"):
        chat(by_ollama, *[CAT] * 65)
    content = [{"type": "image_url", "image_url": {"url": "http://192.0.2.1/cat.png"}}]
    with pytest.raises(openai.BadRequestError, match="image URLs are not currently supported"):
        by_openai.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": content}]
        )


def test_pictures_that_do_not_fit_the_context(by_ollama):
    with pytest.raises(ollama.ResponseError, match="longer than the context length"):
        chat(by_ollama, *[png(seed=n) for n in range(5)], options={"num_ctx": 256})


def test_old_pictures_leave_with_their_messages(served):
    turns = []
    for number in range(4):
        turns.append({"role": "user", "content": "look", "images": [b64(png(seed=number))]})
        turns.append({"role": "assistant", "content": "seen"})
    body = {
        "model": MODEL,
        "messages": [*turns, {"role": "user", "content": "so?", "images": [b64(CAT)]}],
        "stream": False,
        "options": {"num_ctx": 256},
    }
    status, answer = served.call("POST", "/api/chat", body)
    assert (status, answer["done"]) == (200, True)
    assert answer["prompt_eval_count"] < 256


def test_who_cannot_see_says_so(by_ollama, echo):
    with pytest.raises(ollama.ResponseError, match='"blind" does not support vision'):
        by_ollama.chat(
            model="blind", messages=[{"role": "user", "content": "a", "images": [b64(CAT)]}]
        )
    words = '"eye" does not support vision on the echo engine'
    with ollama_client(echo) as client, pytest.raises(ollama.ResponseError, match=words):
        chat(client, CAT)
    assert "does not see the images" in Command(echo.url)("show", "--why", MODEL).stdout


def test_rendered_prompts_show_images_as_ollama_does(served):
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "a [img] b", "images": [b64(CAT)]}],
        "_debug_render_only": True,
    }
    _, answer = served.call("POST", "/api/chat", body)
    assert "a [img-0] b" in json.dumps(answer)


def test_hearth_run_with_a_path(hearth, folder, by_ollama):
    done = hearth("run", MODEL, "what is it?", str(folder / "cat.png"))
    assert f"Added image '{folder / 'cat.png'}'" in done.stderr
    assert done.stdout.strip() == chat(by_ollama, CAT).strip()
    assert "not a" in hearth("run", MODEL, "x", str(folder / "notes.txt.png")).stderr
