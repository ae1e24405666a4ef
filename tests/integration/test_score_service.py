"""Rerank, score, tokenize and detokenize over real sockets, with llama.cpp behind them."""

import math

import pytest

from tests.fakes.gguf_builder import (
    CHATML,
    tiny_embedding_gguf,
    tiny_llama_gguf,
    tiny_qwen3_reranker_gguf,
)
from tests.integration.raw_http import assert_error, send

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
QUERY = "what is the answer"
DOCUMENTS = ["the dog", "the user asked the assistant", "answer", "fox jumps over the lazy dog"]


@pytest.fixture(scope="module")
def served(module_service, tmp_path_factory):
    """The llama engine with a model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    running = module_service(engine="llama", context_length=256)
    running.create("chat", tiny_llama_gguf(folder / "chat.gguf"))
    running.create("bert", tiny_embedding_gguf(folder / "bert.gguf"))
    running.create("cross", tiny_embedding_gguf(folder / "cross.gguf", pooling=None, labels=1))
    running.create("mood", tiny_embedding_gguf(folder / "mood.gguf", labels=3))
    running.create("headless", tiny_embedding_gguf(folder / "headless.gguf", pooling=4))
    running.create("qwen", tiny_qwen3_reranker_gguf(folder / "qwen.gguf"))
    return running


def ask(served, path, **body):
    status, answer = served.call("POST", path, body)
    assert status == 200, answer
    return answer


def rerank(served, model="cross", path="/v1/rerank", **fields):
    body = {"model": model, "query": QUERY, "documents": DOCUMENTS, **fields}
    return ask(served, path, **body)


def scores(served, model="cross", **fields):
    answer = ask(served, "/v1/score", model=model, text_1=QUERY, text_2=DOCUMENTS, **fields)
    return [entry["score"] for entry in answer["data"]]


@pytest.mark.parametrize("model", ["cross", "bert", "qwen"])
@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_come_back_by_relevance(served, model, path):
    answer = rerank(served, model, path)
    assert answer.keys() == {"id", "model", "usage", "results"}
    assert answer["model"] == model
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 0
    relevances = [result["relevance_score"] for result in answer["results"]]
    assert relevances == sorted(relevances, reverse=True)
    assert sorted(result["index"] for result in answer["results"]) == [0, 1, 2, 3]
    for result in answer["results"]:
        assert result["document"] == {"text": DOCUMENTS[result["index"]]}
    by_index = {result["index"]: result["relevance_score"] for result in answer["results"]}
    assert scores(served, model) == pytest.approx([by_index[n] for n in range(4)], abs=1e-3)


def test_top_n_and_return_documents(served):
    whole = rerank(served)["results"]
    two = rerank(served, top_n=2, return_documents=False)["results"]
    assert two == [{k: r[k] for k in ("index", "relevance_score")} for r in whole[:2]]
    assert rerank(served, top_n=99)["results"] == whole
    assert rerank(served, top_n=None)["results"] == whole


def test_documents_may_be_objects_and_one_text(served):
    objects = [{"text": text, "id": 7} for text in DOCUMENTS]
    assert rerank(served, documents=objects)["results"] == rerank(served)["results"]
    (one,) = rerank(served, documents="the dog")["results"]
    assert one["document"] == {"text": "the dog"}


def test_a_classifiers_scores_are_shares_of_one_or_raw(served):
    raw = scores(served, use_activation=False)
    assert scores(served) == pytest.approx([1 / (1 + math.exp(-x)) for x in raw], abs=1e-5)
    assert scores(served, activation=False) == pytest.approx(raw, abs=1e-5)
    assert scores(served, "bert", use_activation=False) == scores(served, "bert")


@pytest.mark.parametrize(
    ("first", "second"),
    [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")],
)
def test_pairs_have_four_names(served, first, second):
    body = {"model": "cross", first: ["what", "who"], second: ["the dog", "the fox"]}
    answer = ask(served, "/score", **body)
    assert answer["object"] == "list"
    assert [(e["index"], e["object"]) for e in answer["data"]] == [(0, "score"), (1, "score")]
    assert answer["usage"]["completion_tokens"] == 0
    single = ask(served, "/v1/score", model="cross", text_1="who", text_2="the fox")["data"]
    assert answer["data"][1]["score"] == pytest.approx(single[0]["score"], abs=1e-3)


def test_long_documents_are_cut_unless_that_is_refused(served):
    long = "the dog thinks " * 200
    assert len(rerank(served, documents=[long, "dog"])["results"]) == 2
    cut = rerank(served, documents=[long], max_tokens_per_doc=2)["results"]
    short = rerank(served, documents=["the dog"])["results"]
    assert cut[0]["relevance_score"] == short[0]["relevance_score"]
    body = {"model": "cross", "query": QUERY, "documents": ["dog", long], "truncate": False}
    reply = send(served, "POST", "/v1/rerank", body=body)
    assert "document 1 has" in assert_error(reply, 400, "/v1/rerank")
    assert reply.json["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"model": "chat"}, 400, '"chat" does not support rerank: it generates text'),
        ({"model": "headless"}, 400, "holds no classifier"),
        ({"model": "mood"}, 400, "sorts texts into 3 classes"),
        ({"model": "nobody"}, 404, "model 'nobody' not found"),
        ({"model": ""}, 400, "model is required"),
        ({"query": None}, 400, "query is required"),
        ({"query": " "}, 400, "query is required"),
        ({"query": ["a"]}, 400, "query is required"),
        ({"documents": None}, 400, "documents is required"),
        ({"documents": []}, 400, "documents is required"),
        ({"documents": [1]}, 400, "documents[0] is no text"),
        ({"documents": ["a", {"url": "x"}]}, 400, "documents[1] is no text"),
        ({"documents": ["a"] * 1025}, 413, "'documents' has 1025 entries, 1024 are allowed"),
        ({"documents": ["a" * 2100] * 1024, "query": "b" * 2100}, 413, "characters together"),
        ({"query": "the dog " * 300}, 400, "the query has"),
        ({"top_n": -1}, 400, "top_n is -1"),
        ({"top_n": "two"}, 400, "wrong type"),
        ({"max_tokens_per_doc": -1}, 400, "max_tokens_per_doc is -1"),
        ({"truncate_prompt_tokens": 9}, 400, "'truncate_prompt_tokens' is not supported"),
        ({"rank_fields": ["title"]}, 400, "'rank_fields' is not supported"),
    ],
)
def test_bad_reranks_get_one_clear_error(served, fields, status, text):
    body = {"model": "cross", "query": QUERY, "documents": DOCUMENTS, **fields}
    for path in ("/v1/rerank", "/v2/rerank"):
        assert text in assert_error(send(served, "POST", path, body=body), status, path)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "text_1 and text_2 are required"),
        ({"text_1": "a"}, "text_1 and text_2 are required"),
        ({"text_1": "a", "text_2": []}, "text_2 is required"),
        ({"text_1": ["a", "b"], "text_2": ["a"]}, "text_1 has 2 texts and text_2 1"),
        ({"text_1": {"content": []}, "text_2": ["a"]}, "text_1[0] is no text"),
    ],
)
def test_bad_scores_get_one_clear_error(served, fields, text):
    for path in ("/v1/score", "/score"):
        reply = send(served, "POST", path, body={"model": "cross", **fields})
        assert text in assert_error(reply, 400, path)


def test_a_reranker_says_what_it_can_do(served):
    can = {
        name: served.call("POST", "/api/show", {"model": name})[1]["capabilities"]
        for name in ("chat", "bert", "cross", "qwen")
    }
    assert can == {
        "chat": ["completion"],
        "bert": ["embedding"],
        "cross": ["rerank"],
        "qwen": ["rerank"],
    }
    status, refused = served.call("POST", "/api/embed", {"model": "cross", "input": "a"})
    assert (status, "reranker" in refused["error"]) == (400, True)
    status, refused = served.call("POST", "/api/chat", {"model": "cross", "messages": []})
    assert status == 400
    assert served.call("POST", "/api/rerank", {})[0] == 404  # Ollama has none


# -- tokens ----------------------------------------------------------------------------------


def test_tokens_of_a_text_and_back(served):
    text = "the quick brown fox, é 😀<|im_end|>"
    found = ask(served, "/tokenize", model="chat", prompt=text, return_token_strs=True)
    assert found.keys() == {"count", "max_model_len", "tokens", "token_strs"}
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == 256
    assert found["token_strs"][-1] == "<|im_end|>"  # one token, as the model reads it
    assert ask(served, "/detokenize", model="chat", tokens=found["tokens"]) == {"prompt": text}
    assert ask(served, "/tokenize", model="chat", prompt=text)["token_strs"] is None
    assert ask(served, "/tokenize", model="chat", prompt="")["tokens"] == []


def test_special_tokens_are_added_unless_they_are_not_wanted(served):
    added = ask(served, "/tokenize", model="bert", prompt="the dog")["tokens"]
    plain = ask(served, "/tokenize", model="bert", prompt="the dog", add_special_tokens=False)
    assert added == [2, *plain["tokens"], 3]


def test_a_conversations_tokens_are_those_that_the_chat_reads(served):
    messages = [{"role": "user", "content": "the dog"}]
    found = ask(served, "/tokenize", model="chat", messages=messages)
    back = ask(served, "/detokenize", model="chat", tokens=found["tokens"])["prompt"]
    assert back == "<|im_start|>user\nthe dog<|im_end|>\n<|im_start|>assistant\n"
    chat = {"model": "chat", "messages": messages, "max_tokens": 1}
    assert ask(served, "/v1/chat/completions", **chat)["usage"]["prompt_tokens"] == found["count"]
    bare = ask(served, "/tokenize", model="chat", messages=messages, add_generation_prompt=False)
    text = ask(served, "/detokenize", model="chat", tokens=bare["tokens"])["prompt"]
    assert text == "<|im_start|>user\nthe dog<|im_end|>\n"
    assert '"<|im_start|>assistant' not in CHATML  # the template, and not we, leaves it out


def test_a_go_template_always_opens_the_answer(served, tiny_gguf):
    served.create("go", tiny_gguf, template="[{{ .Prompt }}]")
    body = {"model": "go", "messages": [{"role": "user", "content": "x"}]}
    assert ask(served, "/tokenize", **body)["count"] > 0
    reply = send(served, "POST", "/tokenize", body=body | {"add_generation_prompt": False})
    assert "Go template" in assert_error(reply, 400, "/tokenize")


@pytest.mark.parametrize(
    ("path", "fields", "status", "text"),
    [
        ("/tokenize", {"model": ""}, 400, "model is required"),
        ("/tokenize", {}, 400, "either 'prompt', a text, or 'messages'"),
        ("/tokenize", {"prompt": "a", "messages": []}, 400, "either 'prompt'"),
        ("/tokenize", {"prompt": 5}, 400, "wrong type"),
        ("/tokenize", {"messages": []}, 400, "too short"),
        ("/tokenize", {"messages": [{"role": "user"}]}, 400, "content is missing"),
        ("/tokenize", {"messages": [{"role": "user", "content": [IMAGE]}]}, 400, "no token ids"),
        ("/tokenize", {"prompt": "a", "model": "nobody"}, 404, "model 'nobody' not found"),
        ("/tokenize", {"prompt": "a", "chat_template": "x"}, 400, "'chat_template' is not"),
        (
            "/tokenize",
            {"model": "bert", "messages": [{"role": "user", "content": "x"}]},
            400,
            '"bert" does not support chat',
        ),
        ("/detokenize", {}, 400, "tokens is required"),
        ("/detokenize", {"tokens": "abc"}, 400, "wrong type"),
        ("/detokenize", {"tokens": [-1]}, 400, "negative or beyond"),
        ("/detokenize", {"tokens": [320]}, 400, "token id 320"),
        ("/detokenize", {"tokens": [0] * 262145}, 413, "262144 are allowed"),
        ("/detokenize", {"tokens": [1], "model": "nobody"}, 404, "model 'nobody' not found"),
    ],
)
def test_bad_tokens_get_one_clear_error(served, path, fields, status, text):
    reply = send(served, "POST", path, body={"model": "chat", **fields})
    assert text in assert_error(reply, status, path)


def test_what_is_asked_is_counted_and_logged(served):
    scores(served)
    text = served.call("GET", "/metrics")[1]
    assert 'hearth_http_requests_total{route="score",dialect="openai",code="200"}' in text
    ask(served, "/tokenize", model="chat", prompt="x")
    text = served.call("GET", "/metrics")[1]
    assert 'hearth_http_requests_total{route="tokens",dialect="openai",code="200"}' in text
    assert "path=/v1/score status=200 model=cross" in served.log
