"""The check of everything that is stored, as a stream of what it finds and repairs (Hearth API)."""

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from aiohttp import web

from appliance.errors import ApplianceError
from appliance.http.body import read_json
from appliance.http.context import LIBRARY, TRANSFERS
from appliance.http.streams import NDJSON, stream
from appliance.library.library import Library
from appliance.library.scrub import Checked, Damage
from appliance.library.scrub import scrub as scrub_library
from appliance.threads import in_thread, yield_the_disk
from appliance.transfer.repair import Repaired, Repairs


class ScrubBody(msgspec.Struct, kw_only=True):
    """POST /hearth/v1/scrub."""

    repair: bool | None = None  # None: what came from a registry, if it can be reached
    rate: Annotated[int, msgspec.Meta(ge=0)] = 0  # bytes per second, 0: as fast as it goes


async def scrub(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/scrub: how far it is, each damaged blob and what became of it, and at the
    end how many were damaged and how many are whole again.

    Leaving the stream stops it.
    """
    body = await read_json(request, ScrubBody)
    steps = in_thread(_steps(request.app[LIBRARY], body.rate))
    repairs = request.app[TRANSFERS].repairs if body.repair is not False else None
    documents = _documents(steps, repairs, is_asked_for=body.repair is True)
    return await stream(request, documents, NDJSON)


def _steps(library: Library, rate: int) -> Generator[Checked | Damage, None, None]:
    """Who names a rate has time: every other reader of the disk goes first."""
    yield_the_disk(on=rate > 0)
    try:
        yield from scrub_library(library, rate)
    finally:
        yield_the_disk(on=False)


async def _documents(
    steps: AsyncGenerator[Checked | Damage, None], repairs: Repairs | None, *, is_asked_for: bool
) -> AsyncGenerator[bytes, None]:
    damaged = repaired = 0
    async with aclosing(steps):
        async for step in steps:
            yield msgspec.json.encode(_document(step))
            if isinstance(step, Checked):
                continue
            damaged += 1
            if repairs is None:
                continue
            try:
                done = await repairs.repair(step, is_asked_for=is_asked_for)
            except ApplianceError as error:
                yield msgspec.json.encode(_unrepaired(step, error))
            else:
                repaired += 1
                yield msgspec.json.encode(_repaired(done))
    end = {"status": "success", "damaged": damaged, "repaired": repaired}
    yield msgspec.json.encode(end)


def _repaired(done: Repaired) -> dict[str, Any]:
    return {
        "status": "repaired",
        "digest": str(done.digest),
        "fetched": done.fetched_bytes,
        "source": done.source,
    }


def _unrepaired(damage: Damage, error: ApplianceError) -> dict[str, Any]:
    return {
        "status": "not repaired",
        "digest": str(damage.digest),
        "problem": str(error),
        "hint": error.hint,
    }


def _document(step: Checked | Damage) -> dict[str, Any]:
    match step:
        case Checked():
            return {"status": "checking", "completed": step.completed, "total": step.total}
        case Damage():
            return {
                "status": "damaged",
                "digest": str(step.digest),
                "reason": step.reason,
                "models": [name.short for name in step.models],
            }
