"""How much KV cache to take: what is needed, never "all that is left". Pure arithmetic."""

from dataclasses import dataclass

from engine.errors import DeviceMemoryError

MIB = 1024 * 1024
BLOCK_SIZE = 32  # tokens
CPU_ROWS, GPU_ROWS = 16, 64  # sequences at once, unless the spec says
CPU_STEP_TOKENS, GPU_STEP_TOKENS = 512, 2048
RESERVE_BYTES = 512 * MIB  # for activations and everything else, where nobody planned for them
EXPECTED_FILL = 0.6  # of concurrency times context; sequences rarely all fill theirs at once


@dataclass(frozen=True, slots=True)
class Room:
    """What a device can give to a KV cache; `str` is the arithmetic for the log."""

    available_bytes: int  # before the weights are there
    weight_bytes: int
    ordered_bytes: int  # what the service set aside for the cache alone; 0: it planned nothing

    @property
    def kv_bytes(self) -> int:
        left = self.available_bytes - self.weight_bytes
        return min(left, self.ordered_bytes) if self.ordered_bytes else left - RESERVE_BYTES

    def __str__(self) -> str:
        left = f"{self.available_bytes // MIB} available - {self.weight_bytes // MIB} weights"
        if self.ordered_bytes:
            return f"the least of {left} and {self.ordered_bytes // MIB} planned"
        return f"{left} - {RESERVE_BYTES // MIB} reserve"


@dataclass(frozen=True, slots=True)
class KvBudget:
    """The cache that will be allocated; `str` is the arithmetic for the log."""

    block_size: int  # tokens
    num_blocks: int  # the null block included
    bytes_per_token: int
    wanted_tokens: int
    room: Room

    @property
    def total_bytes(self) -> int:
        return self.num_blocks * self.block_size * self.bytes_per_token

    @property
    def tokens(self) -> int:
        """Tokens that sequences can hold."""
        return (self.num_blocks - 1) * self.block_size

    def __str__(self) -> str:
        return (
            f"KV cache {self.tokens} tokens x {self.bytes_per_token} B = "
            f"{self.total_bytes / MIB:.0f} MiB (wanted {self.wanted_tokens} tokens;"
            f" room for {self.room.kv_bytes // MIB} MiB, {self.room})"
        )


def plan_kv(
    *,
    context_length: int,
    max_running: int,
    block_size: int,
    bytes_per_token: int,
    room: Room,
) -> KvBudget:
    """The expected fill, at least one whole context, at most what there is room for.

    Raises DeviceMemoryError when not even one context fits.
    """
    wanted = max(context_length, int(context_length * max_running * EXPECTED_FILL))
    block_bytes = block_size * bytes_per_token
    affordable = room.kv_bytes // block_bytes
    least = -(-context_length // block_size) + 1
    if affordable < least:
        raise DeviceMemoryError(
            f"one context of {context_length} tokens needs {least * block_bytes / MIB:.0f} MiB of"
            f" KV cache, {room.kv_bytes / MIB:.0f} MiB can be used ({room});"
            " load with a smaller num_ctx"
        )
    num_blocks = min(affordable, -(-wanted // block_size) + 1)
    return KvBudget(block_size, num_blocks, bytes_per_token, wanted, room)
