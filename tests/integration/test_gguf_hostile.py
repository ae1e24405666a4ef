"""GGUF files that lie: each is refused with the reason, quickly and in little memory."""

import os
import random
import resource
import struct

import pytest

from engine.errors import ModelFormatError
from engine.gguf import validate
from tests.fakes.gguf_builder import (
    ARRAY,
    BOOL,
    INT32,
    STRING,
    UINT32,
    Raw,
    Tensor,
    Typed,
    build_gguf,
    encode_string,
    tiny_llama_bytes,
    tiny_lora_gguf,
)

ARCH = {"general.architecture": "llama"}
U64 = 2**64 - 1


def refused(tmp_path, data, match):
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelFormatError, match=match):
        validate(path)


def array(element, length, payload=b""):
    return Raw(ARRAY, struct.pack("<IQ", element, length) + payload)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 15, 16, 23])
def test_files_shorter_than_the_fixed_part(tmp_path, size):
    refused(tmp_path, build_gguf(ARCH)[:size], "is truncated; download it again")


@pytest.mark.parametrize(
    ("lies", "match"),
    [
        ({"magic": b"FUGG"}, r"starts with b'FUGG', not with b'GGUF'"),
        ({"magic": b"PK\3\4"}, "not a GGUF file"),
        ({"version": 0}, "GGUF version 0 cannot be read"),
        ({"version": 1}, "GGUF version 1 cannot be read, only 2 and 3"),
        ({"version": 4}, "GGUF version 4"),
        ({"version": 0x03000000}, "big-endian"),
        ({"kv_count": 2**63}, "metadata keys, at most 10000 are allowed"),
        ({"kv_count": 9_999}, "truncated"),
        ({"tensor_count": 2**40}, "claims 1099511627776 tensors, at most 65536 are allowed"),
        ({"tensor_count": 65_536}, "truncated"),
    ],
)
def test_the_fixed_part(tmp_path, lies, match):
    refused(tmp_path, build_gguf(ARCH, **lies), match)


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({}, "'general.architecture' is missing or is not text"),
        ({"general.architecture": 3}, "is not text"),
        ({"general.architecture": ""}, "is missing"),
        ([("a", 1), ("a", 2)], "the key 'a' appears twice"),
        ([("", 1)], "metadata key 0 has 0 bytes"),
        ([("k" * 70_000, 1)], "has 70000 bytes, 1 to 65535 are allowed"),
        ([(b"\xff\xfe", 1)], "metadata key 0 is not UTF-8"),
        ([("k", Raw(STRING, struct.pack("<Q", 2**40)))], "1099511627776 bytes long, at most"),
        ([("k", Raw(STRING, struct.pack("<Q", 1 << 20)))], "truncated"),
        ([("k", Raw(99, b""))], "'k' has the unknown type 99"),
        ([("k", Raw(BOOL, b"\2"))], "'k' holds 2 where only 0 and 1 are allowed"),
        ([("k", array(BOOL, 3, b"\0\1\7"))], "'k' holds 7"),
        ([("k", array(ARRAY, 1))], "an array of arrays"),
        ([("k", array(77, 1))], "'k' has the unknown type 77"),
        ([("k", array(UINT32, 2**40))], "claims 1099511627776 elements"),
        ([("k", array(UINT32, U64))], "elements, at most 67108864"),
        ([("k", array(UINT32, 60_000_000))], "truncated"),
        ([("k", array(BOOL, 60_000_000))], "truncated"),
        ([("k", array(STRING, 60_000_000))], "truncated"),
        ([("k", array(STRING, 2, encode_string("a") + struct.pack("<Q", U64)))], "bytes long"),
        ([("tokenizer.ggml.tokens", array(STRING, 2_000_000))], "at most 1048576 are allowed"),
        ({"tokenizer.ggml.tokens": ["a", "b", "a"], **ARCH}, "1 of 3 tokens appear twice"),
    ],
)
def test_metadata(tmp_path, metadata, match):
    refused(tmp_path, build_gguf(metadata), match)


@pytest.mark.parametrize("value", [0, 4, 12, 2**17, 2**31, Typed(INT32, -8), "32", True], ids=repr)
def test_alignment(tmp_path, value):
    refused(
        tmp_path,
        build_gguf({**ARCH, "general.alignment": value}),
        "general.alignment is .* a power of two from 8 to 65536 is allowed",
    )


GOOD = bytes(4 * 32)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ([Tensor("", (32,), data=GOOD)], "the name of tensor 0 has 0 bytes"),
        ([Tensor("n" * 64, (32,), data=GOOD)], "has 64 bytes, 1 to 63 are allowed"),
        ([Tensor("a", (32,), data=GOOD)] * 2, "the tensor 'a' appears twice"),
        ([Tensor("a", (32,), n_dims=0)], "has 0 dimensions, 1 to 4 are allowed"),
        ([Tensor("a", (1, 1, 1, 1, 1))], "has 5 dimensions"),
        ([Tensor("a", (32,), n_dims=2**31)], "has 2147483648 dimensions"),
        ([Tensor("a", (0, 4))], r"impossible shape \[0, 4\]"),
        ([Tensor("a", (2**31, 2**31, 2**31))], "impossible shape"),
        ([Tensor("a", (U64,))], "impossible shape"),
        ([Tensor("a", (33,), 2, data=GOOD)], "rows of 33 elements; Q4_0 needs a multiple of 32"),
        ([Tensor("a", (32,), 4)], "the type Q4_2, which llama.cpp has removed"),
        ([Tensor("a", (32,), 31)], "Q4_0_4_4"),
        ([Tensor("a", (32,), 200)], "the unknown type 200"),
        ([Tensor("a", (32,), data=GOOD[:-1])], None),
        ([Tensor("a", (32,), data=GOOD, offset=32)], "starts at byte 32 .* where 0 is expected"),
        ([Tensor("a", (32,), data=GOOD, offset=U64)], "where 0 is expected"),
        (
            [Tensor("a", (32,), data=GOOD), Tensor("b", (32,), data=GOOD, offset=0)],
            "'b' starts at byte 0 of the data, where 128 is expected",
        ),
        (
            [Tensor("a", (32,), data=GOOD), Tensor("b", (32,), data=GOOD, offset=129)],
            "'b' starts at byte 129",
        ),
        ([Tensor("a", (1 << 40,), data=GOOD)], "'a' ends at byte [0-9]+, the file has [0-9]+"),
    ],
)
def test_tensors(tmp_path, tensors, match):
    data = build_gguf(ARCH, tensors)
    if match is None:  # cut into the last tensor
        data, match = data[:-1], "is truncated; download it again"
    refused(tmp_path, data, match)


def llama(**metadata):
    return tiny_llama_bytes(metadata=metadata, vocab=260, layers=1)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("llama.block_count", 0, "llama.block_count is 0; an integer from 1 to 512 is allowed"),
        ("llama.block_count", 513, "llama.block_count is 513"),
        ("llama.block_count", "1", "llama.block_count is '1'"),
        ("llama.block_count", None, "the key 'llama.block_count' is missing"),
        ("llama.embedding_length", 0, "llama.embedding_length is 0"),
        ("llama.embedding_length", Typed(INT32, -64), "llama.embedding_length is -64"),
        ("llama.context_length", 0, "llama.context_length is 0"),
        ("llama.context_length", None, "missing"),
        ("llama.attention.head_count", 0, "head_count is 0; at least 1 is needed"),
        ("llama.attention.head_count", [0], "head_count is 0"),
        ("llama.attention.head_count", [4, 4], "holds 2 integers for 1 layers"),
        ("llama.attention.head_count", Typed(INT32, -4), "holds -4; 0 to 65535"),
        ("llama.attention.head_count", 2**31, "0 to 65535 are allowed"),
        ("llama.attention.head_count", 128, "the key head size is 0"),
        ("llama.attention.head_count_kv", 0, "head_count_kv is 0; at least 1 is needed"),
        ("llama.attention.head_count_kv", 3, "4 heads over 3 key-value heads"),
        ("llama.attention.key_length", 2**31, "the key head size is 2147483648"),
        (
            "llama.attention.key_length",
            32,
            "32 elements and value heads 16; llama needs them equal",
        ),
        ("llama.attention.layer_norm_rms_epsilon", -1.0, "epsilon is -1.0; 0 to 1 is allowed"),
        ("llama.attention.layer_norm_rms_epsilon", float("nan"), "epsilon is nan"),
        ("llama.attention.layer_norm_epsilon", 1, "epsilon is 1; 0 to 1"),
        ("llama.rope.dimension_count", 15, "an even number is needed"),
        ("llama.rope.scaling.type", "magic", "rope.scaling.type is 'magic'; allowed: none"),
        ("llama.pooling_type", 9, "pooling_type is 9; 0 to 4 are allowed"),
        ("llama.expert_count", 5000, "expert_count is 5000"),
        ("llama.expert_count", 8, "expert_used_count is 0 of 8 experts"),
        ("llama.expert_used_count", 2, "expert_used_count is 2 of 0 experts"),
        ("llama.expert_group_count", 2, "0 experts cannot be divided into 2 groups"),
        ("tokenizer.ggml.model", "no_vocab", "the tokenizer is 'no_vocab'"),
        ("llama.nextn_predict_layers", 2, "nextn_predict_layers is larger"),
        ("split.count", 3, "one of 3 parts of a split model; join them"),
        ("tokenizer.ggml.model", None, "'tokenizer.ggml.model' is missing"),
        ("tokenizer.ggml.tokens", None, "'tokenizer.ggml.tokens' is missing or empty"),
        ("tokenizer.ggml.tokens", [1] * 260, "is not an array of strings"),
        ("tokenizer.ggml.tokens", ["a", "b"], "has 2 tokens, token_embd.weight has rows for 260"),
        ("tokenizer.ggml.scores", [0.5] * 259, "has 259 entries for 260 tokens"),
        ("tokenizer.ggml.token_type", [1], "has 1 entries for 260 tokens"),
        ("tokenizer.ggml.token_type", 1, "has None entries"),
        ("tokenizer.ggml.merges", None, "'tokenizer.ggml.merges' is not an array of strings"),
        ("tokenizer.ggml.merges", [1], "is not an array of strings"),
        ("tokenizer.ggml.bos_token_id", 260, "the bos token is 260, the vocabulary has 260"),
        ("tokenizer.ggml.eos_token_id", Typed(INT32, -3), "eos_token_id is -3, not a token id"),
        ("tokenizer.ggml.eos_token_id", "x", "eos_token_id is 'x'"),
    ],
)
def test_what_would_end_llama_cpp(tmp_path, key, value, match):
    refused(tmp_path, llama(**{key: value}), match)


@pytest.mark.parametrize(
    ("groups", "used", "match"),
    [
        (3, 1, "8 experts cannot be divided into 3 groups"),
        (8, 1, "8 experts cannot be divided into 8 groups"),
        (4, 0, "expert_group_used_count is 0 of 4 groups"),
        (4, 4, "expert_group_used_count is 4 of 4 groups"),
    ],
)
def test_expert_groups(tmp_path, groups, used, match):
    figures = {"count": 8, "used_count": 2, "group_count": groups, "group_used_count": used}
    refused(tmp_path, llama(**{f"llama.expert_{key}": n for key, n in figures.items()}), match)


def test_a_tokenizer_that_adds_what_it_does_not_name(tmp_path):
    data = tiny_llama_bytes(
        layers=1,
        metadata={"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 2**32 - 1},
    )
    path = tmp_path / "ok.gguf"
    path.write_bytes(data)
    validate(path)  # -1 means the tokenizer's own default, which this vocabulary has
    unnamed = tiny_llama_bytes(
        layers=1,
        metadata={
            "tokenizer.ggml.model": "rwkv",
            "tokenizer.ggml.add_bos_token": True,
            "tokenizer.ggml.bos_token_id": None,
        },
    )
    refused(tmp_path, unnamed, "shall add a bos token, but the file names none")


def test_ids_that_llama_cpp_ignores_are_no_reason_to_refuse(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(llama(**{"tokenizer.ggml.padding_token_id": 260}))
    validate(path)


def test_a_vocabulary_is_no_model(tmp_path):
    refused(tmp_path, build_gguf(ARCH), "holds no tensors")


@pytest.mark.parametrize(
    ("metadata", "names", "match"),
    [
        ({"adapter.type": "magic"}, ["a.lora_a", "a.lora_b"], "of type 'magic'"),
        ({}, ["a.lora_a", "a.lora_b"], "of type ''"),
        ({"adapter.type": "lora"}, ["a.lora_a", "a.lora_b"], "no number under"),
        (
            {"adapter.type": "lora", "adapter.lora.alpha": 1.0},
            ["a.lora_a"],
            "'a.lora_a' has no 'lora_b' beside it",
        ),
        (
            {"adapter.type": "lora", "adapter.lora.alpha": 1.0},
            ["a.weight"],
            "ends in neither lora_a nor lora_b",
        ),
    ],
)
def test_adapters(tmp_path, metadata, names, match):
    tensors = [Tensor(name, (32,), data=GOOD) for name in names]
    refused(tmp_path, build_gguf({**ARCH, "general.type": "adapter", **metadata}, tensors), match)


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "device"])
def test_what_is_not_a_file(tmp_path, kind):
    path = tmp_path / "x.gguf"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with pytest.raises(ModelFormatError, match=r"not a regular file|cannot be read"):
        validate(path)


def test_hostile_counts_take_no_memory(tmp_path):
    path = tmp_path / "x.gguf"
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for lie in (
        build_gguf([("k", Raw(STRING, struct.pack("<Q", (16 << 20) - 1)))]),
        build_gguf([("k", array(STRING, 60_000_000))]),
        build_gguf([("k", array(BOOL, 60_000_000))]),
        build_gguf([("tokenizer.ggml.tokens", array(STRING, 1 << 20))]),
        build_gguf(ARCH, kv_count=10_000, tensor_count=65_536),
    ):
        path.write_bytes(lie)
        with pytest.raises(ModelFormatError):
            validate(path)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert grown_kib < 64 << 10


def test_every_truncation_is_refused(tmp_path):
    data = tiny_llama_bytes(vocab=260, layers=1, embd=32, heads=2, kv_heads=1, ff=32)
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    header_end = validate(path).data_offset
    random_cuts = random.Random(7)
    cuts = {random_cuts.randrange(header_end) for _ in range(600)}
    cuts |= set(range(200)) | {header_end, header_end - 1, len(data) - 1}
    for cut in sorted(cuts, reverse=True):
        os.truncate(path, cut)
        with pytest.raises(ModelFormatError):
            validate(path)


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_is_refused_or_harmless(tmp_path, seed):
    chance = random.Random(seed)
    honest = tiny_llama_bytes(vocab=260, layers=1, embd=32, heads=2, kv_heads=1, ff=32)
    path = tmp_path / "x.gguf"
    path.write_bytes(honest)
    header_end = validate(path).data_offset
    refusals = 0
    for _ in range(300):
        data = bytearray(honest)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(header_end)] = chance.choice(
                (0, 1, 0x7F, 0xFF, chance.randrange(256))
            )
        path.write_bytes(data)
        try:
            validate(path)
        except ModelFormatError:
            refusals += 1
    assert refusals > 100


def test_noise_is_refused(tmp_path):
    chance = random.Random(1)
    for size in (5, 24, 100, 5000):
        refused(tmp_path, chance.randbytes(size), "not a GGUF file")
        noise = b"GGUF" + struct.pack("<IQQ", 3, 3, 3) + chance.randbytes(size)
        path = tmp_path / "x.gguf"
        path.write_bytes(noise)
        with pytest.raises(ModelFormatError):
            validate(path)


def test_an_adapter_for_the_tiny_model_is_accepted(tmp_path):
    assert validate(tiny_lora_gguf(tmp_path / "a.gguf")).is_adapter
