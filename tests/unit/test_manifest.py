"""Manifests, configs and their JSON: digests of public models reproduced byte for byte."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import BadRequestError, LibraryError
from appliance.library.manifest import (
    CONFIG_TYPE,
    Digest,
    Layer,
    Manifest,
    ModelConfig,
)
from appliance.templates.gojson import go_json

OLLAMA = "application/vnd.ollama.image."
# the layers of registry.ollama.ai/library/llama3.2:latest
LLAMA32 = tuple(
    Layer(OLLAMA + kind, Digest(digest), size)
    for kind, digest, size in (
        ("model", "dde5aa3fc5ffc17176b5e8bdc82f587b24b2678c6c66101bf7da77af9f7ccdff", 2019377376),
        ("template", "966de95ca8a62200913e3f8bfbf84c8494536f1b94b49166851e76644e966396", 1429),
        ("license", "fcc5a6bec9daf9b561a68827b67ab6088e1dba9d1fa2a50d7bbcc8384e0a265d", 7711),
        ("license", "a70ff7e570d97baaf4e62ac6e6ad9975e04caa6d900d3742d37698494479e0cd", 6016),
        ("params", "56bb8bd477a519ffa694fc449c2413c6f0e1d3b1c88fa7e3c9d88d3ae49d4dcb", 96),
    )
)


def test_the_params_layer_of_llama_3_2():
    stops = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    data = go_json({"stop": stops}, sort_keys=True) + b"\n"
    assert len(data) == 96
    assert Digest.of(data) == LLAMA32[-1].digest


def test_the_config_and_manifest_of_llama_3_2():
    config = ModelConfig(
        model_format="gguf",
        model_family="llama",
        model_families=("llama",),
        model_type="3.2B",
        file_type="Q4_K_M",
    ).for_layers(LLAMA32)
    data = config.encode()
    digest = Digest.of(data)
    assert digest.hex == "34bb5ab01051a11372a91f95f3fbbc51173eed8e7f13ec395b9ae9b8bd0e242b"
    manifest = Manifest(Layer(CONFIG_TYPE, digest, len(data)), LLAMA32)
    # the registry holds it without the newline that Ollama's local files end with
    published = manifest.encode().removesuffix(b"\n")
    assert Digest.of(published).hex.startswith("a80c4f17acd5")
    assert Manifest.parse(published) == manifest
    assert ModelConfig.parse(data) == config


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("{{ .Prompt }}", "b507b9c2"),
        ("{{ .System }} {{ .Prompt }}", "fe7ac77b"),
        (
            "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
            "66b9ea09bd5b",
        ),
    ],
)
def test_texts_are_stored_as_they_are(text, digest):
    assert Digest.of(text.encode()).hex.startswith(digest)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("<a> & b", r'"\u003ca\u003e \u0026 b"'),
        ("line\u2028para\u2029", r'"line\u2028para\u2029"'),
        ('tab\t"q" \\ \x01 \x7f é 😀', '"tab\\t\\"q\\" \\\\ \\u0001 \x7f é 😀"'),
        ("lone \ud800 surrogate", '"lone � surrogate"'),
        (0.7, "0.7"),
        (1.0, "1"),
        (-0.5, "-0.5"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1.5e300, "1.5e+300"),
        (1.2345678901234568e20, "123456789012345680000"),
        (0.0, "0"),
        ([True, None, 3, []], "[true,null,3,[]]"),
    ],
)
def test_json_as_go_writes_it(value, encoded):
    assert go_json(value, sort_keys=True).decode() == encoded


def test_keys_are_sorted_on_request_at_every_depth():
    value = {"b": 1, "a": {"d": 2, "c": 3}}
    assert go_json(value, sort_keys=True) == b'{"a":{"c":3,"d":2},"b":1}'
    assert go_json(value, sort_keys=False) == b'{"b":1,"a":{"d":2,"c":3}}'


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_json_cannot_say_is_refused(number):
    with pytest.raises(ValueError, match="no JSON form"):
        go_json(number, sort_keys=True)


@settings(deadline=None, max_examples=50)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_any_value_reads_back_the_same(value):
    # Go writes whole floats like integers
    assert json.loads(go_json(value, sort_keys=True), parse_int=float) == value


@pytest.mark.parametrize("separator", [":", "-"])
def test_digests_are_read_in_both_spellings(separator):
    digest = Digest.parse(f"sha256{separator}{'0a' * 32}")
    assert str(digest) == "sha256:" + "0a" * 32
    assert digest.filename == "sha256-" + "0a" * 32


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "0a" * 32,
        "sha256:" + "0A" * 32,
        "sha256:" + "0a" * 31,
        "sha256:" + "0a" * 33,
        "sha256:" + "0a" * 32 + "\n",
        "sha512:" + "0a" * 32,
        "sha256:../" + "0a" * 30,
        "../" + "sha256:" + "0a" * 32,
    ],
)
def test_other_digests_are_refused(text):
    with pytest.raises(BadRequestError, match=r"^invalid digest format$"):
        Digest.parse(text)


def manifest_json(**changes):
    layer = {"mediaType": OLLAMA + "model", "digest": "sha256:" + "0a" * 32, "size": 1}
    body = {"schemaVersion": 2, "config": layer, "layers": [layer]}
    return json.dumps(body | changes).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b" " * ((4 << 20) + 1),
        manifest_json(schemaVersion=1),
        manifest_json(config=None),
        manifest_json(layers=None),
        manifest_json(layers=[None]),
        manifest_json(layers=[{}]),
        manifest_json(layers=[{"digest": "../../x", "size": 1}]),
        manifest_json(layers=[{"digest": "sha256:" + "0a" * 32, "size": -1}]),
        manifest_json(layers=[{"digest": "sha256:" + "0a" * 32, "size": True}]),
        manifest_json(layers=[{"digest": "sha256:" + "0a" * 32, "size": 1, "from": 3}]),
        manifest_json(layers=[{}] * 10_001),
    ],
)
def test_damaged_manifests_are_refused(data):
    with pytest.raises(LibraryError, match="a manifest is damaged"):
        Manifest.parse(data)


def test_unknown_fields_of_a_config_survive():
    config = ModelConfig.parse(b'{"model_format":"gguf","model_families":null,"moods":["calm"]}')
    assert config.unknown == {"moods": ["calm"]}
    again = json.loads(config.encode())
    assert again["moods"] == ["calm"]
    assert again["model_families"] is None
    assert again["architecture"] == "amd64"


def test_a_config_of_wrong_types_counts_as_empty():
    config = ModelConfig.parse(
        b'{"model_format":3,"capabilities":"x","rootfs":[],"context_length":"9"}'
    )
    assert config == ModelConfig()
