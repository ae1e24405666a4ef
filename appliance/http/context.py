"""What a handler can reach: the typed keys of the application and of one request.

Knows the names only; `app.py` fills the application's, the middleware the request's.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

from aiohttp import web

from appliance.access.access import Access
from appliance.access.caller import Caller
from appliance.access.limits import Limits
from appliance.access.usage import Usage
from appliance.bundles.bundles import Bundles
from appliance.bundles.channels import Channels
from appliance.bundles.export import Exporter
from appliance.bundles.importing import Importer
from appliance.bundles.sticks import Sticks
from appliance.chat.job import ChatService
from appliance.config import Settings
from appliance.device.device import Device
from appliance.discovery.discovery import Discovery
from appliance.http.guard import Guard
from appliance.http.https import Tls
from appliance.http.live_room import Live
from appliance.http.meter import TokenMeter
from appliance.incidents import Incidents
from appliance.leds import Leds
from appliance.library.library import Library
from appliance.logs import Recent
from appliance.metrics import Metrics
from appliance.models.manager import Models
from appliance.self_test import SelfTest
from appliance.transfer.transfers import Transfers
from appliance.trust.enrolling import Enroller
from appliance.trust.gate import Gate
from appliance.trust.known_time import KnownTime
from appliance.trust.repositories import Repositories


@dataclass(slots=True)
class ServiceState:
    """Where the service is in its life. Owned and changed by `service.py`, read by handlers."""

    ready: bool = False  # the listener is open and the library was read
    draining: bool = False  # stopping: what runs may finish, nothing new is taken
    started_at: float = field(default_factory=time.monotonic)  # time.monotonic()
    active: int = 0  # requests that are being handled
    port: int = 0  # that the listener has, once it is open
    _finished: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Count one request for as long as the context is held."""
        self.active += 1
        self._finished.clear()
        try:
            yield
        finally:
            self.active -= 1
            if self.active == 0:
                self._finished.set()

    async def finished(self) -> None:
        """Wait until no request is being handled."""
        if self.active:
            await self._finished.wait()


SELF_TEST = web.AppKey("SELF_TEST", SelfTest)
SETTINGS = web.AppKey("SETTINGS", Settings)
LIBRARY = web.AppKey("LIBRARY", Library)
MODELS = web.AppKey("MODELS", Models)
CHAT = web.AppKey("CHAT", ChatService)
TRANSFERS = web.AppKey("TRANSFERS", Transfers)
REPOSITORIES = web.AppKey("REPOSITORIES", Repositories)
ENROLLER = web.AppKey("ENROLLER", Enroller)
GATE = web.AppKey("GATE", Gate)
BUNDLES = web.AppKey("BUNDLES", Bundles)
IMPORTER = web.AppKey("IMPORTER", Importer)
STICKS = web.AppKey("STICKS", Sticks)
EXPORTER = web.AppKey("EXPORTER", Exporter)
CHANNELS = web.AppKey("CHANNELS", Channels)
DISCOVERY = web.AppKey("DISCOVERY", Discovery)
TLS = web.AppKey("TLS", Tls)
STATE = web.AppKey("STATE", ServiceState)
GUARD = web.AppKey("GUARD", Guard)
METER = web.AppKey("METER", TokenMeter)
LIVE = web.AppKey("LIVE", Live)
ACCESS = web.AppKey("ACCESS", Access)
LIMITS = web.AppKey("LIMITS", Limits)
USAGE = web.AppKey("USAGE", Usage)
METRICS = web.AppKey("METRICS", Metrics)
DEVICE = web.AppKey("DEVICE", Device)
RECENT = web.AppKey("RECENT", Recent)
KNOWN_TIME = web.AppKey("KNOWN_TIME", KnownTime)
LEDS = web.AppKey("LEDS", Leds)
INCIDENTS = web.AppKey("INCIDENTS", Incidents)

CALLER = web.RequestKey("CALLER", Caller)
FIELDS = web.RequestKey("FIELDS", dict[str, Any])  # what the log line says about the request
FAILURE = web.RequestKey("FAILURE", Exception)  # what broke a stream that had already started
REQUEST_ID = web.RequestKey("REQUEST_ID", str)  # of requests in Anthropic's dialect
IS_GONE = web.RequestKey("IS_GONE", bool)  # the client left or stopped reading in mid-stream


@cache
def version() -> str:
    """The release that is running."""
    return metadata.version("hearth")
