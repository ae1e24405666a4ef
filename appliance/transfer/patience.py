"""How long to wait for a registry and how often to ask again."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Self, TypeVar

from appliance.config import Settings
from appliance.errors import RegistryUnreachableError

log = logging.getLogger("hearth.transfer")

DRIP_BYTES = 64 << 10  # the least that a server must send within the time of a stall

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """Bounds of one transfer. Waits grow by two from `first_wait_s`, with jitter."""

    tries: int = 6
    stall_s: float = 30.0  # for the next bytes, also for the answer to begin
    total_s: float = 86_400.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            tries=settings.transfer_tries,
            stall_s=settings.transfer_stall_s,
            total_s=settings.transfer_timeout_s,
        )

    def wait_s(self, failures: int, wish_s: float = 0.0) -> float:
        """How long to wait after that many failures; a registry's wish is honoured in bounds.

        Between half and all of the step, so that many boxes do not come back at once.
        """
        step_s = min(self.first_wait_s * 2.0 ** min(failures - 1, 20), self.longest_wait_s)
        wait_s = step_s * random.uniform(0.5, 1.0)
        return min(max(wait_s, wish_s), self.longest_wait_s)

    def for_answers(self) -> Self:
        """For requests that a person waits for without seeing anything move."""
        return replace(self, tries=min(self.tries, 3))

    async def insist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of `attempt`, asked again while the registry is unreachable."""
        failures = 0
        while True:
            try:
                return await attempt()
            except RegistryUnreachableError as error:
                failures += 1
                await self.after(failures, error)

    async def after(self, failures: int, error: RegistryUnreachableError) -> None:
        """Wait before the next try; raises `error` when that was the last one."""
        if failures >= self.tries:
            raise error
        log.info("registry failed, asking again failures=%d reason=%s", failures, error)
        await asyncio.sleep(self.wait_s(failures, error.retry_after_s))


class DripWatch:
    """Tells a body that comes a byte now and then from one that comes slowly. That nothing at all
    comes is the session's to notice."""

    def __init__(self, stall_s: float, source: object) -> None:
        """source  whom to blame"""
        self._stall_s = stall_s
        self._source = source
        self._now = asyncio.get_running_loop().time
        self._came, self._since = 0, self._now()

    def came(self, size: int) -> None:
        """Raises RegistryUnreachableError when less than DRIP_BYTES came in the time of a stall."""
        self._came += size
        if self._came >= DRIP_BYTES:
            self._came, self._since = 0, self._now()
        elif self._now() - self._since > self._stall_s:
            raise RegistryUnreachableError(
                f"{self._source} sent only {self._came} bytes in {self._stall_s:g} s"
            )

    def rested(self, seconds: float) -> None:
        """We did not read for so long, which is our own wish and not the server's fault."""
        self._since += seconds
