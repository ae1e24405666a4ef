"""Smoke tests: what a release must do here before anybody gets it.

They come with the release and run through the real path: template, engine, this box. All of it must
load, answer as the tests say, with finite numbers, and not too slowly. A release that brings none
has to say three tokens.
"""

import asyncio
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Self

import msgspec

from appliance.chat.events import Done, EmbedRequest, JobRequest, Message, ScoreRequest, Text
from appliance.chat.job import ChatService, trial_place
from appliance.errors import ApplianceError, LibraryError, MemoryFitError, OverloadedError
from appliance.library.stored import StoredModel
from appliance.models.manager import Models
from engine.errors import EngineError, EngineStoppedError

MAX_SMOKE_BYTES = 1 << 20
MAX_RATE = 1e9  # tokens per second; an engine that takes no time would be infinitely fast
_MATCH_TIMEOUT_S = 10
_TOLD_CHARS = 300  # of prompts and answers in a reason

_Short = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Pattern = Annotated[str, msgspec.Meta(max_length=1000)]
_Content = Annotated[str, msgspec.Meta(max_length=64 << 10)]

# In a process of its own, because a pattern can take for ever, and would take the event loop along
_MATCH = "import json, re, sys; sys.exit(not re.search(*json.load(sys.stdin)))"


class _Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Annotated[str, msgspec.Meta(pattern="^(system|user|assistant)$")]
    content: _Content


class SmokeTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question, and what the answer must look like."""

    name: _Short
    messages: Annotated[tuple[_Turn, ...], msgspec.Meta(min_length=1, max_length=64)]
    contains: Annotated[tuple[_Short, ...], msgspec.Meta(max_length=16)] = ()
    matches: _Pattern = ""
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 120

    @property
    def prompt(self) -> str:
        """What reports show of the question."""
        return self.messages[-1].content[:_TOLD_CHARS]


class SmokePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All tests of a release. `min_tokens_per_s` is over all their output; 0: any speed will do."""

    tests: Annotated[tuple[SmokeTest, ...], msgspec.Meta(min_length=1, max_length=64)]
    min_tokens_per_s: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises LibraryError."""
        if len(data) > MAX_SMOKE_BYTES:
            raise _bad(f"they have {len(data)} bytes, {MAX_SMOKE_BYTES} are allowed")
        try:
            plan = msgspec.json.decode(data, type=cls)
            for test in plan.tests:
                re.compile(test.matches)
        except (msgspec.DecodeError, re.error, RecursionError, OverflowError) as error:
            raise _bad(str(error)[:_TOLD_CHARS]) from error
        return plan


BUILT_IN = SmokePlan(
    (SmokeTest("three tokens", (_Turn("user", "Hello"),), max_tokens=3),),
)


@dataclass(frozen=True, slots=True)
class SmokeReport:
    """How it went; `reason` is empty if well, and otherwise with the prompt that failed."""

    tokens_per_s: float
    reason: str = ""
    prompt: str = ""
    log: str = ""  # the end of what a dead worker said


class _FailedError(Exception):
    """A test's verdict."""


async def run_smoke(
    chat: ChatService, models: Models, trial: StoredModel, plan: SmokePlan
) -> SmokeReport:
    """Load `trial` and put it to the tests; it is unloaded in any case.

    Raises OverloadedError, MemoryFitError or EngineStoppedError where it could not be tried at all.
    """
    runner = _Runner(chat, trial)
    try:
        return await _verdict(runner, plan)
    finally:
        await models.unload(trial_place(trial.name))


async def _verdict(runner: "_Runner", plan: SmokePlan) -> SmokeReport:
    prompt = log = reason = ""
    try:
        await runner.load()
        for test in plan.tests:
            prompt = test.prompt
            await runner.run(test)
        prompt = ""
        _require_speed(runner.tokens_per_s, plan.min_tokens_per_s)
    except (OverloadedError, MemoryFitError, EngineStoppedError):
        raise
    except EngineError as error:
        reason, log = f"the engine failed: {error}", getattr(error, "last_words", "")
    except (ApplianceError, _FailedError) as error:
        reason = str(error)
    return SmokeReport(runner.tokens_per_s, reason, prompt, log)


class _Runner:
    """Asks one model on trial, and adds up how fast it answers."""

    def __init__(self, chat: ChatService, trial: StoredModel) -> None:
        self._chat = chat
        self._trial = trial
        self._is_embedding = False
        self._is_reranker = False
        self._tokens = 0
        self._decode_ns = 0

    @property
    def tokens_per_s(self) -> float:
        if not self._tokens:
            return 0.0
        return min(MAX_RATE, self._tokens * 1e9 / max(1, self._decode_ns))

    async def load(self) -> None:
        """Within the time that any model may take."""
        header = await asyncio.to_thread(self._trial.header)
        self._is_embedding, self._is_reranker = header.is_embedding, header.is_reranker
        if not self._is_embedding:
            request = JobRequest(model=self._trial.name.short, work=None)
            async with aclosing(self._chat.run(request, self._trial)) as events:
                async for _ in events:
                    pass

    async def run(self, test: SmokeTest) -> None:
        """Raises _FailedError with the reason, and what the engine raises."""
        try:
            async with asyncio.timeout(test.timeout_s):
                answer = await (self._embed(test) if self._is_embedding else self._answer(test))
        except TimeoutError:
            raise _FailedError(f"{test.name}: no answer within {test.timeout_s:g} s") from None
        for text in test.contains:
            if text not in answer:
                raise _FailedError(f"{test.name}: the answer {_told(answer)} lacks {_told(text)}")
        if test.matches and not await asyncio.to_thread(_is_match, test.matches, answer):
            raise _FailedError(
                f"{test.name}: the answer {_told(answer)} does not match {_told(test.matches)}"
            )

    async def _answer(self, test: SmokeTest) -> str:
        request = JobRequest(
            model=self._trial.name.short,
            work=tuple(Message(turn.role, turn.content) for turn in test.messages),
            options={"temperature": 0, "seed": 0, "num_predict": test.max_tokens},
            logprobs=0,
        )
        pieces = []
        async with aclosing(self._chat.run(request, self._trial)) as events:
            async for event in events:
                if isinstance(event, Text):
                    pieces.append(event.text)
                    _require_finite(test, [token.logprob for token in event.logprobs])
                elif isinstance(event, Done):
                    self._tokens += event.output_tokens
                    self._decode_ns += event.decode_ns
        return "".join(pieces)

    async def _embed(self, test: SmokeTest) -> str:
        if self._is_reranker:
            pair = (test.prompt,)
            wanted = ScoreRequest(model=self._trial.name.short, queries=pair, documents=pair)
            _require_finite(test, (await self._chat.score(wanted, self._trial)).values)
            return ""
        request = EmbedRequest(model=self._trial.name.short, inputs=(test.prompt,))
        found = await self._chat.embed(request, self._trial)
        for vector in found.vectors:
            _require_finite(test, vector)
        return ""


def _require_finite(test: SmokeTest, numbers: Sequence[float]) -> None:
    if not all(map(math.isfinite, numbers)):
        raise _FailedError(f"{test.name}: the model computes numbers that are not finite")


def _require_speed(rate: float, least: float) -> None:
    if rate < least:
        raise _FailedError(
            f"it is too slow for this box: {rate:.1f} tokens per second, {least:g} are required"
        )


def _is_match(pattern: str, text: str) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and text
            [sys.executable, "-I", "-c", _MATCH],
            input=msgspec.json.encode([pattern, text]),
            timeout=_MATCH_TIMEOUT_S,
            capture_output=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _told(text: str) -> str:
    return repr(text[:_TOLD_CHARS])


def _bad(why: str) -> LibraryError:
    return LibraryError(
        f"the release's smoke tests cannot be used: {why}", hint="its publisher must repair them"
    )
