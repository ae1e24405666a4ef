"""The one decoder against Transformers, for every architecture: same weights, same logits."""

import dataclasses

import gguf
import pytest
import torch
import transformers

from engine.errors import ModelFormatError
from engine.gguf import GGMLType, TensorInfo, read_header
from engine.paged.arch import arch_spec
from engine.paged.weights.load import weight_bytes
from engine.paged.weights.names import check_tensors
from tests.fakes.hf_to_gguf import write_gguf
from tests.fakes.paged_runs import Sequences, load_decoder

TOLERANCE = 2e-5

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

EAGER = {"attn_implementation": "eager"}  # Transformers' only one that applies soft caps
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}


def long_rope(dim):
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.05 * i for i in range(dim // 2)],
        "long_factor": [1.0 + 0.5 * i for i in range(dim // 2)],
        "original_max_position_embeddings": 128,
    }


CASES = {
    "llama": ("Llama", {}),
    "llama with rope factors": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama tied with biases": ("Llama", {"tie_word_embeddings": True, "attention_bias": True}),
    "llama with other heads": ("Llama", {"head_dim": 24}),
    "mistral": ("Mistral", {"sliding_window": 20}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2 stretched": ("Qwen2", {"rope_parameters": YARN_ROPE}),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 20}),
    "gemma3": (
        "Gemma3",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 20,
            "num_hidden_layers": 7,
            "rope_parameters": LINEAR_ROPE,
        },
    ),
    "phi3": ("Phi3", {"sliding_window": 20}),
    "phi3 long": (
        "Phi3",
        {"rope_parameters": long_rope(16), "original_max_position_embeddings": 128},
    ),
    "phi4 mini": (
        "Phi3",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.75,
            },
        },
    ),
}


def random_model(name):
    """A model with random weights everywhere, also where initialisation gives ones and zeros."""
    family, changes = CASES[name]
    suffix = "TextConfig" if family == "Gemma3" else "Config"
    config = getattr(transformers, family + suffix)(**SHAPE | changes | EAGER)
    torch.manual_seed(1)
    model = getattr(transformers, family + "ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.normal_(std=1.5 / parameter.shape[1] ** 0.5)
    return model


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def reference_logits(model, tokens):
    with torch.inference_mode():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].float()


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name, tmp_path):
    model = random_model(name)
    decoder = load_decoder(write_gguf(tmp_path / "m.gguf", model), context_length=100)
    tokens = torch.randint(96, (60,), generator=torch.Generator().manual_seed(2)).tolist()
    expected = reference_logits(model, tokens)
    run = Sequences(decoder, [tokens])
    steps = [run.step([count]) for count in (31, 1, 1, 26, 1)]
    error = (torch.cat(steps) - expected).abs().max().item()
    assert error <= TOLERANCE * max(1.0, expected.abs().max().item())


def test_the_long_rope_factors_serve_long_contexts(tmp_path):
    model = random_model("phi3 long")
    decoder = load_decoder(write_gguf(tmp_path / "m.gguf", model), context_length=200)
    tokens = torch.randint(96, (140,), generator=torch.Generator().manual_seed(2)).tolist()
    found = Sequences(decoder, [tokens]).step([140])
    expected = reference_logits(model, tokens)
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_sequences_do_not_see_each_other(name, tmp_path):
    model = random_model(name)
    decoder = load_decoder(write_gguf(tmp_path / "m.gguf", model))
    prompts = [[5, 6, 7], list(range(3, 40)), [9], list(range(50, 62))]
    together = Sequences(decoder, prompts, fill=float("nan")).greedy(12)
    for prompt, tokens in zip(prompts, together, strict=True):
        assert Sequences(decoder, [prompt]).greedy(12) == [tokens]


@pytest.mark.parametrize(
    ("quantization", "keep"),
    [
        ("F16", False),
        ("BF16", False),
        ("Q8_0", False),
        ("Q4_0", False),
        ("Q8_0", True),
        ("Q4_0", True),
    ],
)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_encoded_weights_are_decoded_and_permuted(name, quantization, keep, tmp_path):
    model = random_model(name)
    path = write_gguf(tmp_path / "m.gguf", model, quantization)
    round_weights(model, gguf.GGMLQuantizationType[quantization])
    tokens = list(range(1, 30))
    expected = reference_logits(model, tokens)
    decoder = load_decoder(path, keep_quantized=keep)
    found = Sequences(decoder, [tokens]).step([len(tokens)])
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


def round_weights(model, kind):
    """Give the model what its matrices are after encoding."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                rounded = gguf.dequantize(gguf.quantize(parameter.numpy(), kind), kind)
                parameter.copy_(torch.from_numpy(rounded))


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize(
    ("dtype", "keep"), [("float32", False), ("bfloat16", False), ("float32", True)]
)
def test_the_memory_foretold_is_the_memory_taken(name, dtype, keep, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", random_model(name), "Q8_0")
    kind, header = getattr(torch, dtype), read_header(path)
    decoder = load_decoder(path, kind, keep_quantized=keep)
    foretold = weight_bytes(header, kind, keep_quantized=keep)
    # Where oneDNN cannot pack this dtype (no AVX-512), a tied output is the embedding itself.
    packs = kind == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001
    is_one = not packs and header.tensor("output.weight") is None
    embedding = header.tensor("token_embd.weight").elements * kind.itemsize
    assert decoder.nbytes == foretold - (embedding if is_one else 0)


def test_one_part_that_must_be_decoded_counts_for_all_it_is_joined_with(tmp_path):
    header = read_header(write_gguf(tmp_path / "m.gguf", random_model("llama"), "Q8_0"))
    odd = [
        dataclasses.replace(tensor, type=GGMLType.Q5_1)
        if tensor.name == "blk.1.attn_v.weight"
        else tensor
        for tensor in header.tensors
    ]
    mixed = dataclasses.replace(header, tensors=tuple(odd))
    found, before = (weight_bytes(h, torch.float32, keep_quantized=True) for h in (mixed, header))
    assert found - before == (64 + 32 + 32) * 64 * (32 - 8.5) / 8  # q, k and v of one layer


def test_a_model_with_a_piece_too_many_is_refused(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", random_model("qwen3"))
    header = read_header(path)
    extra = TensorInfo("blk.0.attn_sinks.weight", (4,), GGMLType.F32, 0, 16)
    longer = dataclasses.replace(header, tensors=(*header.tensors, extra))
    with pytest.raises(
        ModelFormatError, match=r"'blk\.0\.attn_sinks\.weight' is not part of a qwen3"
    ):
        check_tensors(longer, arch_spec(longer))


def test_a_model_with_a_piece_too_few_is_refused(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", random_model("qwen2"))
    header = read_header(path)
    fewer = tuple(t for t in header.tensors if t.name != "blk.1.attn_k.bias")
    shorter = dataclasses.replace(header, tensors=fewer)
    with pytest.raises(ModelFormatError, match=r"'blk\.1\.attn_k\.bias' is missing"):
        check_tensors(shorter, arch_spec(shorter))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "mamba"}, r"'mamba' is not one that .* \(llama, qwen2, .*phi3\)"),
        ({"llama.expert_count": 8}, "a mixture of 8 experts"),
        ({"llama.attention.value_length": 8}, "keys of 16 and values of 8"),
        ({"llama.attention.head_count_kv": 3}, "4 heads cannot share 3"),
        ({"llama.attention.head_count_kv": (2, 1, 2)}, "layers of different"),
        ({"llama.rope.dimension_count": 18}, "18 of 16 elements"),
        ({"llama.rope.scaling.type": "spiral"}, "of the kind 'spiral'"),
        ({"llama.rope.scaling.factor": 0.0}, "makes no sense"),
        ({"llama.rope.freq_base": "high"}, "'high', not a number"),
        ({"llama.block_count": 0}, "'llama.block_count' is 0"),
    ],
)
def test_what_the_decoder_cannot_run_is_refused(changes, message, tmp_path):
    header = read_header(write_gguf(tmp_path / "m.gguf", random_model("llama")))
    changed = dataclasses.replace(header, metadata={**header.metadata, **changes})
    with pytest.raises(ModelFormatError, match=message):
        arch_spec(changed)
