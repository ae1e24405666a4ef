"""Every endpoint meets missing, mistyped, oversized, deeply nested and unknown input.

Each gets one clear error of its dialect's shape, and the service stays up.
"""

import gzip
import json
import re
from pathlib import Path

import pytest

from tests.integration.raw_http import assert_error, send

TOOL = {"type": "function", "function": {"name": "now"}}
BROKEN = {"function": {"name": "now", "arguments": '{"a": '}}
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}
HELLO = [{"role": "user", "content": "hello"}]

# path -> a body that is fine but for the model, which is "MODEL"
POSTS = {
    "/api/generate": {"model": "MODEL", "prompt": "hi"},
    "/api/chat": {"model": "MODEL", "messages": HELLO},
    "/api/embed": {"model": "MODEL", "input": "hi"},
    "/api/embeddings": {"model": "MODEL", "prompt": "hi"},
    "/api/show": {"model": "MODEL"},
    "/api/create": {"model": "new", "from": "MODEL"},
    "/api/copy": {"source": "MODEL", "destination": "new"},
    "/api/delete": {"model": "MODEL"},
    "/v1/chat/completions": {"model": "MODEL", "messages": HELLO},
    "/v1/completions": {"model": "MODEL", "prompt": "hi"},
    "/v1/embeddings": {"model": "MODEL", "input": "hi"},
    "/v1/responses": {"model": "MODEL", "input": "hi"},
    "/v1/rerank": {"model": "MODEL", "query": "hi", "documents": ["ho"]},
    "/v2/rerank": {"model": "MODEL", "query": "hi", "documents": ["ho"]},
    "/v1/score": {"model": "MODEL", "text_1": "hi", "text_2": "ho"},
    "/tokenize": {"model": "MODEL", "prompt": "hi"},
    "/detokenize": {"model": "MODEL", "tokens": [0]},
    "/v1/messages": {"model": "MODEL", "messages": HELLO, "max_tokens": 9},
    "/v1/messages/count_tokens": {"model": "MODEL", "messages": HELLO},
}
EVERY = pytest.mark.parametrize("path", POSTS)


@pytest.fixture(autouse=True)
def still_up(service):
    """After every test the same process answers, and nothing went wrong inside."""
    yield
    assert send(service, "GET", "/api/version").status == 200
    assert service.process.poll() is None
    assert "Traceback" not in service.log


def post(service, path, body):
    return send(service, "DELETE" if path == "/api/delete" else "POST", path, body=body)


def with_model(path, name):
    return json.loads(json.dumps(POSTS[path]).replace("MODEL", name))


@EVERY
@pytest.mark.parametrize("body", [None, b"", b"  \n"])
def test_no_body(service, path, body):
    assert assert_error(post(service, path, body), 400, path).startswith("missing request body")


@EVERY
@pytest.mark.parametrize("body", [b"{", b"not json", b"\xff\xfe", b'{"model": NaN}', b"\x00"])
def test_no_json(service, path, body):
    assert "not valid JSON" in assert_error(post(service, path, body), 400, path)


@EVERY
@pytest.mark.parametrize("body", [b"[]", b'"text"', b"5", b"true"])
def test_no_object(service, path, body):
    assert "must be a JSON object" in assert_error(post(service, path, body), 400, path)


@EVERY
@pytest.mark.parametrize("value", [5, True, [], {}], ids=repr)
def test_mistyped_fields(service, path, value):
    for field in POSTS[path]:
        if field in {"input", "prompt"} and isinstance(value, list | dict):
            continue  # lists are legal there in some dialects; see the wire tests
        body = with_model(path, "echo") | {field: value}
        if field == "messages" and value == []:
            continue  # only loads the model, or is refused by name
        if field == "max_tokens" and value == 5:
            continue  # right as it is
        if field == "tokens" and value == []:
            continue  # the text of no tokens
        assert_error(post(service, path, body), 400, path)


@EVERY
@pytest.mark.parametrize("depth", [100, 10_000, 100_000])
def test_deep_nesting(service, path, depth):
    body = b'{"model":"echo","x":' + b"[" * depth + b"]" * depth + b"}"
    assert "nested deeper" in assert_error(post(service, path, body), 413, path)


def test_oversized_bodies(start_service):
    strict = start_service(max_body_mib=1)
    for path in POSTS:
        body = with_model(path, "echo") | {"x": "x" * 2_000_000}
        assert "larger than the 1 MiB" in assert_error(post(strict, path, body), 413, path)
    assert send(strict, "GET", "/api/version").status == 200


def test_a_compressed_bomb(start_service):
    strict = start_service(max_body_mib=1)
    bomb = gzip.compress(b'{"model": "' + b"x" * 200_000_000)
    headers = [("Content-Encoding", "gzip")]
    for path in ("/api/chat", "/v1/chat/completions"):
        reply = send(strict, "POST", path, body=bomb, headers=headers)
        assert "uncompressed" in assert_error(reply, 400, path)
    peak = Path(f"/proc/{strict.process.pid}/status").read_text()
    (peak_kb,) = re.findall(r"VmHWM:\s+(\d+) kB", peak)
    assert int(peak_kb) < 200_000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "nonsense"])
@pytest.mark.parametrize("path", ["/api/generate", f"/api/blobs/sha256:{'0' * 64}"])
def test_compressed_body_that_is_broken(service, path, encoding):
    """`still_up` looks for tracebacks in the log."""
    reply = send(service, "POST", path, body=b"hello", headers=[("Content-Encoding", encoding)])
    assert encoding in assert_error(reply, 400, path)


@EVERY
@pytest.mark.parametrize("name", ["nobody", "nobody:tag", "a/b/c:d"])
def test_unknown_model(service, path, name):
    assert "not found" in assert_error(post(service, path, with_model(path, name)), 404, path)


@EVERY
@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a\x00b", "x" * 300, "/etc/passwd", "..", ":", "a b", "é"]
)
def test_impossible_names(service, path, name):
    body = {key: name if value == "MODEL" else value for key, value in POSTS[path].items()}
    reply = post(service, path, body)
    assert_error(reply, reply.status, path)
    assert reply.status in {400, 404}


@EVERY
def test_null_is_an_empty_request(service, path):
    reply = post(service, path, b"null")
    assert_error(reply, reply.status, path)
    assert reply.status in {400, 404}


@EVERY
def test_the_wrong_method(service, path):
    reply = send(service, "PATCH", path)
    assert_error(reply, 405, path)
    assert reply.headers["Allow"]


@pytest.mark.parametrize(
    "path", ["/api/nothing", "/v1/nothing", "/v1/messages/batches", "/hearth/v1/nothing", "/api/"]
)
def test_unknown_api_routes(service, path):
    assert assert_error(send(service, "POST", path, body=b"{}"), 404, path) == "404 page not found"


def test_unknown_pages_are_plain_text(service):
    reply = send(service, "GET", "/nothing")
    assert (reply.status, reply.content) == (404, b"404 page not found")


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions"])
def test_routes_of_later_releases_say_so(service, path):
    assert "later" in assert_error(send(service, "POST", path, body=b"{}"), 501, path)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_too_many_messages(service, path):
    body = {"model": "echo", "messages": HELLO * 4097}
    assert "4097 entries, 4096 are allowed" in assert_error(post(service, path, body), 413, path)


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
        ({"format": 5}, 500, 'invalid format: 5; expected "json" or a valid JSON Schema object'),
        ({"format": "xml"}, 500, "invalid format"),
        ({"options": {"temperature": "hot"}}, 500, 'option "temperature" must be of type float32'),
        ({"options": {"num_ctx": "x"}}, 500, 'option "num_ctx" must be of type integer'),
        ({"options": {"stop": "x"}}, 500, 'option "stop" must be of type array'),
        ({"options": {"use_mmap": 1}}, 500, 'option "use_mmap" must be of type boolean'),
        ({"options": []}, 400, "wrong type"),
        ({"keep_alive": True}, 400, "Unsupported type: 'bool'"),
        ({"keep_alive": "soon"}, 400, "invalid duration"),
        ({"think": True}, 400, '"echo" does not support thinking'),
        ({"think": "deep"}, 400, 'invalid think value: "deep"'),
        ({"model": "nobody", "think": True}, 404, "model 'nobody' not found"),
    ],
)
def test_texts_and_statuses_of_ollama(service, path, fields, status, text):
    reply = post(service, path, with_model(path, "echo") | fields)
    assert text in assert_error(reply, status, path)


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/api/generate", {}, 404, "model '' not found"),
        ("/api/generate", {"model": "No/Such:X"}, 404, "model 'No/Such:X' not found"),
        ("/api/chat", {}, 400, "model is required"),
        ("/api/chat", {"model": "x y"}, 404, "model 'x y' not found"),
        ("/api/embed", {}, 404, "model '' not found"),
        ("/api/embed", {"model": "echo", "input": 5}, 400, "invalid input type"),
        ("/api/embed", {"model": "echo", "input": [1]}, 400, "invalid input type"),
        ("/api/embeddings", {}, 400, "model is required"),
        ("/api/show", {}, 400, "model is required"),
        ("/api/show", {"name": "nobody"}, 404, "model 'nobody:latest' not found"),
        ("/api/delete", {"name": "nobody"}, 404, "model 'nobody' not found"),
        ("/api/delete", {"name": "no body"}, 400, 'name "no body" is invalid'),
        ("/api/copy", {"source": "a b", "destination": "c"}, 400, 'source "a b" is invalid'),
        ("/api/copy", {"source": "echo", "destination": "/"}, 400, 'destination "/" is invalid'),
        ("/api/copy", {"source": "nobody", "destination": "c"}, 404, 'model "nobody" not found'),
        ("/api/create", {"model": "a b"}, 400, "invalid model name"),
        ("/api/create", {"model": "a"}, 400, "neither 'from' or 'files' was specified"),
        ("/api/create", {"model": "a", "files": {"/x": "d"}}, 400, "file path must be relative"),
        ("/api/create", {"model": "a", "files": {"x": ""}}, 400, "invalid digest format"),
        ("/api/create", {"model": "a", "from": "echo", "remote_host": "h"}, 400, "'remote_host'"),
        (
            "/api/generate",
            {"model": "echo", "prompt": "a", "raw": True, "system": "s"},
            400,
            "raw mode does not support template, system, or context",
        ),
        (
            "/api/generate",
            {"model": "echo", "prompt": "a", "suffix": "s"},
            400,
            "registry.ollama.ai/library/echo:latest does not support insert",
        ),
        (
            "/api/generate",
            {"model": "echo", "prompt": "a", "images": ["aGk="]},
            400,
            '"echo" does not support vision',
        ),
        (
            "/api/chat",
            {"model": "echo", "messages": HELLO, "tools": [TOOL]},
            400,
            "registry.ollama.ai/library/echo:latest does not support tools",
        ),
        (
            "/api/chat",
            {"model": "nobody", "messages": HELLO, "tools": [TOOL]},
            404,
            "model 'nobody' not found",
        ),
        (
            "/api/chat",
            {"model": "echo", "messages": HELLO, "tools": [{"type": "function"}]},
            400,
            "tools[0].function must be an object with a name",
        ),
        (
            "/api/chat",
            {"model": "echo", "messages": HELLO, "tools": [TOOL] * 1000},
            413,
            "'tools' has 1000 entries, 128 are allowed",
        ),
        (
            "/api/chat",
            {"model": "echo", "messages": [{"role": "user", "images": ["not base64!"]}]},
            400,
            "messages[0].images[0] is not base64",
        ),
        (
            "/api/chat",
            {"model": "echo", "messages": HELLO, "tool_choice": "required"},
            400,
            "tool_choice needs 'tools'",
        ),
        (
            "/api/chat",
            {"model": "echo", "messages": [{"role": "assistant", "tool_calls": [BROKEN]}]},
            400,
            "messages[0].tool_calls[0].function.arguments is not valid JSON",
        ),
        (
            "/v1/chat/completions",
            {"model": "echo", "messages": HELLO, "tools": [TOOL]},
            400,
            "registry.ollama.ai/library/echo:latest does not support tools",
        ),
        (
            "/v1/chat/completions",
            {"model": "echo", "messages": HELLO, "reasoning_effort": "low"},
            400,
            '"echo" does not support thinking',
        ),
        (
            "/v1/chat/completions",
            {"model": "echo", "messages": [{"role": "user", "content": [PICTURE]}]},
            400,
            "image URLs are not currently supported, please use base64 encoded data instead",
        ),
        (
            "/v1/completions",
            {"model": "echo", "prompt": "a", "suffix": "b"},
            400,
            "registry.ollama.ai/library/echo:latest does not support insert",
        ),
        ("/v1/chat/completions", {"model": "echo"}, 400, "[] is too short - 'messages'"),
        ("/v1/chat/completions", {"messages": HELLO}, 400, "model is required"),
        ("/v1/completions", {"prompt": "a"}, 400, "model is required"),
        ("/v1/embeddings", {"model": "echo"}, 400, "invalid input"),
        ("/v1/embeddings", {"model": "echo", "input": "a", "dimensions": 0}, 400, "dimensions"),
    ],
)
def test_more_texts_and_statuses(service, path, body, status, text):
    assert text in assert_error(post(service, path, body), status, path)


@pytest.mark.parametrize("value", [-(2**31), -1, 0, 2**31, 2**62])
@pytest.mark.parametrize(
    "name", ["num_ctx", "num_keep", "num_batch", "num_predict", "top_k", "seed", "repeat_last_n"]
)
def test_extreme_options_are_clamped_or_refused(service, name, value):
    options = {"num_predict": 4, name: value}
    body = {"model": "echo", "prompt": "a b c", "options": options, "stream": False}
    reply = send(service, "POST", "/api/generate", body=body)
    assert reply.status == 200 or assert_error(reply, reply.status, "/api/generate")
    assert reply.status in {200, 400, 503}


def test_a_hundred_thousand_stop_strings(service):
    options = {"stop": ["x"] * 100_000}
    body = {"model": "echo", "prompt": "a", "options": options}
    assert "stop strings" in assert_error(
        post(service, "/api/generate", body), 400, "/api/generate"
    )


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "sha256:..%2fx", "sha256:ab", "x" * 64])
@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_digests_that_are_none(service, method, name):
    reply = send(service, method, f"/api/blobs/{name}", body=b"x" if method == "POST" else None)
    assert reply.status == 400
    if method == "POST":
        assert "invalid digest format" in assert_error(reply, 400, "/api/blobs")


@pytest.mark.parametrize("name", ["nobody", "a/b/c/d/e", "%00", "..%2f..", "x" * 300])
def test_unknown_models_of_openai(service, name):
    assert_error(send(service, "GET", f"/v1/models/{name}"), 404, "/v1/models")
