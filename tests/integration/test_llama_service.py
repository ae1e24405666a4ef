"""A real model behind the real API: the llama engine in its worker, asked over HTTP."""

import asyncio
import json
import os
import signal

import aiohttp
import pytest

from tests.fakes.gguf_builder import tiny_llama_gguf


@pytest.fixture(scope="module")
def served(module_service, tiny_gguf):
    """The service with llama.cpp and a random model that answers at temperature 0."""
    service = module_service(engine="llama", context_length=512)
    service.create("tiny", tiny_gguf, parameters={"temperature": 0, "num_predict": 16})
    return service


def generate(service, prompt, **fields):
    body = {"model": "tiny", "prompt": prompt, "raw": True, "stream": False, **fields}
    status, answer = service.call("POST", "/api/generate", body)
    assert status == 200, answer
    return answer


def test_same_question_gives_the_same_answer_and_reuses_the_prompt(served):
    prompt = "What is the answer to this question, which is long enough to be kept? " * 3
    first, second = generate(served, prompt), generate(served, prompt)
    assert first["response"] == second["response"]
    assert first["eval_count"] == 16
    assert second["prompt_cached_count"] == second["prompt_eval_count"] - 1


def test_seed_reproduces_and_another_seed_differs(served):
    def answer(seed):
        options = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "seed": seed, "num_predict": 24}
        return generate(served, "Tell me", options=options)["response"]

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_streamed_pieces_are_the_whole_answer_and_never_break_a_character(served):
    options = {"temperature": 1.0, "top_k": 0, "seed": 3, "num_predict": 64}
    whole = generate(served, "Tell me", options=options)["response"]
    body = {"model": "tiny", "prompt": "Tell me", "raw": True, "options": options}

    async def stream():
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{served.url}/api/generate", json=body) as answer,
        ):
            return [json.loads(line) async for line in answer.content]

    pieces = asyncio.run(stream())
    assert "".join(piece["response"] for piece in pieces) == whole
    assert [piece["done"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_stop_string_ends_the_answer_and_is_not_part_of_it(served):
    whole = generate(served, "Tell me")["response"]
    stop = whole[4:6]
    cut = generate(served, "Tell me", options={"stop": [stop]})
    assert cut["response"] == whole[: whole.index(stop)]
    assert cut["done_reason"] == "stop"


def test_context_continues_an_exchange(served):
    first = served.call(
        "POST", "/api/generate", {"model": "tiny", "prompt": "One", "stream": False}
    )[1]
    body = {"model": "tiny", "prompt": "Two", "stream": False, "context": first["context"]}
    second = served.call("POST", "/api/generate", body)[1]
    assert second["context"][: len(first["context"])] == first["context"]
    assert second["prompt_cached_count"] >= len(first["context"]) - 1


def test_prompt_that_is_too_long_is_cut_or_refused_as_asked(served):
    prompt = "word " * 2000
    cut = generate(served, prompt, options={"num_predict": 4})
    assert cut["prompt_eval_count"] < 512
    body = {"model": "tiny", "prompt": prompt, "raw": True, "truncate": False, "stream": False}
    status, refused = served.call("POST", "/api/generate", body)
    assert status == 400
    assert "512" in refused["error"]


def test_long_conversation_keeps_system_and_last_message(served):
    talk = [{"role": "system", "content": "SYSTEM STAYS"}]
    for number in range(60):
        talk += [
            {"role": "user", "content": f"question {number} " * 4},
            {"role": "assistant", "content": f"answer {number} " * 4},
        ]
    talk.append({"role": "user", "content": "LAST STAYS"})
    body = {"model": "tiny", "messages": talk, "stream": False, "_debug_render_only": True}
    status, answer = served.call("POST", "/api/chat", body)
    assert status == 200
    prompt = answer["_debug_info"]["rendered_template"]
    assert "SYSTEM STAYS" in prompt
    assert "LAST STAYS" in prompt
    assert "question 0 " not in prompt
    assert "question 59 " in prompt


def test_json_schema_holds_the_answer(served):
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
        "required": ["yes", "kind"],
    }
    options = {"temperature": 1.0, "num_predict": 200}
    for seed in range(3):
        answer = generate(served, "Say", format=schema, options={**options, "seed": seed})
        value = json.loads(answer["response"])
        assert isinstance(value["yes"], bool)
        assert value["kind"] in {"a", "b"}


async def test_client_that_leaves_frees_the_engine(start_service, tmp_path):
    """Long before the prompt and the answer it asked for would be done."""
    path = await asyncio.to_thread(tiny_llama_gguf, tmp_path / "long.gguf", layers=8, context=4096)
    service = await asyncio.to_thread(start_service, engine="llama", context_length=4096)
    await asyncio.to_thread(service.create, "tiny", path, parameters={"temperature": 0})

    def running():
        return [m["running"] for m in service.call("GET", "/hearth/v1/status")[1]["models"]]

    async def until(state):
        async with asyncio.timeout(20):
            while await asyncio.to_thread(running) != state:
                await asyncio.sleep(0.005)

    body = {"model": "tiny", "prompt": "word " * 3000, "raw": True, "stream": False}
    async with aiohttp.ClientSession() as session:
        for _ in range(3):
            request = asyncio.create_task(session.post(f"{service.url}/api/generate", json=body))
            await until([1])
            request.cancel()
            await until([0])
    answer = await asyncio.to_thread(generate, service, "fine", options={"num_predict": 4})
    assert answer["eval_count"] > 0


def test_killed_worker_is_replaced_by_the_next_request(served):
    before = generate(served, "Tell me")["response"]
    for pid in served.workers():
        os.kill(pid, signal.SIGKILL)
    assert generate(served, "Tell me")["response"] == before


def test_vectors_have_length_one_and_dimensions_are_cut(served):
    body = {"model": "tiny", "input": ["one", "two"], "dimensions": 8}
    status, answer = served.call("POST", "/api/embed", body)
    assert status == 200
    for vector in answer["embeddings"]:
        assert len(vector) == 8
        assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-5)


def test_model_that_cannot_fit_is_refused_with_the_arithmetic(start_service, tiny_gguf):
    service = start_service(engine="llama", memory_reserve_mib=2**20)
    service.create("tiny", tiny_gguf)
    body = {"model": "tiny", "prompt": "x", "stream": False}
    status, refused = service.call("POST", "/api/generate", body)
    assert status in {400, 503, 507}
    assert "KV cache" in refused["error"]
    assert service.workers() == []
