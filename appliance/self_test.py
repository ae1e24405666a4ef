"""The box tries itself: ten minutes after its first start, after each update, and once a week.

The built-in model must say what it always says, 64 MiB of memory keep what is written, a stored
blob still be what its name says, the clock be possible, and the box hear its own announcement. What
fails is a condition until a later test passes; that all passed is a fact of `hearth status`.

Of the model its answer to one question counts, greedily, as text. Numbers differ between kernels,
since AVX2 and NEON add up in other orders, and so would their digest: a false alarm. In this answer
the best token is ahead of the second by 4 nats at each step (a test measures it), which no rounding
turns over; weights or kernels that are broken do not get through it.
"""

import asyncio
import logging
import mmap
import os
import random
import time
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec

from appliance.bundles.smoke import SmokePlan, run_smoke
from appliance.care import Care
from appliance.chat.job import ChatService
from appliance.conditions import Condition, Severity
from appliance.config import MIB, Settings
from appliance.discovery.browse import look_around
from appliance.discovery.discovery import Discovery, Word
from appliance.errors import ApplianceError, LibraryError, MemoryFitError, OverloadedError
from appliance.hardware import read_memory
from appliance.library import builtin
from appliance.library.blobs import atomic_write
from appliance.library.library import Library
from appliance.library.manifest import Digest
from appliance.library.scrub import verify
from appliance.models.manager import Models
from appliance.trust.clock import CLOCK_CURES, DAY_S, ClockState, judge_clock
from appliance.trust.repositories import Repositories
from engine.errors import EngineStoppedError

log = logging.getLogger("hearth.self_test")

FILE = "self-test.json"
PERIOD_S = 7.0 * DAY_S
FIRST_S = 600.0  # after a start: whoever has just switched it on comes first
LOOK_S = DAY_S  # how long it sleeps at most: clocks jump
MEMORY_BYTES = 64 * MIB
SAMPLE_BYTES = 512 * MIB  # larger blobs are left to the weekly scrub
BROWSE_S = 5.0

QUESTION = "Who are you?"
ANSWER = (
    "I am the built-in model of Hearth, a tiny language model that answers questions about this"
    " box. For everything else, pull a bigger model."
)
_TEST = {"name": "the built-in model", "messages": [{"role": "user", "content": QUESTION}]}
PLAN = msgspec.convert({"tests": [{**_TEST, "contains": [ANSWER]}]}, SmokePlan)

Outcome = Literal["passed", "failed", "skipped"]
_CURES = {
    "model": "restart the service; if it comes again, get the engine's driver or the release anew",
    "memory": "the memory is failing: test it (memtest86+), and replace it",
    "store": "run `hearth scrub --repair`; if it comes back, the disk is failing",
    "discovery": "let UDP port 5353 in, if a firewall runs here, and restart the service",
}


class Check(msgspec.Struct, frozen=True):
    name: str
    outcome: Outcome
    text: str
    cure: str = ""


class Report(msgspec.Struct, frozen=True):
    """One test. `at` in seconds since 1970."""

    version: str
    at: float
    checks: tuple[Check, ...]

    @property
    def has_passed(self) -> bool:
        return all(check.outcome != "failed" for check in self.checks)


class SelfTest:
    """Run `run_forever` as a task."""

    def __init__(
        self,
        settings: Settings,
        library: Library,
        models: Models,
        chat: ChatService,
        care: Care,
        repositories: Repositories,
        discovery: Discovery,
    ) -> None:
        self.last: Report | None = None
        self._settings = settings
        self._library = library
        self._models = models
        self._chat = chat
        self._care = care
        self._repositories = repositories
        self._discovery = discovery
        self._file = settings.state / FILE
        self._version = metadata.version("hearth")
        self._one = asyncio.Lock()

    async def run_forever(self) -> None:
        self.last = await asyncio.to_thread(_load, self._file)
        await asyncio.sleep(FIRST_S)
        while True:
            if (wait_s := self._wait_s()) <= 0:
                await self._models.wait_quiet()
                await self.run()
            else:
                await asyncio.sleep(min(wait_s, LOOK_S))

    def conditions(self) -> list[Condition]:
        """What failed in the last test, but for the clock: that is told anyway."""
        checks = self.last.checks if self.last else ()
        return [
            Condition(
                f"self_test_{check.name}",
                f"self-test: {check.name}",
                check.text,
                Severity.WARNING,
                f"{check.cure}; then `hearth doctor --self-test`",
            )
            for check in checks
            if check.outcome == "failed" and check.name != "clock"
        ]

    async def run(self) -> Report:
        """All checks, one after the other, one test at a time."""
        async with self._one:
            checks = [
                await self._model(),
                await asyncio.to_thread(check_memory, MEMORY_BYTES),
                await self._store(),
                await asyncio.to_thread(self._clock),
                await self._announcement(),
            ]
            self.last = Report(self._version, time.time(), tuple(checks))
            for check in checks:
                level = logging.WARNING if check.outcome == "failed" else logging.INFO
                log.log(level, "self-test %s %s: %s", check.name, check.outcome, check.text)
            try:
                await asyncio.to_thread(_save, self._file, self.last)
            except LibraryError as error:
                log.warning("the self-test's report is not kept: %s", error)
            return self.last

    def _wait_s(self) -> float:
        last = self.last
        if last is None or last.version != self._version:
            return 0.0
        age_s = time.time() - last.at
        return PERIOD_S - age_s if age_s >= 0 else 0.0

    async def _model(self) -> Check:
        if why := await self._why_no_model():
            return Check("model", "skipped", why)
        stored = await asyncio.to_thread(self._library.get, builtin.NAME)
        try:
            report = await run_smoke(self._chat, self._models, stored, PLAN)
        except (OverloadedError, MemoryFitError, EngineStoppedError) as error:
            return Check("model", "skipped", f"it could not be tried now: {error}")
        if report.reason:
            return Check("model", "failed", report.reason, _CURES["model"])
        return Check("model", "passed", f"it answers as always, {report.tokens_per_s:.0f} tokens/s")

    async def _why_no_model(self) -> str:
        if self._settings.engine == "echo":
            return "the echo engine runs no model"
        if self._models.safe_mode:
            return "no model is loaded in safe mode"
        if not await asyncio.to_thread(_is_ours, self._library):
            return "the built-in model was removed or changed"
        stored = await asyncio.to_thread(self._library.get, builtin.NAME)
        plan = await self._models.plan(stored, {})
        if plan.refusal or plan.leaving:
            return plan.refusal or "there is no room for it beside the models that are loaded"
        return ""

    async def _store(self) -> Check:
        """One blob, by chance; what is wrong with it is set aside and repaired as ever."""
        try:
            digest = await asyncio.to_thread(_any_blob, self._library)
            if digest is None:
                return Check("store", "skipped", "there is no blob of up to 512 MiB")
            reason = await asyncio.to_thread(_read, self._library, digest)
        except (OSError, ApplianceError) as error:
            return Check("store", "failed", f"it cannot be read: {error}", _CURES["store"])
        if reason:
            self._care.check_now([digest])
            return Check("store", "failed", f"{digest}: {reason}", _CURES["store"])
        return Check("store", "passed", f"{digest} is what its name says")

    def _clock(self) -> Check:
        """Blocking. A clock that is wrong is a condition of its own, with the same cure."""
        state = judge_clock(self._repositories.read_clock()).state
        is_wrong = state in {ClockState.BEHIND, ClockState.SUSPECT}
        outcome: Outcome = "failed" if is_wrong else "passed"
        return Check("clock", outcome, f"the clock is {state}", CLOCK_CURES[state])

    async def _announcement(self) -> Check:
        status = self._discovery.status()
        if status.word is not Word.ON or not status.addresses:
            return Check("discovery", "skipped", "the box is not announced just now")
        own = self._discovery.box.host_name.rstrip(".").lower()
        try:
            found = await look_around(BROWSE_S, lambda rows: any(r.key[0] == own for r in rows))
        except OSError as error:
            text = f"it cannot be asked: {error}"
            return Check("discovery", "failed", text, _CURES["discovery"])
        if any(row.key[0] == own for row in found):
            return Check("discovery", "passed", f"{own} is heard on the network")
        text = f"nobody answers for {own} within {BROWSE_S:g} s"
        return Check("discovery", "failed", text, _CURES["discovery"])


def check_memory(size: int) -> Check:
    """Write noise that differs from MiB to MiB into `size` bytes and read it, then the same with
    each bit turned over. Blocking."""
    if read_memory().available < 4 * size:
        return Check("memory", "skipped", "there is too little free memory to try some")
    pattern = os.urandom(MIB)
    turned = pattern.translate(bytes(range(255, -1, -1)))
    with mmap.mmap(-1, size) as memory:
        for block in (pattern, turned):
            for at in range(0, size, MIB):
                memory[at : at + MIB] = _shifted(block, at // MIB)
            for at in range(0, size, MIB):
                if memory[at : at + MIB] != _shifted(block, at // MIB):
                    text = f"memory lost what was written, in MiB {at // MIB} of {size // MIB}"
                    return Check("memory", "failed", text, _CURES["memory"])
    return Check("memory", "passed", f"{size // MIB} MiB keep what is written")


def _shifted(block: bytes, by: int) -> bytes:
    return block[by:] + block[:by]


def _is_ours(library: Library) -> bool:
    if not library.has(builtin.NAME):
        return False
    return Digest.of(library.read_manifest(builtin.NAME)) == builtin.manifest_digest()


def _any_blob(library: Library) -> Digest | None:
    blobs = library.blobs
    small = [d for d in library.needed() if blobs.has(d) and blobs.size(d) <= SAMPLE_BYTES]
    return random.choice(small) if small else None


def _read(library: Library, digest: Digest) -> str:
    """What is wrong with a blob, or nothing."""
    pieces = verify(library, digest)
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return str(end.value)


def _load(file: Path) -> Report | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError):
        return None


def _save(file: Path, report: Report) -> None:
    atomic_write(file, msgspec.json.encode(report))
