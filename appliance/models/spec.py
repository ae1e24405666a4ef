"""From a stored model and the options of a request to what a worker is told to load.

Pure: the header, the settings and the options come in as values. A changed `LoadSpec` means a
reload, so only what the load needs may get into it (Ollama's scheduler compares the same options).
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.config import Settings
from appliance.hardware import Gpu
from appliance.library.stored import StoredModel
from appliance.models.choice import EngineName
from appliance.models.planner import MIB, EyeShape, Need, Shape, need_of, with_eye
from engine.abilities import paged_need
from engine.api import LoadSpec
from engine.gguf import Header

MIN_CONTEXT = 4
DEFAULT_BATCH = 512
MAX_BATCH = 4096
PAGED_CPU_BYTES = 320 * MIB  # a process with torch that runs half a megabyte of model takes 289
PAGED_GPU_BYTES = 1536 * MIB  # with the libraries and the context of the device besides: a guess


def load_spec(
    stored: StoredModel,
    header: Header,
    options: Mapping[str, Any],
    settings: Settings,
    engine: EngineName,
) -> LoadSpec:
    """The worker's orders. `options` are typed values by Ollama's names, the model's merged in."""
    context_length = _context_length(header, options, settings)
    batch_size = _clamp(options.get("num_batch"), 1, MAX_BATCH, DEFAULT_BATCH)
    return LoadSpec(
        engine=engine,
        model_path=str(stored.model_path),
        adapters=[(str(path), 1.0) for path in stored.adapter_paths],
        projector_path=str(stored.eye_path or ""),
        context_length=context_length,
        batch_size=min(context_length, batch_size),
        threads=_clamp(options.get("num_thread"), 1, 1024, settings.threads),
        gpu_layers=int(options.get("num_gpu", -1)),
        main_gpu=int(options.get("main_gpu", 0)),
        use_mmap=options.get("use_mmap"),
        embedding=header.is_embedding,
        ranking=header.is_reranker,
    )


def memory_need(
    spec: LoadSpec, header: Header, gpu: Gpu | None = None, eye: Header | None = None
) -> Need:
    """What loading `spec` will take; the echo engine opens no file and needs none of it.

    `gpu` is where it will compute; None: on the CPU. `eye` is the header of the projector.
    """
    if spec.engine == "echo":
        return Need(weight_bytes=0, kv_bytes=0, compute_bytes=0)
    if spec.engine == "paged":
        return _paged_need(spec, header, gpu)
    shape = Shape(
        file_bytes=header.file_size,
        kv_bytes_per_token=header.kv_bytes_per_token(),
        embedding_length=header.embedding_length or 0,
        feed_forward_length=header.feed_forward_length or 0,
        vocab_size=header.vocab_size or 0,
    )
    need = need_of(shape, spec.context_length, spec.batch_size)
    return need if eye is None else with_eye(need, _eye_shape(eye))


def with_budget(spec: LoadSpec, need: Need) -> LoadSpec:
    """The orders with the KV cache that `need` was given room for.

    Only the service knows of the reserve, of control groups and of models loaded beside. It has
    nothing to say of a GPU's own memory, and of caches whose size follows from the context.
    """
    is_ours = need.least_kv_bytes is not None and not need.is_on_gpu
    return msgspec.structs.replace(spec, kv_bytes=need.kv_bytes) if is_ours else spec


def _eye_shape(eye: Header) -> EyeShape:
    patch = max(1, eye.integer("vision.patch_size"))
    return EyeShape(
        file_bytes=eye.file_size,
        patches=(eye.integer("vision.image_size") // patch) ** 2,
        embedding_length=eye.integer("vision.embedding_length"),
        feed_forward_length=eye.integer("vision.feed_forward_length"),
    )


def _paged_need(spec: LoadSpec, header: Header, gpu: Gpu | None) -> Need:
    if spec.gpu_layers == 0:
        gpu = None
    found = paged_need(header, spec.context_length, on_gpu=gpu is not None)
    return Need(
        weight_bytes=found.weight_bytes,
        kv_bytes=found.kv_bytes,
        compute_bytes=found.compute_bytes,
        process_bytes=PAGED_CPU_BYTES if gpu is None else PAGED_GPU_BYTES,
        least_kv_bytes=found.least_kv_bytes,
        is_on_gpu=gpu is not None and not gpu.shares_memory,
    )


def _context_length(header: Header, options: Mapping[str, Any], settings: Settings) -> int:
    """Request, then model, then setting; never over what the model was trained for."""
    wanted = int(options.get("num_ctx") or settings.context_length)
    trained = header.context_length or wanted
    return max(MIN_CONTEXT, min(wanted, trained))


def _clamp(value: Any, low: int, high: int, default: int) -> int:
    """`value` within the bounds; absent or 0 and less means `default`."""
    return default if value is None or value <= 0 else max(low, min(int(value), high))
