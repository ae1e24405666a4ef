"""The paged engine behind HTTP, on the CPU: its limits are one clear error in each dialect."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.raw_http import assert_error, send

CHAT, TEXT, GENERATE = "/v1/chat/completions", "/v1/completions", "/api/generate"
MESSAGES = [{"role": "user", "content": "hi"}]
LONG = "word " * 1000
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}


@pytest.fixture(scope="module")
def served(module_service, tiny_gguf):
    service = module_service(engine="paged", threads=1)
    service.create("m", tiny_gguf)
    return service


def chat(**fields):
    return {"messages": MESSAGES, "max_tokens": 2, **fields}


LIMITS = [
    (CHAT, chat(n=9), "n must be from 1 to 8, not 9"),
    (CHAT, chat(logprobs=True, top_logprobs=21), "top_logprobs must be 0 to 20, not 21"),
    (TEXT, {"prompt": "a", "logprobs": 21}, "logprobs must be 0 to 20, not 21"),
    (TEXT, {"prompt": [5000]}, "allowed are 0 to 319"),
    (TEXT, {"prompt": LONG, "truncate": False}, "the context is 512"),
    (CHAT, chat(messages=[MESSAGES[0] | {"content": LONG}], truncate=False), "the context is 512"),
    (CHAT, chat(logit_bias={"5000": 1}), "beyond 0 to 319"),
    (CHAT, chat(response_format=SCHEMA), "cannot be used: type"),
    (GENERATE, {"prompt": LONG, "truncate": False}, "the context is 512"),
    (GENERATE, {"prompt": "a", "logprobs": True, "top_logprobs": 21}, "between 0 and 20"),
    ("/api/embed", {"input": "a"}, "embed with the llama engine"),
    ("/v1/embeddings", {"input": "a"}, "embed with the llama engine"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body", "seen"), LIMITS)
def test_what_is_over_a_limit_is_one_error_before_anything_is_sent(
    served, path, body, seen, stream
):
    reply = send(served, "POST", path, body={"model": "m", "stream": stream, **body})
    assert seen in assert_error(reply, 400, path)


def test_the_log_tells_the_arithmetic_of_the_cache(served):
    send(served, "POST", TEXT, body={"model": "m", "prompt": "a", "max_tokens": 1})
    loaded = next(line for line in served.log.splitlines() if "loaded model=m" in line)
    assert "the least of" in loaded
    assert "planned)" in loaded


def test_a_seeded_request_says_the_same_alone_and_in_a_crowd(served):
    def ask(number):
        body = {"model": "m", "prompt": f"say {number} " * (1 + number % 5), "max_tokens": 24,
                "temperature": 1.5, "seed": number}  # fmt: skip
        return send(served, "POST", TEXT, body=body).json["choices"][0]

    alone = [ask(number) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, range(12)))
    assert together == alone
    assert len({choice["text"] for choice in alone}) == 12


def test_the_code_of_too_long_a_prompt_is_openais(served):
    body = {"model": "m", "prompt": LONG, "truncate": False, "n": 3}
    assert send(served, "POST", TEXT, body=body).json["error"]["code"] == "context_length_exceeded"


def test_too_long_a_prompt_is_cut_where_that_is_not_forbidden(served):
    body = {"model": "m", "prompt": LONG, "max_tokens": 2}
    usage = send(served, "POST", TEXT, body=body).json["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] <= 512


def test_a_choice_over_a_limit_ends_its_request_and_nothing_else(served):
    good = {"model": "m", "prompt": ["a", "b"], "n": 2, "max_tokens": 4, "temperature": 0}
    before = send(served, "POST", TEXT, body=good).json["choices"]
    mixed = {"model": "m", "prompt": ["a", LONG], "truncate": False, "max_tokens": 4}
    assert_error(send(served, "POST", TEXT, body=mixed), 400, TEXT)
    reply = send(served, "POST", TEXT, body=mixed | {"stream": True})
    *_, error, done = reply.events
    assert (json.loads(error)["error"]["code"], done) == ("context_length_exceeded", "[DONE]")
    assert send(served, "POST", TEXT, body=good).json["choices"] == before
    assert [m["running"] for m in send(served, "GET", "/hearth/v1/status").json["models"]] == [0]


def test_the_cache_is_measured_under_vllms_names(served):
    body = {"model": "m", "prompt": "a b c", "max_tokens": 3}
    assert send(served, "POST", TEXT, body=body).status == 200
    text = send(served, "GET", "/metrics").content.decode()
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("model_name") == "m:latest" or sample.labels == {"model": "m:latest"}
    }
    assert 0 <= found["vllm:kv_cache_usage_perc"] <= 1
    assert found["vllm:num_preemptions_total"] == 0
    assert found["vllm:num_requests_running"] == found["vllm:num_requests_waiting"] == 0
    assert found["hearth_kv_blocks"] > found["hearth_kv_blocks_used"] >= 0
