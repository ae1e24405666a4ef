"""What Open WebUI sends to an Ollama connection, in its order, and what it makes of the answers.

Facts: backend/open_webui/routers/ollama.py, utils/payload.py and utils/response.py. It translates
from OpenAI's form itself: images and calls lose their wrapping, results keep `tool_call_id`.
"""

import json
from datetime import datetime

import httpx
import pytest

from tests.fakes.scripted import NAME, calls, create_actor, says

USER = {
    "X-OpenWebUI-User-Name": "Ada",
    "X-OpenWebUI-User-Id": "7d3f",
    "X-OpenWebUI-User-Email": "ada@example.org",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "c-1",
    "Authorization": "Bearer none",
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def actor(service, tiny_gguf):
    create_actor(service, tiny_gguf)
    return service


@pytest.fixture
def http(actor):
    with httpx.Client(base_url=actor.url, headers=USER, timeout=60) as client:
        yield client


def stream(http, messages, **fields):
    """The lines of an answer, each parsed."""
    body = {"model": f"{NAME}:latest", "messages": messages, "stream": True, "options": {}}
    with http.stream("POST", "/api/chat", json=body | fields) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        return [json.loads(line) for line in answer.iter_lines()]


def as_openai(call):
    """A call in the form in which Open WebUI keeps it."""
    function = call.get("function", {})
    return {
        "index": call.get("index", function.get("index", 0)),
        "id": call["id"],
        "type": "function",
        "function": {
            "name": function.get("name", ""),
            "arguments": json.dumps(function.get("arguments", {})),
        },
    }


def test_the_connection_is_verified_and_models_are_listed(http):
    assert http.get("/api/version").json()["version"]
    entry = next(m for m in http.get("/api/tags").json()["models"] if m["model"].startswith(NAME))
    assert entry["name"] == entry["model"] == f"{NAME}:latest"
    http.post("/api/generate", json={"model": NAME})
    loaded = {model["name"]: model for model in http.get("/api/ps").json()["models"]}
    assert datetime.fromisoformat(loaded[entry["name"]]["expires_at"]).tzinfo is not None


def test_a_chat_with_thinking_and_usage(http):
    messages = [{"role": "user", "content": says("<think>\nHm.\n</think>\n\nBlue.")}]
    *pieces, last = stream(http, messages, think=True, keep_alive="5m", format="")
    assert "".join(piece["message"].get("thinking") or "" for piece in pieces) == "Hm."
    assert "".join(piece["message"].get("content") or "" for piece in pieces) == "Blue."
    assert last["done"]
    assert last["eval_count"] > 0
    assert last["prompt_eval_count"] > 0
    assert last["total_duration"] > 0


def test_a_tool_is_called_and_its_result_comes_back(http):
    written = calls(("get_current_weather", '{"city": "Oslo"}'))
    messages = [{"role": "user", "content": says(written)}]
    pieces = stream(http, messages, tools=[TOOL])
    found = [call for piece in pieces for call in piece["message"].get("tool_calls") or ()]
    (call,) = [as_openai(call) for call in found]
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    returned = {
        "index": call["index"],
        "id": call["id"],
        "function": {"name": call["function"]["name"], "arguments": {"city": "Oslo"}},
    }
    messages += [
        {"role": "assistant", "tool_calls": [returned]},
        {"role": "tool", "content": f"cold {says('It is cold.')}", "tool_call_id": call["id"]},
    ]
    pieces = stream(http, messages, tools=[TOOL])
    assert "".join(piece["message"]["content"] for piece in pieces) == "It is cold."


def test_a_title_is_made_in_one_piece(http):
    body = {"model": NAME, "messages": [{"role": "user", "content": says('{"title": "Sky"}')}]}
    answer = http.post("/api/chat", json=body | {"stream": False, "options": {"num_predict": 1000}})
    assert json.loads(answer.json()["message"]["content"]) == {"title": "Sky"}


def test_embeddings_for_documents(http):
    body = {"input": ["one", "two"], "model": "echo"}
    answer = http.post("/api/embed", json=body).json()
    assert [len(vector) for vector in answer["embeddings"]] == [16, 16]


def test_an_openai_connection(http):
    listed = http.get("/v1/models").json()["data"]
    assert f"{NAME}:latest" in {model["id"] for model in listed}
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": says("<think>\nHm.\n</think>\n\nBlue.")}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("reasoning") or "" for delta in deltas) == "Hm."
    assert "".join(delta.get("content") or "" for delta in deltas) == "Blue."
    assert chunks[-1]["usage"]["completion_tokens"] > 0
