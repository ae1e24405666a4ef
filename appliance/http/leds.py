"""The LED of the board: which box is this, and what it shows of the models and the conditions."""

import asyncio
import logging
from contextlib import suppress
from typing import Annotated

import msgspec
from aiohttp import web

from appliance.errors import ApplianceError, UnsupportedError
from appliance.http.body import read_json
from appliance.http.context import LEDS, MODELS
from appliance.http.doctor import conditions_of
from appliance.http.ollama import json_response
from appliance.leds import SETTLE_S, Leds, Show
from appliance.models.manager import Models

log = logging.getLogger("hearth.leds")

LOOK_S = 3600.0  # between two looks at the conditions while nothing happens
AGAIN_S = 60.0  # between two of them in any case


class IdentifyBody(msgspec.Struct, kw_only=True):
    """POST /hearth/v1/identify."""

    seconds: Annotated[float, msgspec.Meta(ge=1, le=600)] = 60.0


async def identify(request: web.Request) -> web.StreamResponse:
    """POST /hearth/v1/identify: the LED flickers, so that somebody finds this box among others."""
    body = await read_json(request, IdentifyBody)
    leds = request.app[LEDS]
    if not leds.name:
        raise UnsupportedError(
            "this box has no LED that the service may use",
            hint="name one of /sys/class/leds with the setting led, and give its group hearth the"
            " right to write (71-hearth-leds.rules)",
        )
    leds.identify(body.seconds)
    return json_response({"led": leds.name, "seconds": body.seconds})


async def attend_forever(app: web.Application) -> None:
    """Tell the LED when models work, and when a condition needs somebody."""
    leds, models = app[LEDS], app[MODELS]
    if leds.name:
        async with asyncio.TaskGroup() as group:
            group.create_task(_follow_work(leds, models))
            group.create_task(_follow_conditions(app, models))


async def _follow_work(leds: Leds, models: Models) -> None:
    while True:
        await models.wait_generating()
        leds.set(Show.WORKING, True)
        await models.wait_quiet()
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await models.wait_generating()
                continue
        leds.set(Show.WORKING, False)


async def _follow_conditions(app: web.Application, models: Models) -> None:
    """They are looked at when something was done, and once an hour; who asks for them (doctor,
    status, the page) tells the LED as well."""
    while True:
        try:
            await conditions_of(app)
        except (OSError, ApplianceError) as error:
            log.warning("the conditions of the box cannot be read: %s", error)
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await models.wait_generating()
                await models.wait_quiet()
        await asyncio.sleep(AGAIN_S)
