"""Looking around once, for a command: open the links, ask, listen for a moment, close.

Needs no service and no settings. Beside a program that keeps port 5353 for itself it asks from a
port of its own, and hears what is answered to it alone.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from appliance.discovery.alive import ask_all
from appliance.discovery.heard import Heard, Kind
from appliance.discovery.lans import Lan, lans_of
from appliance.discovery.neighbours import BROWSED, Neighbour, Table
from appliance.network import Interface, is_on_link, read_interfaces

if TYPE_CHECKING:
    from appliance.discovery.mdns import Link

ASK_AGAIN_S = 0.5
SETTLE_S = 0.2  # for the rest of what somebody says, once the one that was looked for has spoken
EVERY = ("0.0.0.0", "::")  # noqa: S104 - of all families, nothing is bound
MAX_QUESTIONS = 16


def on_link(records: Sequence[Heard], interface: str, known: Sequence[Interface]) -> list[Heard]:
    """`records` without addresses that are not on the link of `interface`: whoever announces one
    wants us to connect to somebody else."""
    return [
        record
        for record in records
        if record.kind is not Kind.ADDRESS or is_on_link(record.address, interface, known)
    ]


def questions(table: Table, lan: str) -> list[tuple[str, Kind]]:
    """What to ask on a link: for services, and for what is missing of those that are known."""
    missing = list(table.incomplete(lan))[:MAX_QUESTIONS]
    return [*((type_, Kind.POINTER) for type_ in BROWSED), *missing]


async def look_around(
    seconds: float, is_enough: Callable[[list[Neighbour]], bool] = lambda _: False
) -> list[Neighbour]:
    """The model servers that answer within `seconds`, or once `is_enough` holds of them, each asked
    whether it is alive. Raises OSError if no link can be opened."""
    from appliance.discovery.mdns import FAILURES, Link

    interfaces = await asyncio.to_thread(read_interfaces)
    table, heard = Table(), asyncio.Event()
    links: list[Link] = []

    async def open_link(lan: Lan, *, is_one_shot: bool) -> Link:
        def hear(records: list[Heard]) -> None:
            near = on_link(records, lan.interface, interfaces)
            if table.hear(lan.interface, near, time.monotonic()) and is_enough(table.neighbours()):
                heard.set()

        return await Link.open(lan, hear, is_one_shot=is_one_shot)

    try:
        for lan in lans_of(interfaces, (), EVERY):
            try:
                links.append(await open_link(lan, is_one_shot=False))
            except FAILURES:
                links.append(await open_link(lan, is_one_shot=True))
        await _listen(links, table, heard, seconds)
    finally:
        await asyncio.gather(*(link.close() for link in links))
    rows = table.neighbours(clock_s=time.time() - time.monotonic())
    for row, is_alive, version in await ask_all(row for row in rows if row.is_reachable):
        table.check(row.key, is_alive, version)
    return table.neighbours(clock_s=time.time() - time.monotonic())


async def _listen(links: "list[Link]", table: Table, heard: asyncio.Event, seconds: float) -> None:
    """Ask at once and again, for those that were not heard or said too little."""
    end = time.monotonic() + seconds
    while (left_s := end - time.monotonic()) > 0 and links and not heard.is_set():
        for link in links:
            link.ask(questions(table, link.lan.interface))
        with suppress(TimeoutError):
            async with asyncio.timeout(min(left_s, ASK_AGAIN_S)):
                await heard.wait()
    if heard.is_set():
        await asyncio.sleep(SETTLE_S)
