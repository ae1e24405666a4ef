"""Writes a Transformers model as GGUF the way llama.cpp's converter does, for parity tests.

Tensor names and keys are those of the `gguf` package. What the converter does to weights is done
here too: q and k rows of llama are permuted, gemma's norms get their 1 added, scaled rotary
embeddings become tensors of factors. There is no tokenizer in the file.
"""

import math

import gguf
import numpy as np
import torch


def write_gguf(path, model, quantization="F32"):
    """Write `model` to `path`; matrices as `quantization`, vectors as F32."""
    config = model.config
    arch = {"mistral": "llama", "gemma3_text": "gemma3"}.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, arch)
    _write_metadata(writer, config, arch)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config.num_hidden_layers)
    kind = gguf.GGMLQuantizationType[quantization]
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        data = _converted(key, tensor.float(), config, arch).numpy()
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert name, key
        if data.ndim == 1 or quantization == "F32":
            writer.add_tensor(name, np.ascontiguousarray(data))
        else:
            writer.add_tensor(name, gguf.quantize(data, kind), raw_dtype=kind)
    for name, factors in _rope_factors(config).items():
        writer.add_tensor(name, np.asarray(factors, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _converted(key, tensor, config, arch):
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if arch == "llama" and ".q_proj." in key:
        return _permuted(tensor, heads)
    if arch == "llama" and ".k_proj." in key:
        return _permuted(tensor, kv_heads)
    if arch.startswith("gemma") and key.endswith("norm.weight"):
        return tensor + 1
    return tensor


def _permuted(tensor, heads):
    """From (i, i + half) to (2i, 2i + 1), as LlamaModel.permute in llama.cpp's converter."""
    split = tensor.reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:])
    return split.swapaxes(1, 2).reshape(tensor.shape)


def _write_metadata(writer, config, arch):
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = _global_rope(config)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    windowed = getattr(config, "use_sliding_window", True)
    if windowed and getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType[rope["rope_type"].upper()])
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "longrope":
        original = rope["original_max_position_embeddings"]
        scale = config.max_position_embeddings / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)))


def _global_rope(config):
    """Rotary parameters; of models with two kinds of layers those of the unwindowed ones."""
    return config.rope_parameters.get("full_attention") or config.rope_parameters


def _rope_factors(config):
    rope = _global_rope(config)
    if rope["rope_type"] == "llama3":
        return {"rope_freqs.weight": _llama3_factors(config, rope)}
    if rope["rope_type"] == "longrope":
        return {
            "rope_factors_long.weight": rope["long_factor"],
            "rope_factors_short.weight": rope["short_factor"],
        }
    return {}


def _llama3_factors(config, rope):
    """Frequency divisors: 1 for short wavelengths, `factor` for long ones, a blend between."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2).float() / head_dim)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - smooth) / rope["factor"] + smooth)
