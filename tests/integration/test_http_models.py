"""Ollama's routes about models: tags, show, create, copy, delete, embed, version, status."""

import math
from datetime import datetime

import pytest

from tests.fakes.gguf_builder import tiny_embedding_gguf
from tests.integration.raw_http import assert_error, send


@pytest.fixture
def model(service):
    """A second model for one test."""
    create(service, {"model": "mine", "from": "echo"})
    yield "mine"
    send(service, "DELETE", "/api/delete", body={"model": "mine"})


def create(service, body):
    reply = send(service, "POST", "/api/create", body=body)
    assert reply.status == 200, reply.content
    return reply


def tags(service):
    return {m["name"]: m for m in send(service, "GET", "/api/tags").json["models"]}


def show(service, name, **fields):
    return send(service, "POST", "/api/show", body={"model": name, **fields}).json


def test_tags_have_what_clients_rely_on(service, model):
    entry = tags(service)[f"{model}:latest"]
    assert entry["model"] == entry["name"]
    assert len(entry["digest"]) == 64
    assert entry["size"] > 400_000
    assert datetime.fromisoformat(entry["modified_at"]).tzinfo is not None
    assert entry["details"]["format"] == "gguf"
    assert entry["details"]["family"] == "llama"
    assert send(service, "HEAD", "/api/tags").status == 200


def test_create_streams_its_steps(service):
    reply = create(service, {"name": "steps", "from": "echo", "system": "Be brief."})
    assert reply.headers["Content-Type"] == "application/x-ndjson"
    assert [line["status"].split(" sha256:")[0] for line in reply.lines][-2:] == [
        "writing manifest",
        "success",
    ]
    whole = create(service, {"model": "steps", "from": "echo", "stream": False})
    assert whole.headers["Content-Type"] == "application/json"
    assert whole.json == {"status": "success"}
    assert send(service, "DELETE", "/api/delete", body={"name": "steps"}).status == 200
    assert "steps:latest" not in tags(service)


GO_TEMPLATE = (
    "{{- range .Messages }}[{{ .Role }}] {{ .Content }}\n{{ end }}"
    "{{ if .Tools }}{{ .Tools }}{{ end }}[assistant]"
)


def test_a_model_with_a_go_template_chats(service):
    create(service, {"model": "gopher", "from": "echo", "system": "S.", "template": GO_TEMPLATE})
    shown = send(service, "POST", "/api/show", body={"model": "gopher"}).json
    assert shown["template"] == GO_TEMPLATE
    assert "tools" in shown["capabilities"]
    messages = [{"role": "user", "content": "one two"}, {"role": "user", "content": "three"}]
    body = {"model": "gopher", "messages": messages, "stream": False}
    rendered = send(service, "POST", "/api/chat", body=body | {"_debug_render_only": True}).json
    prompt = "[system] S.\n[user] one two\n\nthree\n[assistant]"
    assert rendered["_debug_info"] == {"rendered_template": prompt}
    answer = send(service, "POST", "/api/chat", body=body).json
    assert answer["done_reason"] == "stop"
    assert "one two" in answer["message"]["content"]  # echo repeats its prompt
    send(service, "DELETE", "/api/delete", body={"model": "gopher"})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a\n{{ .Prompt", "template error: template: :2: unclosed action"),
        ("{{ if .System }}x", "template error: template: :1: unexpected EOF"),
        ("{{ nope }}", 'template error: template: :1: function "nope" not defined'),
        ('{{ template "x" }}', 'template error: template: :1: template "x" not defined'),
    ],
)
def test_a_template_that_cannot_run_is_refused_at_create(service, template, message):
    body = {"model": "broken", "from": "echo", "template": template}
    reply = send(service, "POST", "/api/create", body=body)
    assert message in assert_error(reply, 400, "/api/create")
    assert "broken:latest" not in tags(service)


def test_a_system_message_of_the_request_replaces_the_models_also_beside_messages(service):
    own = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    create(service, {"model": "talks", "from": "echo", "system": "Ours.", "messages": own})
    asked = [{"role": "user", "content": "hi"}]

    def prompt(messages):
        body = {"model": "talks", "messages": messages, "_debug_render_only": True}
        return send(service, "POST", "/api/chat", body=body).json["_debug_info"][
            "rendered_template"
        ]

    assert prompt(asked).startswith("<|im_start|>system\nOurs.")
    theirs = prompt([{"role": "system", "content": "Theirs."}, *asked])
    assert "Theirs." in theirs
    assert "Ours." not in theirs
    send(service, "DELETE", "/api/delete", body={"model": "talks"})


def test_show(service):
    fields = {"system": "Be brief.", "parameters": {"stop": ["a"], "top_k": 3}, "license": "MIT"}
    create(service, {"model": "shown", "from": "echo", **fields})
    body = show(service, "SHOWN")
    assert body["system"] == "Be brief."
    assert body["license"] == "MIT"
    assert body["parameters"].splitlines() == [f'{"stop":<30} "a"', f"{'top_k':<30} 3"]
    assert "FROM shown:latest" in body["modelfile"]
    assert "/models/" not in body["modelfile"]
    assert body["model_info"]["general.architecture"] == "llama"
    assert body["model_info"]["llama.embedding_length"] == 64
    assert body["model_info"]["tokenizer.ggml.tokens"] is None
    assert "completion" in body["capabilities"]
    assert "tensors" not in body
    verbose = show(service, "shown", verbose=True)
    assert len(verbose["model_info"]["tokenizer.ggml.tokens"]) == 320
    assert verbose["tensors"][0].keys() == {"name", "type", "shape"}
    assert show(service, "shown", system="Other.")["system"] == "Other."
    send(service, "DELETE", "/api/delete", body={"model": "shown"})


def test_copy_and_delete_answer_with_nothing(service, model):
    copied = send(service, "POST", "/api/copy", body={"source": model, "destination": "twin:a"})
    assert (copied.status, copied.content) == (200, b"")
    assert tags(service)["twin:a"]["digest"] == tags(service)[f"{model}:latest"]["digest"]
    deleted = send(service, "DELETE", "/api/delete", body={"model": "twin:a"})
    assert (deleted.status, deleted.content) == (200, b"")
    assert send(service, "DELETE", "/api/delete", body={"model": "twin:a"}).status == 404


def test_a_deleted_model_leaves_memory_too(service, model):
    send(service, "POST", "/api/generate", body={"model": model})
    loaded = [m["name"] for m in send(service, "GET", "/api/ps").json["models"]]
    assert f"{model}:latest" in loaded
    send(service, "DELETE", "/api/delete", body={"model": model})
    loaded = [m["name"] for m in send(service, "GET", "/api/ps").json["models"]]
    assert f"{model}:latest" not in loaded


def test_files_of_the_server_cannot_be_probed_by_create(service):
    """The same answer for a file that is there and one that is not (CVE-2024-39719)."""
    answers = [
        send(service, "POST", "/api/create", body=body).json
        for name in ("/etc/passwd", "/no/such/file")
        for body in (
            {"model": "x", "path": name},
            {"model": "x", "modelfile": f"FROM {name}"},
            {"model": "x", "files": {name: "sha256:" + "0" * 64}},
        )
    ]
    assert answers[:3] == answers[3:]
    there, missing = (
        send(service, "POST", "/api/create", body={"model": "x", "from": name})
        for name in ("/etc/passwd", "/no/such")
    )
    assert there.status == missing.status


@pytest.mark.parametrize("name", ["/dev/random", "/proc/self/mem", "../../x"])
def test_devices_are_no_models(service, name):
    reply = send(service, "POST", "/api/create", body={"model": "x", "from": name})
    assert_error(reply, reply.status, "/api/create")
    assert 400 <= reply.status < 500


def test_an_embedding_model_embeds_but_does_not_chat(start_service, tmp_path):
    service = start_service()
    service.create("vectors", tiny_embedding_gguf(tmp_path / "embed.gguf"))
    for path, body, verb in (
        ("/api/generate", {"prompt": "hi"}, "generate"),
        ("/api/chat", {"messages": [{"role": "user", "content": "hi"}]}, "chat"),
    ):
        reply = send(service, "POST", path, body={"model": "vectors", **body})
        assert assert_error(reply, 400, path) == f'"vectors" does not support {verb}'
    assert (
        send(service, "POST", "/api/embed", body={"model": "vectors", "input": "a"}).status == 200
    )


def test_embed(service):
    body = {"model": "echo", "input": ["a", "b b", "a"]}
    answer = send(service, "POST", "/api/embed", body=body).json
    first, second, third = answer["embeddings"]
    assert first == third != second
    assert math.isclose(math.hypot(*first), 1, rel_tol=1e-6)
    assert answer["model"] == "echo"
    assert answer["prompt_eval_count"] == 4
    assert answer["total_duration"] > 0
    cut = send(service, "POST", "/api/embed", body=body | {"dimensions": 4}).json["embeddings"][0]
    assert len(cut) == 4
    assert math.isclose(math.hypot(*cut), 1, rel_tol=1e-6)


@pytest.mark.parametrize("given", [None, "", []])
def test_embed_of_nothing_loads_the_model(service, given):
    send(service, "POST", "/api/generate", body={"model": "echo", "keep_alive": 0})
    answer = send(service, "POST", "/api/embed", body={"model": "echo", "input": given}).json
    assert answer["embeddings"] == []
    assert [m["name"] for m in send(service, "GET", "/api/ps").json["models"]] == ["echo:latest"]


def test_the_older_embeddings(service):
    answer = send(service, "POST", "/api/embeddings", body={"model": "echo", "prompt": "a"}).json
    assert answer.keys() == {"embedding"}
    assert not math.isclose(math.hypot(*answer["embedding"]), 1, rel_tol=1e-3)
    empty = send(service, "POST", "/api/embeddings", body={"model": "echo"}).json
    assert empty == {"embedding": []}


def test_small_pages(service):
    root = send(service, "GET", "/")
    assert (root.status, root.content) == (200, b"Ollama is running")
    head = send(service, "HEAD", "/")
    assert (head.status, head.content) == (200, b"")
    version = send(service, "GET", "/api/version")
    assert version.headers["Content-Type"] == "application/json; charset=utf-8"
    assert version.json["version"][0].isdigit()
    assert send(service, "GET", "/api/status").json["cloud"]["disabled"] is True


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/me"),
        ("POST", "/api/signout"),
        ("DELETE", "/api/user/keys/abc"),
        ("POST", "/api/experimental/web_search"),
        ("POST", "/api/experimental/web_fetch"),
        ("GET", "/api/experimental/model-recommendations"),
    ],
)
def test_what_asks_a_cloud_is_refused(service, method, path):
    reply = send(service, method, path)
    assert (reply.status, reply.json["code"]) == (501, "no_cloud")
    assert path in reply.json["error"]
    assert "this box does not" in reply.json["error"]


def test_status_names_what_is_damaged(start_service):
    service = start_service()
    broken = service.state / "models/manifests/registry.ollama.ai/library/broken"
    broken.mkdir(parents=True)
    (broken / "latest").write_text("{")
    status = send(service, "GET", "/hearth/v1/status").json
    assert status["state"] == "ready"
    assert status["memory"]["total"] > status["memory"]["available"] > 0
    assert any("broken/latest" in problem for problem in status["problems"])
    assert "broken:latest" not in tags(service)
