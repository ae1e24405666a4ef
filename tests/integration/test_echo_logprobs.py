"""/v1/completions with `echo` and `logprobs`: what the prompt's own tokens are worth to the model.

The last part replays what evaluation harnesses send (lm-evaluation-harness, local-completions:
token ids, echo, logprobs, one token), and compares the sums with llama.cpp asked directly.
"""

import json

import numpy as np
import openai
import pytest

from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.fakes.llama_runs import plain_context, plain_logits
from tests.integration.raw_http import assert_error, send

TEXT = "the quick brown fox é 😀 jumps"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_llama_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module", params=["llama", "paged"])
def served(request, module_service, path):
    running = module_service(engine=request.param, context_length=256)
    running.create("tiny", path, parameters={"temperature": 0})
    return running


def complete(service, **fields):
    body = {"model": "tiny", "prompt": TEXT, "echo": True, "logprobs": 1, "max_tokens": 4, **fields}
    status, answer = service.call("POST", "/v1/completions", body)
    assert status == 200, answer
    return answer


def tokens_of(service, text):
    return service.call("POST", "/tokenize", {"model": "tiny", "prompt": text})[1]["tokens"]


def model_logprobs(path, tokens):
    """(len(tokens) - 1, vocab_size): the distribution behind each prefix."""
    with plain_context(path) as (context, vocab):
        rows = [plain_logits(context, vocab, tokens[:n]) for n in range(1, len(tokens))]
    logits = np.array(rows, dtype=np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_prompt_and_answer_are_one_list(served, path):
    answer = complete(served)
    (choice,) = answer["choices"]
    prompt = tokens_of(served, TEXT)
    assert choice["text"].startswith(TEXT)
    found = choice["logprobs"]
    count = answer["usage"]["completion_tokens"]
    assert {len(values) for values in found.values()} == {len(prompt) + count}
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    expected = model_logprobs(path, prompt)
    for place, token in enumerate(prompt[1:], 1):
        row = expected[place - 1]
        assert found["token_logprobs"][place] == pytest.approx(row[token], abs=1e-2)
        (best,) = found["top_logprobs"][place].values()
        assert best == pytest.approx(row.max(), abs=1e-2)
    offsets = found["text_offset"]
    assert offsets == sorted(offsets)
    fox = found["tokens"].index(" fox") if " fox" in found["tokens"] else None
    if fox is not None:
        assert choice["text"][offsets[fox] :].startswith(" fox")
    assert offsets[len(prompt)] == len(TEXT)


def test_a_prompt_alone(served):
    answer = complete(served, max_tokens=0)
    (choice,) = answer["choices"]
    assert choice["text"] == TEXT
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 0
    assert len(choice["logprobs"]["tokens"]) == len(tokens_of(served, TEXT))
    silent = complete(served, max_tokens=0, logprobs=None)["choices"][0]
    assert (silent["text"], silent["logprobs"]) == (TEXT, None)
    assert complete(served, max_tokens=0, echo=False)["choices"][0]["text"] == ""


def test_the_answer_is_the_one_without_an_echo(served):
    plain = complete(served, echo=False, logprobs=None)["choices"][0]["text"]
    assert complete(served)["choices"][0]["text"] == TEXT + plain
    # asked again, with the prompt in the cache
    assert complete(served)["choices"][0]["text"] == TEXT + plain


def test_token_ids_have_their_text_from_the_vocabulary(served):
    ids = tokens_of(served, TEXT)
    by_ids, by_text = complete(served, prompt=ids), complete(served)
    assert by_ids["choices"] == by_text["choices"]
    several = complete(served, prompt=[ids, ids[:3]], max_tokens=0)["choices"]
    assert several[0]["text"] == TEXT
    assert len(several[1]["logprobs"]["tokens"]) == 3


def test_a_stream_says_the_same(served):
    whole = complete(served)["choices"][0]
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    with client:
        chunks = list(
            client.completions.create(
                model="tiny", prompt=TEXT, echo=True, logprobs=1, max_tokens=4, stream=True
            )
        )
    pieces = [chunk.choices[0] for chunk in chunks]
    assert "".join(piece.text for piece in pieces) == whole["text"]
    told = [piece.logprobs for piece in pieces if piece.logprobs is not None]
    tokens = [token for logprobs in told for token in logprobs.tokens]
    offsets = [offset for logprobs in told for offset in logprobs.text_offset]
    assert tokens == whole["logprobs"]["tokens"]
    assert offsets == whole["logprobs"]["text_offset"]


def test_a_prompt_that_is_too_long_is_refused_and_not_cut(served):
    body = {"model": "tiny", "prompt": "the dog " * 400, "echo": True, "logprobs": 0}
    reply = send(served, "POST", "/v1/completions", body=body)
    assert "longer than the context" in assert_error(reply, 400, "/v1/completions")
    body = {"model": "tiny", "prompt": "the dog", "echo": True, "logprobs": 21}
    reply = send(served, "POST", "/v1/completions", body=body)
    assert "logprobs must be 0 to 20" in assert_error(reply, 400, "/v1/completions")


def test_the_echo_engine_has_them_too(start_service, tiny_gguf):
    service = start_service()
    service.create("tiny", tiny_gguf)
    (choice,) = complete(service, prompt="one two", max_tokens=1)["choices"]
    assert choice["text"] == "one twoone"
    assert choice["logprobs"]["tokens"] == ["one", " two", "one"]
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert choice["logprobs"]["text_offset"] == [0, 3, 7]


def loglikelihoods(service, pairs):
    """(sum, is greedy) of each continuation behind its context, as such harnesses read it."""
    contexts = [len(tokens_of(service, context)) for context, _ in pairs]
    prompts = [tokens_of(service, context + rest) for context, rest in pairs]
    answer = complete(service, prompt=prompts, max_tokens=1, temperature=0, seed=1234)
    json.dumps(answer, allow_nan=False)
    found = []
    for choice, start in zip(answer["choices"], contexts, strict=True):
        values = choice["logprobs"]["token_logprobs"][start:-1]
        tops = choice["logprobs"]["top_logprobs"][start:-1]
        is_greedy = all(value == max(top.values()) for value, top in zip(values, tops, strict=True))
        found.append((sum(values), is_greedy))
    return found


def test_loglikelihoods_as_evaluation_harnesses_ask_for_them(served, path):
    contexts = ["the dog thinks about", "the question that the user asked"]
    rests = [" the answer", " zzz", " and then the other"]
    pairs = [(context, rest) for context in contexts for rest in rests]
    for (context, rest), (total, is_greedy) in zip(
        pairs, loglikelihoods(served, pairs), strict=True
    ):
        tokens, start = tokens_of(served, context + rest), len(tokens_of(served, context))
        rows = model_logprobs(path, tokens)
        expected = [rows[place - 1][tokens[place]] for place in range(start, len(tokens))]
        assert total == pytest.approx(sum(expected), abs=5e-2)
        best = [int(rows[place - 1].argmax()) for place in range(start, len(tokens))]
        assert is_greedy == (best == tokens[start:])
    greedy = complete(served, prompt=contexts[0], echo=False, max_tokens=3)["choices"][0]["text"]
    assert loglikelihoods(served, [(contexts[0], greedy)])[0][1]
