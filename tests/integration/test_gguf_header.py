"""Reading honest GGUF files: figures, arrays, speed of big vocabularies, agreement with ggml."""

import ctypes
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from engine.errors import ModelFormatError
from engine.gguf import LIMITS, ArrayInfo, GGMLType, ValueType, read_header, validate
from engine.gguf.types import BLOCKS
from tests.fakes.gguf_builder import (
    F16,
    Q8_0,
    Tensor,
    Typed,
    build_gguf,
    tiny_embedding_gguf,
    tiny_llama_gguf,
    tiny_lora_gguf,
)
from tests.fakes.seeing import tiny_projector_gguf


def header_of(tmp_path, metadata, tensors=(), **lies):
    path = tmp_path / "x.gguf"
    path.write_bytes(build_gguf({"general.architecture": "llama", **metadata}, tensors, **lies))
    return read_header(path)


def test_a_language_model(tmp_path):
    header = validate(tiny_llama_gguf(tmp_path / "m.gguf"))
    assert (header.version, header.architecture, header.name) == (3, "llama", "Tiny Llama")
    assert (header.block_count, header.head_count, header.head_count_kv) == (2, 4, 2)
    assert (header.embedding_length, header.key_length, header.value_length) == (64, 16, 16)
    assert (header.context_length, header.feed_forward_length, header.vocab_size) == (512, 128, 320)
    assert header.parameter_count == sum(tensor.elements for tensor in header.tensors) == 115_008
    assert header.kv_bytes_per_token() == 2 * 2 * (16 + 16) * 2
    assert header.kv_bytes_per_token(type_bytes=1) == 128
    assert header.chat_template.startswith("{% for message in messages %}")
    assert header.tensor("token_embd.weight").shape == (64, 320)
    assert header.tensor("nothing") is None
    assert not any((header.is_embedding, header.is_adapter, header.is_projector))
    assert header.metadata["llama.attention.layer_norm_rms_epsilon"] == 1e-5
    assert header.tensors[-1].offset + header.tensors[-1].nbytes <= (
        header.file_size - header.data_offset
    )


@pytest.mark.parametrize(
    ("ftype", "level"), [(0, "F32"), (F16, "F16"), (Q8_0, "Q8_0")], ids=["f32", "f16", "q8_0"]
)
def test_quantization_level(tmp_path, ftype, level):
    path = tmp_path / "m.gguf"
    assert validate(tiny_llama_gguf(path, ftype=ftype)).quantization_level == level
    unnamed = tiny_llama_gguf(path, ftype=ftype, metadata={"general.file_type": None})
    assert validate(unnamed).quantization_level == level


def test_an_embedding_model_and_an_adapter(tmp_path):
    bert = validate(tiny_embedding_gguf(tmp_path / "e.gguf"))
    assert bert.is_embedding
    assert bert.pooling_type == 1
    adapter = validate(tiny_lora_gguf(tmp_path / "a.gguf"))
    assert adapter.is_adapter
    assert not adapter.is_embedding
    assert adapter.block_count == 0


@pytest.mark.parametrize(
    "metadata",
    [
        {"general.architecture": "clip"},
        {"general.type": "mmproj"},
        {"llama.vision.block_count": 3},
    ],
)
def test_projectors_are_recognised(tmp_path, metadata):
    assert header_of(tmp_path, metadata).is_projector


@pytest.mark.parametrize("kind", ["mlp", "gemma3"])
def test_a_projector_that_is_in_order(tmp_path, kind):
    header = validate(tiny_projector_gguf(tmp_path / "p.gguf", kind=kind))
    assert header.is_projector
    assert header.is_eye


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"clip.projector_type": None}, "'clip.projector_type' is missing"),
        ({"clip.vision.patch_size": 0}, "patch_size is 0"),
        ({"clip.vision.patch_size": None}, "patch_size is 0"),
        ({"clip.vision.patch_size": 60}, "are 0 patches"),
        ({"clip.vision.image_size": 1 << 20}, "image_size is 1048576"),
        ({"clip.vision.image_size": 8192, "clip.vision.patch_size": 4}, "are 4194304 patches"),
        ({"clip.vision.attention.head_count": 0}, "head_count is 0; it must divide"),
        ({"clip.vision.attention.head_count": 5}, "head_count is 5; it must divide"),
        ({"clip.vision.embedding_length": 0}, "embedding_length is 0"),
        ({"clip.vision.block_count": 100_000}, "block_count is 100000"),
        ({"clip.vision.block_count": "two"}, "block_count is 'two'"),
        ({"clip.vision.image_mean": 0.5}, "image_mean is not an array of three"),
        ({"clip.vision.image_std": [0.5, 0.0, 0.5]}, "image_std must be greater than 0"),
    ],
)
def test_a_projector_that_llama_cpp_would_abort_on(tmp_path, metadata, words):
    path = tiny_projector_gguf(tmp_path / "p.gguf", metadata=metadata)
    with pytest.raises(ModelFormatError) as caught:
        validate(path)
    assert words in str(caught.value)


def test_a_projector_for_sound_is_no_eye(tmp_path):
    sound = {"clip.has_vision_encoder": None, "clip.has_audio_encoder": True}
    assert not validate(tiny_projector_gguf(tmp_path / "p.gguf", metadata=sound)).is_eye


def test_values_of_every_type(tmp_path):
    typed = {
        ValueType.UINT8: 255, ValueType.INT8: -128, ValueType.UINT16: 65535,
        ValueType.INT16: -32768, ValueType.UINT32: 2**32 - 1, ValueType.INT32: -(2**31),
        ValueType.FLOAT32: 0.1, ValueType.BOOL: True, ValueType.STRING: "ä",
        ValueType.UINT64: 2**64 - 1, ValueType.INT64: -(2**63), ValueType.FLOAT64: 0.1,
    }  # fmt: skip
    metadata = {f"a.{kind.name}": Typed(kind, value) for kind, value in typed.items()}
    metadata |= {f"b.{kind.name}": Typed(kind, items=[value] * 3) for kind, value in typed.items()}
    found = header_of(tmp_path, metadata).metadata
    for kind, value in typed.items():
        assert found[f"a.{kind.name}"] == value
        assert found[f"b.{kind.name}"] == pytest.approx((value,) * 3)


def test_long_arrays_are_measured_and_kept_only_on_request(tmp_path):
    path = tmp_path / "x.gguf"
    numbers = list(range(2000))
    words = [f"w{n}" for n in numbers]
    flags = [True, False] * 1000
    path.write_bytes(
        build_gguf({"general.architecture": "x", "n": numbers, "w": words, "f": flags, "z": 1})
    )
    found = read_header(path).metadata
    assert found["n"] == ArrayInfo(ValueType.INT32, 2000)
    assert found["w"] == ArrayInfo(ValueType.STRING, 2000)
    assert found["f"] == ArrayInfo(ValueType.BOOL, 2000)
    assert found["z"] == 1
    kept = read_header(path, replace(LIMITS, kept_items=2000)).metadata
    assert (kept["n"], kept["w"], kept["f"]) == (tuple(numbers), tuple(words), tuple(flags))


def test_a_header_larger_than_one_read(tmp_path):
    words = [f"{'long ' * 50}{n}" for n in range(20_000)]
    header = header_of(tmp_path, {"before": 1, "w": words, "n": list(range(500_000)), "after": 2})
    assert header.metadata["w"] == ArrayInfo(ValueType.STRING, 20_000)
    assert header.metadata["n"] == ArrayInfo(ValueType.INT32, 500_000)
    assert header.metadata["after"] == 2


def test_layers_that_differ(tmp_path):
    header = header_of(
        tmp_path,
        {
            "llama.block_count": 3,
            "llama.embedding_length": 64,
            "llama.attention.head_count": [4, 4, 8],
            "llama.attention.head_count_kv": [2, 0, 4],
            "llama.attention.key_length": 16,
            "llama.attention.value_length": 8,
        },
    )
    assert header.head_count == 8
    assert header.kv_heads_per_layer == (2, 0, 4)
    assert header.kv_bytes_per_token() == (2 + 0 + 4) * (16 + 8) * 2


def test_version_2_and_other_alignments(tmp_path):
    tensors = [Tensor("a", (3,), data=bytes(12)), Tensor("b", (2, 5), data=bytes(40))]
    header = header_of(tmp_path, {"general.alignment": 64}, tensors, version=2, alignment=64)
    assert (header.version, header.alignment, header.data_offset % 64) == (2, 64, 0)
    assert [tensor.offset for tensor in header.tensors] == [0, 64]


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.name)
def test_block_sizes_are_those_of_ggml(kind):
    ggml = _ggml()
    assert BLOCKS[kind] == (ggml.ggml_blck_size(kind), ggml.ggml_type_size(kind))
    assert ggml.ggml_type_name(kind).decode().upper() == kind.name


def test_every_type_that_ggml_reads_is_known():
    ggml = _ggml()
    live = {n for n in range(max(GGMLType) + 1) if ggml.ggml_type_size(n)}
    assert {int(kind) for kind in GGMLType} == live


def _ggml():
    found = find_spec("llama_cpp")
    if found is None or found.origin is None:
        pytest.skip("llama_cpp is not installed")
    [library] = (Path(found.origin).parent / "lib").glob("libggml-base.so")
    ggml = ctypes.CDLL(str(library))
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_type_name.restype = ctypes.c_char_p
    return ggml
