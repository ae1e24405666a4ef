"""/v1/models and /v1/models/{id}: OpenAI's and vLLM's fields, and what is known of each model."""

import pytest

from tests.fakes.gguf_builder import tiny_embedding_gguf, tiny_llama_gguf

FIELDS = {"id", "object", "created", "owned_by", "root", "parent", "max_model_len", "hearth"}


@pytest.fixture(scope="module")
def served(module_service, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    running = module_service(engine="llama", context_length=128)
    running.create("chat", tiny_llama_gguf(folder / "chat.gguf"), parameters={"num_ctx": 96})
    running.create("acme/ranker", tiny_embedding_gguf(folder / "rank.gguf", labels=1))
    return running


def entry(service, name):
    status, found = service.call("GET", f"/v1/models/{name}")
    assert status == 200
    return found


def test_a_model_says_what_it_is(served):
    found = entry(served, "chat")
    assert found.keys() == FIELDS
    assert (found["id"], found["root"], found["parent"]) == ("chat:latest", "chat:latest", None)
    assert (found["object"], found["owned_by"]) == ("model", "library")
    assert found["max_model_len"] == 96  # its own num_ctx
    facts = found["hearth"]
    shown = served.call("POST", "/api/show", {"model": "chat"})[1]
    assert facts["parameter_size"] == shown["details"]["parameter_size"]
    assert facts["quantization"] == shown["details"]["quantization_level"]
    assert facts["family"] == shown["details"]["family"] == "llama"
    assert facts["capabilities"] == shown["capabilities"] == ["completion"]
    assert facts["context_length"] == 512  # trained for
    assert facts["embedding_length"] == 64
    assert facts["parameter_count"] == shown["model_info"]["general.parameter_count"]
    assert facts["engine"] == "llama"
    (tag,) = [m for m in served.call("GET", "/api/tags")[1]["models"] if m["name"] == found["id"]]
    assert (facts["size"], facts["digest"]) == (tag["size"], tag["digest"])


def test_created_is_when_the_manifest_was_written(served):
    manifest = served.state / "models/manifests/registry.ollama.ai/library/chat/latest"
    assert entry(served, "chat")["created"] == int(manifest.stat().st_mtime)


def test_the_list_has_the_same_entries(served):
    listed = {m["id"]: m for m in served.call("GET", "/v1/models")[1]["data"]}
    assert listed["chat:latest"] == entry(served, "chat")
    ranker = listed["acme/ranker:latest"]
    assert ranker["owned_by"] == "acme"
    assert ranker["hearth"]["capabilities"] == ["rerank"]
    assert ranker["max_model_len"] == 128


def test_a_loaded_model_says_how_it_is_loaded(served):
    body = {"model": "chat", "prompt": "x", "max_tokens": 1, "num_ctx": 64}
    assert served.call("POST", "/v1/completions", body)[0] == 200
    found = entry(served, "chat")
    assert found["max_model_len"] == 64
    assert found["hearth"]["loaded"] is True
    assert entry(served, "acme/ranker")["hearth"]["loaded"] is False


def test_a_damaged_model_hides_no_other(start_service, tiny_gguf):
    service = start_service()
    service.create("good", tiny_gguf)
    service.create("bad", tiny_gguf, template="{{ .Prompt }}")
    (blob,) = [
        path
        for path in (service.state / "models/blobs").iterdir()
        if path.stat().st_size == tiny_gguf.stat().st_size
    ]
    service.stop()
    blob.write_bytes(b"no model")
    again = start_service(service.state)
    listed = {m["id"]: m for m in again.call("GET", "/v1/models")[1]["data"]}
    assert {"good:latest", "bad:latest"} <= listed.keys()
    assert listed["bad:latest"]["hearth"]["capabilities"] is None
    assert listed["bad:latest"]["max_model_len"] is None
    assert listed["bad:latest"]["hearth"]["family"] == "llama"
