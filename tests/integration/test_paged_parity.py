"""The one decoder against Transformers, for every architecture: same weights, same logits."""

import pytest
import torch
import transformers

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


@pytest.mark.parametrize("quantization", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_encoded_weights_are_decoded_and_permuted(quantization, tmp_path):
    import gguf

    model = random_model("llama")
    path = write_gguf(tmp_path / "m.gguf", model, quantization)
    kind = gguf.GGMLQuantizationType[quantization]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                rounded = gguf.dequantize(gguf.quantize(parameter.numpy(), kind), kind)
                parameter.copy_(torch.from_numpy(rounded))
    tokens = list(range(1, 30))
    expected = reference_logits(model, tokens)
    found = Sequences(load_decoder(path), [tokens]).step([len(tokens)])
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
