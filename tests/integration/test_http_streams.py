"""Streams in both dialects: their shape, their end, and clients that misbehave."""

import json

import pytest

from tests.fakes.waiting import wait_for
from tests.integration.raw_http import assert_error, open_request, send

FOREVER = "[[forever]]"
DIALECTS = {
    "/api/generate": {"prompt": "PROMPT", "raw": True},
    "/api/chat": {"messages": [{"role": "user", "content": "PROMPT"}]},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "PROMPT"}]},
    "/v1/completions": {"prompt": "PROMPT"},
}
EVERY = pytest.mark.parametrize("path", DIALECTS)


def body_for(path, prompt, **fields):
    body = json.loads(json.dumps(DIALECTS[path]).replace("PROMPT", prompt))
    return {"model": "echo", "stream": True, **body, **fields}


def documents(path, reply):
    """The JSON documents of a stream, whose frame is checked."""
    assert "Content-Length" not in reply.headers
    if path.startswith("/api/"):
        assert reply.headers["Content-Type"] == "application/x-ndjson"
        return reply.lines
    assert reply.headers["Content-Type"] == "text/event-stream"
    *chunks, end = reply.events
    assert end == "[DONE]"
    return [json.loads(chunk) for chunk in chunks]


def text_of(path, document):
    if path == "/api/generate":
        return document["response"]
    if path == "/api/chat":
        return document["message"]["content"]
    choice = document["choices"][0]
    return choice["text"] if path == "/v1/completions" else choice["delta"].get("content", "")


def read_all(connection):
    while connection.recv(1 << 20):
        pass


def load_of(service):
    """(running, waiting) requests of the model."""
    models = send(service, "GET", "/hearth/v1/status").json["models"]
    return [(model["running"], model["waiting"]) for model in models]


@EVERY
def test_the_stream_says_what_the_whole_answer_says(service, path):
    whole = send(service, "POST", path, body=body_for(path, "one two three", stream=False)).json
    reply = send(service, "POST", path, body=body_for(path, "one two three"))
    found = documents(path, reply)
    assert reply.headers["X-Hearth-Queue-Position"] == "0"
    text = "".join(text_of(path, document) for document in found)
    if path.startswith("/api/"):
        assert text == text_of(path, whole)
        assert [document["done"] for document in found] == [False] * (len(found) - 1) + [True]
        same = ("done_reason", "eval_count", "prompt_eval_count")
        assert [found[-1][key] for key in same] == [whole[key] for key in same]
    else:
        choice = whole["choices"][0]
        assert text == (choice["text"] if "text" in choice else choice["message"]["content"])
        assert found[-1]["choices"][0]["finish_reason"] == choice["finish_reason"] == "stop"
    assert "one two three" in text


@EVERY
def test_a_crash_in_mid_stream_is_the_last_word(start_service, tiny_gguf, path):
    service = start_service()
    service.create("echo", tiny_gguf)
    found = documents(path, send(service, "POST", path, body=body_for(path, "[[crash]] x")))
    assert text_of(path, found[-2])
    error = found[-1]["error"]
    if path.startswith("/v1/"):
        assert error["code"] == "engine_crashed"
        assert error["type"] == "api_error"
        error = error["message"]
    else:
        assert found[-1]["code"] == "engine_crashed"
        assert "done" not in found[-1]
    assert "SIGKILL" in error
    wait_for(lambda: f"path={path} status=200" in service.log)  # it comes after the failure's
    assert service.log.count("Traceback") == 1
    again = send(service, "POST", path, body=body_for(path, "again", stream=False))
    assert again.status == 200


@EVERY
def test_an_error_before_the_first_piece_has_a_status(service, path):
    body = body_for(path, "x", model="nobody")
    assert send(service, "POST", path, body=body).status == 404


@EVERY
def test_a_client_that_leaves_in_mid_stream_frees_its_slot(service, path):
    connection = open_request(service, path, body_for(path, FOREVER))
    assert connection.recv(12) == b"HTTP/1.1 200"
    assert load_of(service) == [(1, 0)]
    connection.close()
    wait_for(lambda: load_of(service) == [(0, 0)])
    wait_for(lambda: f"path={path} status=499" in service.log)


@EVERY
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_before_the_first_token_frees_its_slot(service, path, stream):
    send(service, "POST", path, body=body_for(path, "load", stream=False))
    # It polls for 100 s; only an abort in the middle of that frees the engine in time.
    connection = open_request(service, path, body_for(path, "[[prefill 99999]]", stream=stream))
    wait_for(lambda: load_of(service) == [(1, 0)])
    connection.close()
    wait_for(lambda: load_of(service) == [(0, 0)])
    assert send(service, "POST", path, body=body_for(path, "next", stream=False)).status == 200


@EVERY
def test_a_client_that_leaves_the_queue_is_forgotten(service, path):
    send(service, "POST", path, body=body_for(path, "load", stream=False))
    slots = send(service, "GET", "/hearth/v1/status").json["models"][0]["slots"]
    running = [open_request(service, path, body_for(path, FOREVER)) for _ in range(slots)]
    wait_for(lambda: load_of(service) == [(slots, 0)])
    waiting = open_request(service, path, body_for(path, "later"))
    wait_for(lambda: load_of(service) == [(slots, 1)])
    waiting.close()
    wait_for(lambda: load_of(service) == [(slots, 0)])
    for connection in running:
        connection.close()
    wait_for(lambda: load_of(service) == [(0, 0)])


@pytest.mark.parametrize("path", ["/api/generate", "/v1/chat/completions"])
def test_a_client_that_stops_reading_is_dropped(start_service, tiny_gguf, path):
    service = start_service(write_timeout_s=0.5)
    service.create("echo", tiny_gguf)
    connection = open_request(service, path, body_for(path, FOREVER), receive_buffer=4096)
    wait_for(lambda: load_of(service) == [(1, 0)])
    wait_for(lambda: load_of(service) == [(0, 0)], limit_s=60)
    with connection, pytest.raises(ConnectionResetError):
        read_all(connection)
    wait_for(lambda: f"path={path} status=499" in service.log)
    assert "error=client_stalled" in service.log
    assert "Traceback" not in service.log


def test_a_full_queue_answers_503_with_a_guess(start_service, tiny_gguf):
    service = start_service(max_queue=1)
    service.create("echo", tiny_gguf)
    body = body_for("/api/generate", FOREVER)
    send(service, "POST", "/api/generate", body=body_for("/api/generate", "load"))
    slots = send(service, "GET", "/hearth/v1/status").json["models"][0]["slots"]
    held = [open_request(service, "/api/generate", body) for _ in range(slots + 1)]
    wait_for(lambda: load_of(service) == [(slots, 1)])
    reply = send(service, "POST", "/api/generate", body=body)
    assert reply.status == 503
    assert reply.json["error"] == (
        "server busy, please try again.  maximum pending requests exceeded"
    )
    assert int(reply.headers["Retry-After"]) >= 1
    for connection in held:
        connection.close()


def test_choices_have_their_index_and_one_usage(service):
    path = "/v1/chat/completions"
    usage = {"stream_options": {"include_usage": True}}
    chunks = documents(path, send(service, "POST", path, body=body_for(path, "a b", n=3, **usage)))
    *pieces, last = chunks
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["usage"] is None for chunk in pieces)
    assert {chunk["choices"][0]["index"] for chunk in pieces} == {0, 1, 2}
    texts = {}
    for chunk in pieces:
        choice = chunk["choices"][0]
        texts[choice["index"]] = texts.get(choice["index"], "") + text_of(path, chunk)
    assert len(set(texts.values())) == 1
    assert last["choices"] == []
    whole = send(service, "POST", path, body=body_for(path, "a b", n=3, stream=False)).json
    assert last["usage"] == whole["usage"]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_slots_of_all_choices(service, stream):
    path = "/v1/chat/completions"
    connection = open_request(service, path, body_for(path, FOREVER, n=4, stream=stream))
    wait_for(lambda: load_of(service) == [(4, 0)])
    connection.close()
    wait_for(lambda: load_of(service) == [(0, 0)])


def test_choices_that_fail_together_end_with_one_error(start_service, tiny_gguf):
    service = start_service()
    service.create("echo", tiny_gguf)
    path = "/v1/chat/completions"
    *pieces, last = documents(
        path, send(service, "POST", path, body=body_for(path, "[[crash]]", n=3))
    )
    assert all("choices" in piece for piece in pieces)
    assert last["error"]["code"] == "engine_crashed"
    assert load_of(service) == []


def test_characters_never_break_over_pieces(service):
    smile = "\U0001f600".encode().hex()
    path = "/api/generate"
    found = documents(
        path, send(service, "POST", path, body=body_for(path, f"[[bytes {smile}ff]]"))
    )
    assert [document["response"] for document in found] == ["\U0001f600", "\ufffd", ""]


def test_load_and_unload_by_an_empty_prompt(service):
    for path, key, empty in (
        ("/api/generate", "response", ""),
        ("/api/chat", "message", {"role": "assistant", "content": ""}),
    ):
        loaded = send(service, "POST", path, body={"model": "echo", "keep_alive": -1})
        assert loaded.headers["Content-Type"] == "application/json; charset=utf-8"
        assert loaded.json["done_reason"] == "load"
        assert loaded.json["done"] is True
        assert loaded.json[key] == empty
        (entry,) = send(service, "GET", "/api/ps").json["models"]
        assert entry["name"] == entry["model"] == "echo:latest"
        assert int(entry["expires_at"][:4]) > 2200
        unloaded = send(service, "POST", path, body={"model": "echo", "keep_alive": 0})
        assert unloaded.json["done_reason"] == "unload"
        assert send(service, "GET", "/api/ps").json == {"models": []}
        again = send(service, "POST", path, body={"model": "echo", "keep_alive": 0})
        assert (again.status, again.json["done_reason"]) == (200, "unload")


def test_the_rendered_prompt_without_running_it(service):
    body = {"model": "echo", "_debug_render_only": True}
    messages = [{"role": "user", "content": "hi"}]
    chat = send(service, "POST", "/api/chat", body=body | {"messages": messages}).json
    rendered = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert chat["_debug_info"] == {"rendered_template": rendered}
    generate = send(service, "POST", "/api/generate", body=body | {"prompt": "hi"}).json
    assert generate["_debug_info"] == {"rendered_template": rendered}
    openai = send(service, "POST", "/v1/chat/completions", body=body | {"messages": messages}).json
    assert openai["_debug_info"] == {"rendered_template": rendered}
    assert openai["choices"][0]["message"]["content"] == ""


def test_a_template_in_the_request_replaces_the_models(service):
    body = {"model": "echo", "prompt": "hi", "system": "S.", "_debug_render_only": True}
    template = "{{ if .System }}({{ .System }}) {{ end }}{{ .Prompt }}"
    reply = send(service, "POST", "/api/generate", body=body | {"template": template}).json
    assert reply["_debug_info"] == {"rendered_template": "(S.) hi"}
    reply = send(service, "POST", "/api/generate", body=body | {"template": "\n{{ .Prompt"})
    assert "template: :2: unclosed action" in assert_error(reply, 500, "/api/generate")


def test_the_context_of_an_answer_goes_in_front_of_the_next(service):
    path = "/api/generate"
    first = body_for(path, "one", stream=False, raw=False)
    answer = send(service, "POST", path, body=first).json
    second = first | {"context": answer["context"], "prompt": "two"}
    again = send(service, "POST", path, body=second).json
    assert answer["response"] + answer["response"] in again["response"] + again["response"]
    assert "one" in again["response"]
    assert "context" not in send(service, "POST", path, body=first | {"raw": True}).json


def test_one_line_of_log_per_request(service):
    body = body_for("/api/generate", " ".join(["quiet"] * 23))
    send(service, "POST", "/api/generate", body=body)
    wait_for(lambda: " out=23 " in service.log)
    (line,) = [line for line in service.log.splitlines() if " out=23 " in line]
    for part in (
        "path=/api/generate status=200 model=echo queue_pos=0 queue_ms=",
        " ttft_ms=",
        " prompt=23 cached=0 out=23 finish=stop decode_tok_s=",
        " ms=",
    ):
        assert part in line
    assert "quiet" not in service.log
