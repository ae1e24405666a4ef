"""Writes the trained network as a GGUF file that llama.cpp runs: matrices Q8_0, norms F32.

Knows llama.cpp's tensor names and metadata keys; nothing of training. The same weights give the
same bytes: no date, path or host goes in. The output matrix is left out, as llama.cpp then uses
the embedding for it, which is how the network was trained.
"""

from pathlib import Path

import gguf
import numpy as np
import torch

from tools.builtin_model.bpe import ByteBPE
from tools.builtin_model.conversations import CHAT_TEMPLATE, END_OF_TEXT, TURN_END
from tools.builtin_model.network import Decoder, Shape

_BLOCK_NAMES = {
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "feed_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def write_gguf(path: Path, network: Decoder, bpe: ByteBPE) -> None:
    """Replace `path` by the network and its tokenizer."""
    writer = gguf.GGUFWriter(path, "llama")
    _add_description(writer, network)
    _add_shape(writer, network.shape)
    _add_tokenizer(writer, bpe)
    for name, parameter in network.state_dict().items():
        _add_tensor(writer, tensor_name(name), parameter.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(path: Path, network: Decoder) -> None:
    """Load weights that `write_gguf` wrote, with the rounding of their quantization."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    with torch.no_grad():
        for name, parameter in network.state_dict().items():
            tensor = tensors[tensor_name(name)]
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            parameter.copy_(torch.tensor(values).reshape(parameter.shape))


def tensor_name(name: str) -> str:
    """llama.cpp's name of a parameter of `Decoder`."""
    if not name.startswith("blocks."):
        return {"embedding.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[name]
    _, index, rest = name.split(".", 2)
    return f"blk.{index}.{_BLOCK_NAMES[rest.removesuffix('.weight')]}.weight"


def _add_description(writer: gguf.GGUFWriter, network: Decoder) -> None:
    count = sum(parameter.numel() for parameter in network.parameters())
    writer.add_type("model")
    writer.add_name("Hearth built-in")
    writer.add_basename("hearth-built-in")
    writer.add_author("Hearth")
    writer.add_description("Answers questions about the box that it runs on, and nothing else")
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    writer.add_size_label(f"{count / 1e6:.1f}M")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_vocab_size(shape.vocab_size)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)


def _add_tokenizer(writer: gguf.GGUFWriter, bpe: ByteBPE) -> None:
    kinds = [
        gguf.TokenType.CONTROL if token in bpe.special else gguf.TokenType.NORMAL
        for token in bpe.tokens
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(bpe.tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in bpe.merges])
    writer.add_bos_token_id(bpe.special_id(END_OF_TEXT))
    writer.add_eos_token_id(bpe.special_id(TURN_END))
    writer.add_eot_token_id(bpe.special_id(TURN_END))
    writer.add_pad_token_id(bpe.special_id(END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray) -> None:
    if values.ndim == 1:
        writer.add_tensor(name, values.astype(np.float32))
        return
    quantized = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor(name, quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
