"""Opening a model file, its LoRA adapters, and contexts on it; llama.cpp's refusals as errors.

Knows parameters and ownership. What is computed in a context is known elsewhere.
"""

import ctypes
import os
from dataclasses import dataclass
from typing import Any

from engine.api import LoadSpec
from engine.errors import DeviceMemoryError, EngineError, EngineRequestError, ModelFormatError
from engine.llama.native import NativeLog, lib, start, utf8_from
from engine.llama.threads import useful_threads
from engine.llama.vocab import Vocab

MIN_CONTEXT = 4  # Ollama's floor for num_ctx
MAX_BATCH = 1 << 16
_KV_TYPES = {"f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0, "q4_0": lib.GGML_TYPE_Q4_0}
# One of the rare places that read a message: llama.cpp has no error codes, only its log.
_MEMORY_WORDS = ("alloc", "out of memory", "cannot reserve")


@dataclass(slots=True)
class Context:
    """A llama.cpp context and what it took. Freed by `close`, before its model."""

    handle: int
    kv_bytes: int
    compute_bytes: int

    def close(self) -> None:
        """Free it; safe to call again."""
        if self.handle:
            lib.llama_free(self.handle)
            self.handle = 0


class LoadedModel:
    """Weights, adapters and vocabulary of one file. Contexts must be freed before it."""

    def __init__(self, spec: LoadSpec, threads: int) -> None:
        """`threads` is what the board offers; a small model takes fewer unless the spec says."""
        self.spec = spec
        self.log = start()
        self.handle = _load_weights(spec, self.log)
        try:
            self.vocab = Vocab(self.handle)
            if not self.vocab.has_tokenizer:
                raise ModelFormatError("the model file has no tokenizer; convert it with one")
            self.threads, self.prefill_threads = (
                (threads, threads)
                if spec.threads > 0
                else useful_threads(threads, self.weight_bytes)
            )
            self.trained_context = int(lib.llama_model_n_ctx_train(self.handle))
            self.is_recurrent = bool(
                lib.llama_model_is_recurrent(self.handle) or lib.llama_model_is_hybrid(self.handle)
            )
            self._adapters = [
                _load_adapter(self.handle, path, self.log) for path, _ in spec.adapters
            ]
        except EngineError:
            self.close()
            raise

    @property
    def weight_bytes(self) -> int:
        return int(lib.llama_model_size(self.handle))

    @property
    def embedding_length(self) -> int:
        return int(lib.llama_model_n_embd_out(self.handle))

    @property
    def description(self) -> str:
        """Architecture, size and type of the weights, and what computes them."""
        where = "GPU" if self.spec.gpu_layers and lib.llama_supports_gpu_offload() else "CPU"
        name = utf8_from(lib.llama_model_desc, self.handle) or "unknown model"
        return f"{name}, {where}, {self.threads} threads"

    def context_length(self, wanted: int) -> int:
        """`wanted` tokens, cut to what the model was trained for."""
        limit = self.trained_context if self.trained_context > 0 else wanted
        return max(MIN_CONTEXT, min(wanted, limit))

    def open_context(self, **settings: Any) -> Context:
        """A new context with the adapters applied; `settings` override fields of its parameters."""
        self.log.clear()
        params = lib.llama_context_default_params()
        params.n_threads = self.threads
        params.n_threads_batch = self.prefill_threads
        params.no_perf = True
        params.offload_kqv = True
        params.type_k = params.type_v = _KV_TYPES[self.spec.kv_type]
        params.flash_attn_type = _flash_attention(self.spec)
        for name, value in settings.items():
            setattr(params, name, value)
        context = lib.llama_init_from_model(self.handle, params)
        if not context:
            reason = self.log.reason()
            if any(word in reason for word in _MEMORY_WORDS):
                raise DeviceMemoryError(
                    f"no memory for a context of {params.n_ctx} tokens ({reason});"
                    " load with a smaller num_ctx"
                )
            raise ModelFormatError(f"llama.cpp cannot run this model: {reason}")
        try:
            self._apply_adapters(context)
        except EngineError:
            lib.llama_free(context)
            raise
        # llama.cpp tells these figures in its log only
        return Context(
            handle=int(context),
            kv_bytes=self.log.mebibytes(r"(?:KV|RS) buffer size = +([\d.]+) MiB"),
            compute_bytes=self.log.mebibytes(r"(?:compute|output) buffer size = +([\d.]+) MiB"),
        )

    def close(self) -> None:
        """Free the weights; adapters go with them."""
        if self.handle:
            lib.llama_model_free(self.handle)
            self.handle = 0

    def _apply_adapters(self, context: int) -> None:
        count = len(self._adapters)
        if not count:
            return
        handles = (lib.llama_adapter_lora_p_ctypes * count)(*self._adapters)
        scales = (ctypes.c_float * count)(*(scale for _, scale in self.spec.adapters))
        if lib.llama_set_adapters_lora(context, handles, count, scales) != 0:
            raise ModelFormatError(f"the adapters cannot be applied: {self.log.reason()}")


def _load_weights(spec: LoadSpec, log: NativeLog) -> int:
    params = lib.llama_model_default_params()
    params.n_gpu_layers = max(-1, min(spec.gpu_layers, 2**31 - 1))
    params.main_gpu = spec.main_gpu
    if spec.use_mmap is not None or not lib.llama_supports_gpu_offload():
        # A mapped file lies in small pages. Read into memory, weights may lie in huge ones, which
        # was worth 4 % of a token at 0.5 B parameters (Q8_0, two cores of an EPYC).
        params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if spec.use_mmap else lib.LLAMA_LOAD_MODE_NONE
    handle = lib.llama_model_load_from_file(os.fsencode(spec.model_path), params)
    if handle:
        return int(handle)
    reason = log.reason()
    if any(word in reason for word in _MEMORY_WORDS):
        raise DeviceMemoryError(
            f"no memory for the weights ({reason}); take a smaller or more quantised model"
        )
    raise ModelFormatError(f"llama.cpp cannot load the model file: {reason}")


def _load_adapter(model: int, path: str, log: NativeLog) -> Any:
    log.clear()
    adapter = lib.llama_adapter_lora_init(model, os.fsencode(path))
    if not adapter:
        raise ModelFormatError(f"the LoRA adapter does not fit this model: {log.reason()}")
    if lib.llama_adapter_get_alora_n_invocation_tokens(adapter):
        raise ModelFormatError(
            "the LoRA adapter is of the activated kind (aLoRA), which is not supported;"
            " use a plain LoRA"
        )
    return adapter


def _flash_attention(spec: LoadSpec) -> int:
    if spec.flash_attention is None:
        return int(lib.LLAMA_FLASH_ATTN_TYPE_AUTO)
    if not spec.flash_attention and spec.kv_type != "f16":
        raise EngineRequestError(
            f"kv_type {spec.kv_type} needs flash attention, which is switched off;"
            " allow it or use kv_type f16"
        )
    return int(
        lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if spec.flash_attention
        else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
