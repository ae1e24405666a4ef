"""Pure decisions about models and memory: what one needs, whether it fits, who makes room.

No IO and no clock: everything comes in as numbers, so that each decision can be tested and shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from appliance.errors import MemoryFitError, OverloadedError
from appliance.hardware import Memory

MIB = 1024 * 1024
MAX_PHYSICAL_BATCH = 512  # tokens that llama.cpp computes at once, however large the batch
PICTURE_BYTES = 72 * MIB  # a picture of 12 megapixels while it is decoded
OVERHEAD_BYTES = 96 * MIB  # the worker's interpreter, libraries and small buffers


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a model takes once it is loaded."""

    weight_bytes: int
    kv_bytes: int
    compute_bytes: int
    process_bytes: int = OVERHEAD_BYTES
    least_kv_bytes: int | None = None  # a smaller KV cache that does as well; None: it must be all
    is_on_gpu: bool = False  # all but the process lies in a GPU's own memory

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.compute_bytes + self.process_bytes

    @property
    def host_bytes(self) -> int:
        """The part that competes for this machine's memory."""
        return self.process_bytes if self.is_on_gpu else self.total_bytes

    def __str__(self) -> str:
        total = (
            f"weights {_mib(self.weight_bytes)} + KV cache {_mib(self.kv_bytes)}"
            f" + compute {_mib(self.compute_bytes)} + process {_mib(self.process_bytes)}"
            f" = {_mib(self.total_bytes)}"
        )
        return f"{total}, all but the process on the GPU" if self.is_on_gpu else total


NOTHING = Need(weight_bytes=0, kv_bytes=0, compute_bytes=0, process_bytes=0)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the arithmetic needs to know of a model, from its GGUF header."""

    file_bytes: int
    kv_bytes_per_token: int
    embedding_length: int
    feed_forward_length: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class EyeShape:
    """What the arithmetic needs to know of an image encoder, from its GGUF header."""

    file_bytes: int
    patches: int  # that an image is cut into
    embedding_length: int
    feed_forward_length: int


@dataclass(frozen=True, slots=True)
class Occupant:
    """A loaded model as the planner sees it."""

    name: str
    total_bytes: int
    is_idle: bool
    idle_since: float  # clock of the caller; smaller is longer ago


@dataclass(frozen=True, slots=True)
class Plan:
    """What loading a model now would mean. `refusal` is empty if it can be loaded."""

    engine: str
    reasons: tuple[str, ...]
    context_length: int  # tokens
    need: Need
    memory: Memory
    reserve_bytes: int
    leaving: tuple[str, ...]  # idle models that would be unloaded
    is_loaded: bool
    refusal: str


def need_of(shape: Shape, context_length: int, batch_size: int) -> Need:
    """Memory of a model at this context and batch.

    The compute part is what llama.cpp reserves for a full batch, fitted to what it reports: float32
    activations as wide as the feed-forward layers, a float16 mask over the context, and the logits
    of one token.
    """
    batch = min(batch_size, MAX_PHYSICAL_BATCH)
    activations = batch * (4 * shape.feed_forward_length + 2 * shape.embedding_length) * 4
    return Need(
        weight_bytes=shape.file_bytes,
        kv_bytes=shape.kv_bytes_per_token * context_length,
        compute_bytes=activations + batch * context_length * 2 + shape.vocab_size * 4,
    )


def with_eye(need: Need, eye: EyeShape) -> Need:
    """The same with an image encoder beside the model.

    Computing takes float32 activations of all patches, and decoding a picture its pixels twice.
    """
    activations = eye.patches * (2 * eye.feed_forward_length + 6 * eye.embedding_length) * 4
    return replace(
        need,
        weight_bytes=need.weight_bytes + eye.file_bytes,
        compute_bytes=need.compute_bytes + activations + PICTURE_BYTES,
    )


def shrink_kv(
    need: Need, memory: Memory, reserve_bytes: int, occupants: Sequence[Occupant]
) -> Need:
    """The same with the largest KV cache that fits when idle models leave, but the least at least.

    An engine that shares its cache between many streams works with less: streams wait for room.
    """
    if need.least_kv_bytes is None or need.is_on_gpu:
        return need
    idle = sum(o.total_bytes for o in occupants if o.is_idle)
    spare = memory.available + idle - reserve_bytes - (need.total_bytes - need.kv_bytes)
    return replace(need, kv_bytes=min(need.kv_bytes, max(need.least_kv_bytes, spare)))


def make_room(
    name: str,
    need: Need,
    memory: Memory,
    reserve_bytes: int,
    occupants: Sequence[Occupant],
    max_loaded: int,
) -> list[str]:
    """Names of idle models to unload, longest idle first, so that `name` can be loaded.

    Raises MemoryFitError with the arithmetic if it would not fit into the empty machine, and
    OverloadedError if it only does not fit beside models that are busy now.
    """
    total = need.host_bytes
    ceiling = memory.available + sum(o.total_bytes for o in occupants) - reserve_bytes
    if total > ceiling:
        raise MemoryFitError(
            f"{name} does not fit: it needs {need}; {_mib(max(0, ceiling))} can be used"
            f" ({_mib(memory.available)} available now, {_mib(reserve_bytes)} kept free)",
            hint="use a smaller num_ctx, a smaller or more strongly quantized model",
        )
    room = memory.available - reserve_bytes
    places = max_loaded - len(occupants)
    leaving: list[str] = []
    for occupant in sorted((o for o in occupants if o.is_idle), key=lambda o: o.idle_since):
        if total <= room and places > 0:
            break
        leaving.append(occupant.name)
        room += occupant.total_bytes
        places += 1
    if total > room or places <= 0:
        busy = ", ".join(o.name for o in occupants if not o.is_idle)
        raise OverloadedError(
            f"{name} needs {_mib(total)} beside models that are busy now ({busy}); try again",
            retry_after_s=5,
        )
    return leaving


def _mib(count: int) -> str:
    return f"{count / MIB:.0f} MiB"
