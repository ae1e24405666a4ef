"""Requests of mixed prompt and output lengths, the same for every contender.

Lengths depend on the seed alone; tokens also on the round, so that no round finds the prompts of
another one in a prefix cache.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """One request: prompt token ids, and exactly how many tokens must come back."""

    prompt: list[int]
    output: int


Answer = Callable[[Sequence[Job]], list[list[int]]]
"""How a contender is used: from jobs to the tokens of each."""


@dataclass(frozen=True, slots=True)
class Mix:
    """`count` jobs with uniformly drawn lengths; both ends of a range are included."""

    count: int
    prompts: tuple[int, int]
    outputs: tuple[int, int]
    vocab: int  # token ids are drawn below it, special ones too
    seed: int

    @property
    def context(self) -> int:
        """Tokens of the longest sequence there may be."""
        return self.prompts[1] + self.outputs[1]

    def jobs(self, number: int) -> list[Job]:
        """The jobs of round `number`."""
        lengths = random.Random(self.seed)
        tokens = random.Random(f"{self.seed} {number}")
        return [
            Job(
                [tokens.randrange(self.vocab) for _ in range(lengths.randint(*self.prompts))],
                lengths.randint(*self.outputs),
            )
            for _ in range(self.count)
        ]
