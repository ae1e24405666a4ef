"""The benchmark's models as Transformers and vLLM read them: the very weights of a GGUF file.

Written from the GGUF file that the service serves, so that all contenders compute the same model.
Only the architecture llama. There is no tokenizer in the folder: contenders are given token ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from shapes import Shape

_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
}
_INNER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def ensure(shape: Shape, model: Path) -> Path:
    """The folder beside `model`, an unquantized GGUF file of `shape`; written if it is missing."""
    if shape.arch != "llama":
        raise SystemExit(f"{shape.name} is of the architecture {shape.arch}; only llama is written")
    folder = model.with_suffix(".hf")
    config = folder / "config.json"
    if not config.exists():  # written last
        folder.mkdir(exist_ok=True)
        tensors = gguf.GGUFReader(model).tensors
        weights = {_name(tensor.name): _weight(tensor, shape) for tensor in tensors}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config.write_text(json.dumps(_config(shape), indent=1))
    return folder


def _name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.weight"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{_INNER[part]}.weight"


def _weight(tensor: gguf.ReaderTensor, shape: Shape) -> npt.NDArray[Any]:
    """(out, in) or (width,). GGUF of llama has rotary pairs side by side, Transformers apart."""
    heads = {"attn_q.": shape.heads, "attn_k.": shape.kv_heads}
    for part, count in heads.items():
        if part in tensor.name:
            pairs = tensor.data.reshape(count, -1, 2, shape.hidden)
            return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(-1, shape.hidden)
    return np.ascontiguousarray(tensor.data)


def _config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float16",  # as stored; every contender computes in what it is told
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.hidden // shape.heads,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_base},
        "tie_word_embeddings": True,
        "vocab_size": shape.vocab,
        "bos_token_id": None,
        "eos_token_id": None,
    }
