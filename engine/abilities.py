"""What the paged engine can run and what that takes: read off a header, without its libraries.

For who chooses an engine before a worker is started. The rules are the engine's own
(`paged/arch.py`, `paged/memory.py`); the figures that live beside torch there are repeated here,
and a test keeps the two equal.
"""

from dataclasses import dataclass

from engine.errors import ModelFormatError
from engine.gguf import GGMLType, Header, TensorInfo
from engine.paged.arch import arch_spec
from engine.paged.memory import (
    BLOCK_SIZE,
    CPU_ROWS,
    CPU_STEP_TOKENS,
    GPU_ROWS,
    GPU_STEP_TOKENS,
    Room,
    plan_kv,
)

PAGED_LIBRARIES = ("torch", "triton")
PAGED_TYPES = frozenset(
    {
        *(GGMLType.F32, GGMLType.F16, GGMLType.BF16),
        *(GGMLType.Q8_0, GGMLType.Q4_0, GGMLType.Q4_1, GGMLType.Q5_0, GGMLType.Q5_1),
        *(GGMLType.Q2_K, GGMLType.Q3_K, GGMLType.Q4_K, GGMLType.Q5_K, GGMLType.Q6_K),
        *(GGMLType.IQ4_NL, GGMLType.IQ4_XS),
    }
)
WIDEST_PANEL = 48  # columns that paged/native/cpu.cpp lays together with the widest vectors
_OTHER_TOWERS = ("v.", "mm.")  # an image encoder in the same file, which text does not need
_NO_LIMIT = Room(1 << 62, 0, 0)


@dataclass(frozen=True, slots=True)
class PagedNeed:
    """Bytes on the device that computes."""

    weight_bytes: int
    kv_bytes: int  # for the expected fill
    least_kv_bytes: int  # for one whole context; with less it does not start
    compute_bytes: int


def paged_obstacle(header: Header) -> str:
    """Why the paged engine cannot run this model; empty if nothing speaks against it."""
    if header.is_embedding:
        return "it makes embeddings, and the paged engine generates text"
    try:
        arch_spec(header)
    except ModelFormatError as error:
        return str(error)
    for tensor in header.tensors:
        if tensor.type not in PAGED_TYPES and not tensor.name.startswith(_OTHER_TOWERS):
            return f"tensor '{tensor.name}' has the type {tensor.type.name}, which it does not read"
    return ""


def paged_need(header: Header, context_length: int, *, on_gpu: bool) -> PagedNeed:
    """What the worker takes: all weights decoded, float32 on the CPU and bfloat16 on a GPU.

    The weights are an upper bound: some types stay as they are encoded, on a GPU always, on the CPU
    where a compiler is there to make the loops that read them.
    """
    type_bytes, rows, step_tokens = (
        (2, GPU_ROWS, GPU_STEP_TOKENS) if on_gpu else (4, CPU_ROWS, CPU_STEP_TOKENS)
    )
    elements = sum(_laid_out(tensor) for tensor in header.tensors)
    embedding = header.tensor("token_embd.weight")
    if embedding is not None and header.tensor("output.weight") is None:
        elements += _laid_out(embedding)  # tied: one to look up, one laid out to multiply with
    budget = plan_kv(
        context_length=context_length,
        max_running=rows,
        block_size=BLOCK_SIZE,
        bytes_per_token=header.kv_bytes_per_token(type_bytes),
        room=_NO_LIMIT,
    )
    least_blocks = -(-context_length // BLOCK_SIZE) + 1
    width = 3 * header.feed_forward_length + 6 * header.embedding_length
    return PagedNeed(
        weight_bytes=elements * type_bytes,
        kv_bytes=budget.total_bytes,
        least_kv_bytes=least_blocks * BLOCK_SIZE * budget.bytes_per_token,
        compute_bytes=step_tokens * width * type_bytes + rows * header.vocab_size * 4 * 3,
    )


def _laid_out(tensor: TensorInfo) -> int:
    """Elements of a weight once its columns lie in panels, the last one filled up."""
    if len(tensor.shape) != 2:
        return tensor.elements
    depth, columns = tensor.shape
    return depth * -(-columns // WIDEST_PANEL) * WIDEST_PANEL
