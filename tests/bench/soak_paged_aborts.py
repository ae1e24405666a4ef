"""1,000 random aborts on the real paged engine: every request ends once, nothing stays behind.

Requests of random lengths come at random; each is aborted after a random number of steps, some
before their first, some while their step is in flight, some twice, and a few are left to end. At
the end all blocks are free, the engine's own books balance, and the memory is what it was before.
It is played three times: libraries keep something for each size of a step that they have met. On a
CPU without compiled loops that is much: oneDNN keeps a product for each size, up to 1,024 of them
twice over, 500 MiB here. `LRU_CACHE_CAPACITY=16 ONEDNN_PRIMITIVE_CACHE_CAPACITY=16` shows that
nothing else grows.

    to end        steps from the abort to the request's last word; the bar is 2
    memory grown  of the process and of the device, by the last play
"""

from __future__ import annotations

import argparse
import os
import random
import time
from dataclasses import dataclass, field

import harness
import torch

# isort: split
from random_models import SHAPES, open_model

from engine.api import FinishReason, GenerateRequest, SamplingParams
from engine.paged.engine import PagedEngine

CONTEXT, ROWS = 160, 16
SAMPLINGS = (SamplingParams(temperature=0), SamplingParams(seed=1), SamplingParams(top_k=0))


@dataclass(slots=True)
class Soak:
    """What has happened so far."""

    engine: PagedEngine
    dice: random.Random
    due: dict[int, int] = field(default_factory=dict)  # request → the turn it is aborted in
    aborted: dict[int, int] = field(default_factory=dict)  # request → the turn it was aborted in
    ended: dict[int, FinishReason] = field(default_factory=dict)
    latest: int = 0  # most turns from an abort to its end
    turn: int = 0

    def add(self, id: int) -> None:
        vocab = self.engine.info.vocab_size
        prompt = [self.dice.randrange(vocab) for _ in range(self.dice.randint(1, 120))]
        self.engine.add(
            GenerateRequest(
                id=id, prompt=prompt, max_tokens=self.dice.randint(1, 40), ignore_eos=True,
                sampling=self.dice.choice(SAMPLINGS), truncate=False,
                logprobs=self.dice.choice((None, None, 2)),
            )
        )  # fmt: skip
        self.due[id] = self.turn + self.dice.choice((0, 0, 1, 2, 3, 5, 8, 13, 21, 1000))

    def step(self) -> None:
        for id in [id for id, turn in self.due.items() if turn <= self.turn]:
            del self.due[id]
            if id not in self.ended:
                self.aborted[id] = self.turn
                for _ in range(self.dice.randint(1, 2)):
                    self.engine.abort(id)
        self.turn += 1
        if not self.engine.has_work():
            return
        for said in self.engine.step():
            if said.id in self.ended:
                raise SystemExit(f"request {said.id} said something after its end")
            if said.finish is not None:
                self.ended[said.id] = said.finish
                if said.finish is FinishReason.ABORT:
                    self.latest = max(self.latest, self.turn - self.aborted[said.id])


def play(engine: PagedEngine, aborts: int, seed: int) -> Soak:
    """The whole soak once; the same seed gives the same requests in the same steps."""
    soak, number = Soak(engine, random.Random(seed)), 0
    while len(soak.aborted) < aborts or engine.has_work():
        if len(soak.aborted) < aborts:
            for _ in range(soak.dice.choice((0, 1, 1, 2, 4))):
                soak.add(number)
                number += 1
        soak.step()
    if soak.ended.keys() != set(range(number)):
        raise SystemExit(f"{number - len(soak.ended)} requests never ended")
    return soak


def run(engine: PagedEngine, aborts: int, seed: int, device: torch.device) -> list[harness.Figure]:
    for _ in range(2):  # what libraries keep for each size that a step can have
        play(engine, aborts, seed)
    before = _memory_mib(device)
    soak = play(engine, aborts, seed)
    after = _memory_mib(device)
    stats = engine.stats()
    lost = stats["blocks_total"] - stats["blocks_free"]
    finished = sum(reason is FinishReason.ABORT for reason in soak.ended.values())
    return [
        harness.Figure("requests", len(soak.ended)),
        harness.Figure("aborts that came in time", finished),
        harness.Figure("blocks lost", lost, 0, is_limit=True),
        harness.Figure("most steps from an abort to its end", soak.latest, 2, is_limit=True),
        harness.Figure("process memory grown", after[0] - before[0], 4, True, "MiB"),
        harness.Figure("device memory grown", after[1] - before[1], 1, True, "MiB"),
    ]


def _memory_mib(device: torch.device) -> tuple[float, float]:
    on_device = torch.cuda.memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
    return harness.resident_mib(os.getpid()), on_device


def main(argv: list[str] | None = None) -> None:
    parser = harness.arguments("Abort requests of the paged engine at random moments")
    is_there = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if is_there else "cpu")
    parser.add_argument("--shape", choices=SHAPES, default="Llama-3.2-1B" if is_there else "tiny")
    parser.add_argument("--aborts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options: argparse.Namespace = parser.parse_args(argv)
    device = torch.device(options.device)
    conditions = harness.machine() | harness.torch_conditions(device) | {
        "shape": options.shape, "seed": options.seed, "rows": ROWS,
    }  # fmt: skip
    model = open_model(SHAPES[options.shape], device, rows=ROWS, context=CONTEXT)
    started = time.perf_counter()
    figures = run(PagedEngine(model), options.aborts, options.seed, device)
    conditions["seconds"] = round(time.perf_counter() - started, 1)
    rows = [
        [figure.what, f"{figure.value:g} {figure.unit}".strip(),
         "" if figure.bar is None else f"{figure.bar:g}", figure.held]
        for figure in figures
    ]  # fmt: skip
    measured = {figure.what: figure.value for figure in figures}
    harness.report(
        "paged_aborts", conditions, ["aborts", "figure", "bar", "held"], rows, measured, figures
    )


if __name__ == "__main__":
    main()
