"""The sizes that the scheduler keeps to, and what they mean for one prompt."""

from dataclasses import dataclass

from engine.errors import ContextLengthError, EngineRequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Raises ValueError for sizes that no scheduler could work with."""

    num_blocks: int  # blocks of the pool, the null block included
    block_size: int  # tokens per block
    context_length: int  # tokens with KV per sequence
    max_running: int  # rows: sequences that hold blocks at once
    max_waiting: int  # sequences beyond those that may be in the engine
    step_tokens: int  # token budget of a step; prefill gets what decode leaves

    def __post_init__(self) -> None:
        if min(self.block_size, self.context_length, self.max_running) < 1 or self.max_waiting < 0:
            raise ValueError(f"a limit is too small: {self}")
        if self.num_blocks < 2:
            raise ValueError(f"{self.num_blocks} blocks: the null block and one more are needed")
        if self.step_tokens < self.max_running:
            raise ValueError(
                f"step_tokens is {self.step_tokens}, but {self.max_running} sequences must decode"
                " in one step; raise step_tokens or lower max_running"
            )

    @property
    def max_context(self) -> int:
        """Tokens with KV that one sequence can reach, by its context and by the pool."""
        return min(self.context_length, (self.num_blocks - 1) * self.block_size)

    @property
    def max_blocks(self) -> int:
        """Columns of a block table."""
        return -(-self.max_context // self.block_size)

    @property
    def max_requests(self) -> int:
        return self.max_running + self.max_waiting

    def check_prompt(self, length: int) -> None:
        """Raise ContextLengthError or EngineRequestError if such a prompt can never run."""
        if length == 0:
            raise EngineRequestError("the prompt has no tokens; send at least one")
        if length > self.context_length:
            raise ContextLengthError(
                f"prompt has {length} tokens, the context is {self.context_length};"
                " shorten it or load with a larger num_ctx"
            )
        if length > self.max_context:
            raise ContextLengthError(
                f"prompt has {length} tokens, the whole KV cache holds {self.max_context};"
                " shorten it or give the engine more memory"
            )
