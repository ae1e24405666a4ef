"""Creating models: layers and digests as Ollama's, merge rules, statuses, and every refusal."""

import json

import pytest

from appliance.errors import (
    BadRequestError,
    DiskFullError,
    LibraryError,
    ModelNameError,
    ModelNotFoundError,
    UnsupportedError,
)
from appliance.library.create import CreateRequest, create, human_number
from appliance.library.library import Library
from appliance.library.manifest import Digest
from appliance.library.modelfile import parse, read_recipe
from appliance.library.names import ModelName
from tests.fakes.gguf_builder import (
    Q8_0,
    build_gguf,
    tiny_embedding_gguf,
    tiny_llama_gguf,
    tiny_lora_gguf,
)
from tests.fakes.libraries import add_file, add_model, run_create
from tests.fakes.seeing import tiny_projector_bytes

NAME = ModelName.parse
OLLAMA = "application/vnd.ollama.image."


@pytest.fixture
def library(tmp_path):
    library = Library(tmp_path / "models")
    library.prune()
    return library


@pytest.fixture
def weights(library, tmp_path):
    """An uploaded model, as a digest."""
    return str(add_file(library, tiny_llama_gguf(tmp_path / "tiny.gguf")))


@pytest.fixture
def adapter(library, tmp_path):
    return str(add_file(library, tiny_lora_gguf(tmp_path / "lora.gguf")))


def kinds(library, name):
    layers = library.get(NAME(name)).manifest.layers
    return [layer.media_type.removeprefix(OLLAMA) for layer in layers]


def config(library, name):
    return json.loads(library.blobs.read(library.get(NAME(name)).manifest.config.digest, 10_000))


FULL = {
    "template": "{{ .System }} {{ .Prompt }}",
    "system": "You are <kind> & brief.",
    "license": ["MIT", "BSD"],
    "parameters": {"temperature": 0.7, "stop": ["<|im_end|>"], "num_ctx": 256},
    "messages": [{"role": "User", "content": "2 < 3?"}, {"role": "assistant", "content": "yes"}],
}


def test_layers_statuses_and_config(library, weights):
    statuses = run_create(library, "tiny", files={"tiny.gguf": weights}, **FULL)
    assert kinds(library, "tiny") == [
        "model", "template", "system", "license", "license", "params", "messages",
    ]  # fmt: skip
    layers = library.get(NAME("tiny")).manifest.layers
    assert statuses == [
        "parsing GGUF",
        f"using existing layer {weights}",
        *(f"creating new layer {layer.digest}" for layer in layers[1:]),
        "writing manifest",
        "success",
    ]
    texts = {
        kind: library.blobs.read(layer.digest, 10_000)
        for kind, layer in zip(kinds(library, "tiny")[1:], layers[1:], strict=True)
    }
    assert texts["template"] == b"{{ .System }} {{ .Prompt }}"
    assert str(layers[1].digest).startswith("sha256:fe7ac77b")
    assert texts["system"] == b"You are <kind> & brief."
    assert texts["params"] == (
        b'{"num_ctx":256,"stop":["\\u003c|im_end|\\u003e"],"temperature":0.7}\n'
    )
    assert texts["messages"] == (
        b'[{"role":"user","content":"2 \\u003c 3?"},{"role":"assistant","content":"yes"}]\n'
    )
    assert config(library, "tiny") == {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": "115K",
        "file_type": "F32",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [str(layer.digest) for layer in layers]},
    }


def test_the_same_request_gives_the_same_manifest_at_any_time_and_place(library, tmp_path, weights):
    run_create(library, "one", files={"tiny.gguf": weights}, **FULL)
    elsewhere = Library(tmp_path / "elsewhere")
    add_file(elsewhere, tmp_path / "tiny.gguf")
    run_create(elsewhere, "two", files={"other-name.gguf": weights}, **FULL)
    assert library.get(NAME("one")).digest == elsewhere.get(NAME("two")).digest


def test_a_modelfile_gives_the_digests_that_ollama_gives(library, weights):
    recipe = read_recipe(
        parse(
            "FROM ./tiny.gguf\nTEMPLATE {{ .Prompt }}\n"
            "SYSTEM You are Qwen, created by Alibaba Cloud. You are a helpful assistant.\n"
            "PARAMETER stop <|start_header_id|>\nPARAMETER stop <|end_header_id|>\n"
            "PARAMETER stop <|eot_id|>\n"
        )
    )
    run_create(
        library,
        "known",
        files={"tiny.gguf": weights},
        template=recipe.template,
        system=recipe.system,
        parameters=recipe.parameters,
    )
    _, template, system, params = library.get(NAME("known")).manifest.layers
    assert template.digest.hex.startswith("b507b9c2")
    assert (system.size, system.digest.hex[:12]) == (68, "66b9ea09bd5b")
    assert (params.size, params.digest.hex[:8]) == (96, "56bb8bd4")


def test_using_layers_that_are_there_already(library, weights):
    run_create(library, "one", files={"tiny.gguf": weights}, system="same")
    statuses = run_create(library, "two", files={"tiny.gguf": weights}, system="same")
    assert [status for status in statuses if "creating" in status] == []


def test_an_adapter_a_projector_and_an_embedding_model(library, tmp_path, weights, adapter):
    projector = str(
        library.blobs.put_bytes(build_gguf({"general.architecture": "clip"}, []) + b"")[0]
    )
    with pytest.raises(BadRequestError, match="holds no tensors"):
        run_create(library, "x", files={"m.gguf": weights, "p.gguf": projector})
    mmproj = tiny_projector_bytes()
    projector = str(library.blobs.put_bytes(mmproj)[0])
    run_create(
        library,
        "seeing",
        files={"a-projector.gguf": projector, "m.gguf": weights},
        adapters={"lora.gguf": adapter},
    )
    assert kinds(library, "seeing") == ["model", "projector", "adapter"]
    stored = library.get(NAME("seeing"))
    assert stored.details["families"] == ["llama", "clip"]
    assert [path.name for path in stored.adapter_paths] == [Digest.parse(adapter).filename]
    assert [path.name for path in stored.projector_paths] == [Digest.parse(projector).filename]
    assert stored.capabilities() == ["completion", "vision"]
    bert = str(add_file(library, tiny_embedding_gguf(tmp_path / "bert.gguf")))
    run_create(library, "embed", files={"bert.gguf": bert})
    assert library.get(NAME("embed")).capabilities() == ["embedding"]


def test_an_adapter_among_the_files_is_recognised(library, weights, adapter):
    run_create(library, "tuned", files={"tiny.gguf": weights, "lora.gguf": adapter})
    assert kinds(library, "tuned") == ["model", "adapter"]


def test_building_on_another_model(library, weights):
    run_create(
        library, "base", files={"tiny.gguf": weights}, renderer="qwen3.5", parser="qwen3",
        requires="0.2.0", info={"capabilities": ["audio"]}, **FULL
    )  # fmt: skip
    run_create(
        library,
        "derived",
        from_="BASE:latest",
        system="new",
        license="GPL",
        parameters={"temperature": 0.1, "top_k": 3},
    )
    assert kinds(library, "derived") == [
        "model", "template", "license", "license", "messages", "system", "license", "params",
    ]  # fmt: skip
    derived = library.get(NAME("derived"))
    sources = {layer.source for layer in derived.manifest.layers}
    assert sources == {"base:latest", ""}
    assert derived.system == "new"
    assert derived.template == FULL["template"]
    assert derived.licenses == ["MIT", "BSD", "GPL"]
    assert derived.parameters == {
        "num_ctx": 256, "stop": ["<|im_end|>"], "temperature": 0.1, "top_k": 3,
    }  # fmt: skip
    assert derived.messages == [("user", "2 < 3?"), ("assistant", "yes")]
    assert (derived.renderer, derived.parser, derived.requires) == ("qwen3.5", "qwen3", "0.2.0")
    assert derived.capabilities() == ["completion", "tools", "thinking", "audio"]
    run_create(
        library, "derived", from_="derived", messages=[{"role": "user", "content": "new"}],
        template="{{ .Prompt }}", renderer="qwen3-coder",
    )  # fmt: skip
    again = library.get(NAME("derived"))
    assert again.messages == [("user", "new")]
    assert again.template == "{{ .Prompt }}"
    assert again.renderer == "qwen3-coder"
    assert kinds(library, "derived")[0] == "model"


def test_created_again_from_files_without_a_system_prompt_it_has_none(library, weights):
    run_create(library, "x", files={"tiny.gguf": weights}, system="old")
    run_create(library, "x", from_="x", system="")
    assert library.get(NAME("x")).system == "old"
    run_create(library, "x", files={"tiny.gguf": weights})
    assert library.get(NAME("x")).system == ""


def test_info_overrides_what_the_file_says(library, weights):
    run_create(
        library,
        "x",
        files={"tiny.gguf": weights},
        info={
            "model_family": "custom", "parameter_size": "1B", "quantization_level": "Q1",
            "context_length": 99.0, "base_name": "b", "capabilities": ["vision"],
        },
    )  # fmt: skip
    found = config(library, "x")
    assert found["model_families"] == ["custom"]
    assert (found["model_type"], found["file_type"], found["context_length"]) == ("1B", "Q1", 99)
    assert (found["base_name"], found["capabilities"]) == ("b", ["vision"])


def test_retired_parameters_are_left_out_and_named(library, weights):
    statuses = run_create(
        library, "x", files={"tiny.gguf": weights}, parameters={"mirostat": 1, "top_k": 2}
    )
    assert "parameter mirostat is deprecated" in statuses
    assert library.get(NAME("x")).parameters == {"top_k": 2}


ZERO = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("request_", "kind", "message"),
    [
        ({}, BadRequestError, "neither 'from' or 'files' was specified"),
        ({"files": {}}, BadRequestError, "no files provided to convert"),
        ({"from_": "a", "files": {"x": ZERO}}, BadRequestError,
         "'from' and 'files' cannot be combined"),
        ({"from_": "nope"}, ModelNotFoundError, "model 'nope:latest' not found"),
        ({"from_": "../x"}, ModelNameError, "invalid model name"),
        ({"files": {"/etc/passwd": ZERO}}, BadRequestError, "file path must be relative"),
        ({"files": {"../x.gguf": ZERO}}, BadRequestError, "file path must be relative"),
        ({"files": {"a/../../x": ZERO}}, BadRequestError, "file path must be relative"),
        ({"files": {"a\\b": ZERO}}, BadRequestError, "file path must be relative"),
        ({"files": {"": ZERO}}, BadRequestError, "file path must be relative"),
        ({"files": {"a\0b": ZERO}}, BadRequestError, "file path must be relative"),
        ({"files": {"x.gguf": ""}}, BadRequestError, "invalid digest format"),
        ({"files": {"x.gguf": "sha256:../x"}}, BadRequestError, "invalid digest format"),
        ({"files": {"x.gguf": ZERO}}, BadRequestError, f"blob {ZERO} of file 'x.gguf' is not here"),
        ({"files": {"model.safetensors": ZERO}}, UnsupportedError,
         "safetensors models are not supported in this release"),
        ({"from_": "a", "adapters": {"a.safetensors": ZERO}}, UnsupportedError,
         "safetensors models are not supported in this release"),
        ({"from_": "a", "adapters": {"a": ZERO, "b": ZERO}}, BadRequestError,
         "only one adapter is currently supported"),
        ({"from_": "a", "quantize": "q4_0"}, UnsupportedError,
         "quantize is not supported in this release"),
        ({"from_": "a", "parameters": {"foo": 1}}, BadRequestError, "unknown parameter 'foo'"),
        ({"from_": "a", "parameters": {"stop": "x"}}, BadRequestError,
         'option "stop" must be of type array'),
        ({"from_": "a", "messages": [{"content": "x"}]}, BadRequestError,
         "a message needs a role and a content, both text"),
        ({"from_": "a", "messages": [{"role": "user", "images": ["x"]}]}, UnsupportedError,
         "a model's message cannot have 'images', only role and content"),
        ({"from_": "a", "info": {"base_name": 1}}, BadRequestError,
         'info field "base_name" must be a string'),
        ({"from_": "a", "info": {"context_length": "1"}}, BadRequestError,
         'info field "context_length" must be a number'),
        ({"from_": "a", "info": {"context_length": 1.5}}, BadRequestError,
         'info field "context_length" must be a non-negative integer'),
        ({"from_": "a", "info": {"capabilities": "x"}}, BadRequestError,
         'info field "capabilities" must be an array of strings'),
    ],
)  # fmt: skip
def test_what_is_refused(library, request_, kind, message):
    with pytest.raises(kind) as caught:
        run_create(library, "x", **request_)
    assert caught.value.message == message
    assert library.list() == []
    assert list(library.blobs.stored()) == []


def test_files_of_the_wrong_kind(library, tmp_path, weights, adapter):
    junk = str(library.blobs.put_bytes(b"PK\3\4 not a model")[0])
    with pytest.raises(BadRequestError, match=r"^supplied file was not in GGUF format$"):
        run_create(library, "x", files={"x.gguf": junk})
    cut = str(library.blobs.put_bytes((tmp_path / "tiny.gguf").read_bytes()[:-1])[0])
    with pytest.raises(BadRequestError, match=r"'x.gguf': tensor 'output.weight' ends at byte"):
        run_create(library, "x", files={"x.gguf": cut})
    with pytest.raises(BadRequestError, match="the files hold 0 GGUF models"):
        run_create(library, "x", files={"x.gguf": adapter})
    other = str(add_file(library, tiny_llama_gguf(tmp_path / "q8.gguf", ftype=Q8_0)))
    with pytest.raises(BadRequestError, match="the files hold 2 GGUF models"):
        run_create(library, "x", files={"x.gguf": weights, "y.gguf": other})
    with pytest.raises(BadRequestError, match=r"'y\.gguf' is a model, not an adapter"):
        run_create(library, "x", files={"x.gguf": weights}, adapters={"y.gguf": other})
    bert = str(add_file(library, tiny_embedding_gguf(tmp_path / "bert.gguf")))
    with pytest.raises(BadRequestError, match=r"adapter 'a\.gguf' is for llama, the model is bert"):
        run_create(library, "x", files={"x.gguf": bert}, adapters={"a.gguf": adapter})
    assert library.list() == []


def test_giving_up_midway_leaves_no_blob_and_no_model(library, weights):
    request = CreateRequest(name=NAME("x"), files={"tiny.gguf": weights}, system="s", template="t")
    before = set(library.blobs.stored())
    progress = create(library, request)
    while next(progress).status != "writing manifest":
        pass
    assert len(set(library.blobs.stored()) - before) == 3
    progress.close()
    assert set(library.blobs.stored()) == before
    assert library.list() == []


class FullAfter:
    """A blob store on a disk that fills up at the n-th write."""

    def __init__(self, store, writes):
        self._store, self._writes = store, writes

    def __getattr__(self, name):
        return getattr(self._store, name)

    def put_bytes(self, data):
        self._writes -= 1
        if self._writes < 0:
            raise DiskFullError("no space left while writing the blob")
        return self._store.put_bytes(data)


def test_a_full_disk_leaves_the_old_model(library, tmp_path, weights):
    run_create(library, "x", files={"tiny.gguf": weights}, system="old")
    before = set(library.blobs.stored())
    library.blobs = FullAfter(library.blobs, writes=1)
    with pytest.raises(DiskFullError):
        run_create(library, "x", files={"tiny.gguf": weights}, system="new", template="new")
    assert set(library.blobs.stored()) == before
    assert library.get(NAME("x")).system == "old"


def test_a_parent_whose_weights_are_gone(library, tmp_path):
    add_model(library, tmp_path, "base")
    library.blobs.remove(library.get(NAME("base")).model_digest)
    with pytest.raises(LibraryError, match="is missing"):
        run_create(library, "x", from_="base")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (999, "999"),
        (115_008, "115K"),
        (134_515_008, "134.52M"),
        (135_000_000, "135M"),
        (1_000_000_000, "1B"),
        (7_615_616_512, "7.6B"),
        (671_026_419_200, "671.0B"),
    ],
)
def test_parameter_sizes(count, text):
    assert human_number(count) == text
