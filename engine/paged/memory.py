"""How much KV cache to take: what is needed, never "all that is left". Pure arithmetic."""

from dataclasses import dataclass

from engine.errors import DeviceMemoryError

MIB = 1024 * 1024
EXPECTED_FILL = 0.6  # of concurrency times context; sequences rarely all fill theirs at once


@dataclass(frozen=True, slots=True)
class KvBudget:
    """The cache that will be allocated; `str` is the arithmetic for the log."""

    block_size: int  # tokens
    num_blocks: int  # the null block included
    bytes_per_token: int
    wanted_tokens: int
    available_bytes: int

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
            f"{self.total_bytes / MIB:.0f} MiB (wanted {self.wanted_tokens} tokens,"
            f" {self.available_bytes / MIB:.0f} MiB allowed)"
        )


def plan_kv(
    *,
    context_length: int,
    max_running: int,
    block_size: int,
    bytes_per_token: int,
    available_bytes: int,
) -> KvBudget:
    """Room for the expected fill, at least one whole context, at most `available_bytes`.

    Raises DeviceMemoryError when not even one context fits.
    """
    wanted = max(context_length, int(context_length * max_running * EXPECTED_FILL))
    block_bytes = block_size * bytes_per_token
    affordable = available_bytes // block_bytes
    least = -(-context_length // block_size) + 1
    if affordable < least:
        raise DeviceMemoryError(
            f"one context of {context_length} tokens needs {least * block_bytes / MIB:.0f} MiB of"
            f" KV cache, {available_bytes / MIB:.0f} MiB can be used; load with a smaller num_ctx"
        )
    num_blocks = min(affordable, -(-wanted // block_size) + 1)
    return KvBudget(block_size, num_blocks, bytes_per_token, wanted, available_bytes)
