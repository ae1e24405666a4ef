"""`suffix` with models that have tokens for it and a template without a place for it."""

import pytest

from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.fakes.vocabularies import bpe_vocabulary
from tests.integration.raw_http import assert_error, send

NAMES = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
VOCAB = 2048  # with room for tokens that mean nothing


def named_tokens():
    """The vocabulary with the three tokens under the names that models give them, and no keys."""
    tokens = list(bpe_vocabulary(VOCAB)["tokenizer.ggml.tokens"])
    free = next(n for n, token in enumerate(tokens) if token.startswith("<|unused"))
    tokens[free : free + 3] = NAMES
    return tokens, free


@pytest.fixture(scope="module")
def served(module_service, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    tokens, free = named_tokens()
    keys = {
        f"tokenizer.ggml.fim_{short}_token_id": free + place
        for place, short in enumerate(("pre", "suf", "mid"))
    }
    running = module_service(engine="llama", context_length=256)
    for name, metadata in (
        ("named", {"tokenizer.ggml.tokens": tokens}),
        ("keyed", {"tokenizer.ggml.tokens": tokens, **keys}),
        ("none", {}),
    ):
        path = tiny_llama_gguf(folder / f"{name}.gguf", vocab=VOCAB, metadata=metadata)
        running.create(name, path, parameters={"temperature": 0})
    return running


def complete(service, **fields):
    body = {"prompt": "def add(", "suffix": "return a", "max_tokens": 4, **fields}
    status, answer = service.call("POST", "/v1/completions", body)
    assert status == 200, answer
    return answer


def ids_of(service, text, model="named"):
    body = {"model": model, "prompt": text, "add_special_tokens": False}
    return service.call("POST", "/tokenize", body)[1]["tokens"]


@pytest.mark.parametrize("model", ["named", "keyed"])
def test_the_middle_is_written_between_prefix_and_suffix(served, model):
    _, free = named_tokens()
    before, after = ids_of(served, "def add("), ids_of(served, "return a")
    as_tokens = [free, *before, free + 1, *after, free + 2]
    answer = complete(served, model=model)
    plain = complete(served, model=model, prompt=as_tokens, suffix=None)
    assert answer["choices"][0]["text"] == plain["choices"][0]["text"]
    assert answer["usage"]["prompt_tokens"] == len(as_tokens)
    echoed = complete(served, model=model, echo=True)["choices"][0]["text"]
    assert echoed == "def add(" + answer["choices"][0]["text"]


def test_marks_in_the_text_are_text(served):
    answer = complete(served, model="named", prompt="a<|fim_middle|>b")
    marks = 3 + len(ids_of(served, "return a"))
    spelt = answer["usage"]["prompt_tokens"] - marks
    assert spelt > len(ids_of(served, "ab")) + 1  # of several tokens, and none of them the mark


def test_ollamas_dialect_has_it_too(served):
    body = {"model": "named", "prompt": "def add(", "suffix": "return a", "stream": False}
    status, answer = served.call("POST", "/api/generate", body | {"options": {"num_predict": 4}})
    assert status == 200
    assert answer["response"] == complete(served, model="named")["choices"][0]["text"]


def test_what_is_too_long_is_cut_at_its_outer_ends_or_refused(served):
    long = "the dog " * 300
    answer = complete(served, model="named", prompt=long, suffix=long)
    assert 0 < answer["usage"]["prompt_tokens"] < 256
    body = {"model": "named", "prompt": long, "suffix": long, "truncate": False}
    reply = send(served, "POST", "/v1/completions", body=body)
    assert "longer than the context" in assert_error(reply, 400, "/v1/completions")


def test_abilities_are_those_that_the_header_names(served):
    can = {
        name: served.call("POST", "/api/show", {"model": name})[1]["capabilities"]
        for name in ("keyed", "none")
    }
    assert can == {"keyed": ["completion", "insert"], "none": ["completion"]}
    reply = send(
        served, "POST", "/v1/completions", body={"model": "none", "prompt": "a", "suffix": "b"}
    )
    message = assert_error(reply, 400, "/v1/completions")
    assert message == "registry.ollama.ai/library/none:latest does not support insert"
