"""One sequence inside the engine: its tokens, its progress, and what it holds.

Knows which changes of phase are legal. Does not know why a request runs, waits or ends: that is
decided in `scheduler.py`, which alone changes these fields.
"""

from collections.abc import Set
from enum import Enum, auto

from engine.api import FinishReason


class IntegrityError(RuntimeError):
    """The engine's own books do not balance: a bug. The worker must end; its state is wrong."""


class Phase(Enum):
    """Where a request is in its life."""

    WAITING = auto()  # never had a row
    RUNNING = auto()  # holds a row and blocks
    PREEMPTED = auto()  # waits again; what it had computed is computed anew
    FINISHED = auto()  # holds nothing; a launched step may still carry it as a ghost


_LEGAL = {
    Phase.WAITING: (Phase.RUNNING, Phase.FINISHED),
    Phase.RUNNING: (Phase.PREEMPTED, Phase.FINISHED),
    Phase.PREEMPTED: (Phase.RUNNING, Phase.FINISHED),
    Phase.FINISHED: (),
}


class Request:
    """A sequence with one progress number, `computed`; read it freely, let the scheduler write it.

    Prefill, chunked prefill, a hit in the prefix cache, resuming after preemption and decode are
    all "compute the tokens from `computed` on". `computed` counts launched steps, committed or not.
    When it has passed every known token, the next one is still on the device, in flight.

    tokens       prompt, then output, the end-of-generation token included
    blocks       block ids in order; they cover the known tokens and everything computed
    row          index of the runner's persistent row, -1 unless running
    finish       why it ended; None while it lives
    """

    __slots__ = (
        "blocks",
        "cached_tokens",
        "coast_end",
        "computed",
        "end_tokens",
        "final_start",
        "finish",
        "id",
        "keys",
        "max_tokens",
        "order",
        "phase",
        "preempted_length",
        "preemptions",
        "priority",
        "prompt_length",
        "published",
        "row",
        "salt",
        "tokens",
        "wanted_key",
    )

    def __init__(
        self,
        id: int,
        prompt: list[int],
        *,
        max_tokens: int = -1,
        end_tokens: Set[int] = frozenset(),
        priority: int = 0,
        salt: bytes = b"",
    ) -> None:
        """Take over `prompt`, token ids already checked against the vocabulary.

        max_tokens   -1: until an end token or until the context is full; 0: compute the prompt only
        end_tokens   sampling one of these ends the sequence with STOP; empty to go on past them
        priority     larger runs first
        salt         sequences share cached blocks only with those of an equal salt
        """
        self.id = id
        self.tokens = prompt
        self.prompt_length = len(prompt)
        self.max_tokens = max_tokens
        self.end_tokens = end_tokens
        self.priority = priority
        self.salt = salt
        self.phase = Phase.WAITING
        self.finish: FinishReason | None = None
        self.order = (-priority, 0)  # (-priority, arrival); the smallest goes first
        self.cached_tokens = 0  # prompt tokens found in the prefix cache at the first admission
        self.preemptions = 0
        self.preempted_length = 0  # spared from preemption until it has more tokens than this
        self.final_start = 0  # decoding this position gives the last token; -1 once finished
        self.keys: list[bytes] = []  # prefix keys of the leading full blocks, as far as needed
        self.wanted_key = b""  # a key that another request is computing and this one waits for
        self._hold_nothing()

    def _hold_nothing(self) -> None:
        self.computed = 0
        self.blocks: list[int] = []
        self.row = -1
        self.published = 0  # leading blocks offered to the prefix index, or taken from it
        self.coast_end = 0  # decode positions below this need no decision; 0: still prefilling

    @property
    def output_length(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def is_spared(self) -> bool:
        """Whether it has gained no token since it was preempted last."""
        return len(self.tokens) <= self.preempted_length

    def move(self, phase: Phase) -> None:
        """Change the phase; leaving RUNNING forgets blocks, row and progress."""
        if phase not in _LEGAL[self.phase]:
            raise IntegrityError(f"request {self.id} cannot go from {self.phase} to {phase}")
        if self.phase is Phase.RUNNING:
            self._hold_nothing()
        self.phase = phase

    def __repr__(self) -> str:
        return (
            f"<Request {self.id} {self.phase.name} computed {self.computed} of {len(self.tokens)}"
            f" blocks {self.blocks} row {self.row}>"
        )
