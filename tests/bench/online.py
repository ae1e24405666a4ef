"""Requests that arrive by a Poisson process, answered inside this process: latency without HTTP.

The same seeded schedule goes to the paged engine and to Transformers' own continuous batching.
Both are asked and read by the thread that measures. Knows schedules and clocks, no tables.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from request_mix import Job

from engine.api import GenerateRequest, SamplingParams
from engine.paged.engine import PagedEngine


@dataclass(frozen=True, slots=True)
class Arrival:
    at_s: float  # since the beginning
    job: Job


@dataclass(slots=True)
class Answer:
    """When the tokens of one request were there, in seconds since the beginning."""

    due_s: float
    times: list[float] = field(default_factory=list)

    @property
    def ttft_ms(self) -> float:
        return (self.times[0] - self.due_s) * 1e3

    @property
    def gaps_ms(self) -> list[float]:
        return [(after - before) * 1e3 for before, after in pairwise(self.times)]


Online = Callable[[Sequence[Arrival]], list[Answer]]


def schedule(jobs: Sequence[Job], rate: float, seed: int) -> list[Arrival]:
    """`rate` requests per second on average; the first comes at once."""
    rng, at_s, found = random.Random(seed), 0.0, []
    for job in jobs:
        found.append(Arrival(at_s, job))
        at_s += rng.expovariate(rate)
    return found


def paged(engine: PagedEngine) -> Online:
    def answer(arrivals: Sequence[Arrival]) -> list[Answer]:
        answers, coming, clock = [Answer(a.at_s) for a in arrivals], 0, _Clock()
        while coming < len(arrivals) or engine.has_work():
            while coming < len(arrivals) and arrivals[coming].at_s <= clock.now():
                job = arrivals[coming].job
                engine.add(
                    GenerateRequest(
                        id=coming, prompt=job.prompt, max_tokens=job.output, ignore_eos=True,
                        truncate=False, sampling=SamplingParams(temperature=0),
                    )
                )  # fmt: skip
                coming += 1
            if not engine.has_work():
                clock.wait_until(arrivals[coming].at_s)
                continue
            for step in engine.step():
                answers[step.id].times += [clock.now()] * len(step.token_ids)
        return _checked(answers, arrivals)

    return answer


def transformers(manager: Any) -> Online:
    """`manager` of a running continuous batching; its thread computes, this one only reads."""

    def answer(arrivals: Sequence[Arrival]) -> list[Answer]:
        answers = [Answer(a.at_s) for a in arrivals]
        numbers: dict[str, int] = {}
        coming, done, clock = 0, 0, _Clock()
        while done < len(arrivals):
            while coming < len(arrivals) and arrivals[coming].at_s <= clock.now():
                job = arrivals[coming].job
                id = manager.add_request(job.prompt, max_new_tokens=job.output, streaming=True)
                numbers[id] = coming
                coming += 1
            result = manager.get_result(timeout=0.001)
            if result is None:
                if not manager.is_running():
                    raise SystemExit("continuous batching of Transformers stopped by itself")
                continue
            if result.error:
                raise SystemExit(f"continuous batching of Transformers: {result.error}")
            mine = answers[numbers[result.request_id]]
            # A streamed result holds all tokens so far.
            mine.times += [clock.now()] * (len(result.generated_tokens) - len(mine.times))
            done += result.is_finished()
        return _checked(answers, arrivals)

    return answer


class _Clock:
    def __init__(self) -> None:
        self._started = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._started

    def wait_until(self, at_s: float) -> None:
        time.sleep(max(0.0, at_s - self.now()))


def _checked(answers: list[Answer], arrivals: Sequence[Arrival]) -> list[Answer]:
    for answer, arrival in zip(answers, arrivals, strict=True):
        if len(answer.times) != arrival.job.output:
            raise SystemExit(f"{len(answer.times)} tokens came instead of {arrival.job.output}")
    return answers
